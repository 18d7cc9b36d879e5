"""Overfitting the validation set: roles, the hyperparameter step, the end, and the cost."""

import math
from types import SimpleNamespace

import pytest
import torch

from bestresponse._errors import InputError
from bestresponse.apps.experiments.overfit import Overfit
from bestresponse.apps.experiments.overfit._cost import _peak, cost
from bestresponse.apps.experiments.overfit._run import (
    LEAST,
    MOST,
    RECIPES,
    Pace,
    Roles,
    model_of,
    overfit,
    plain,
    tuned,
)
from bestresponse.data import load

LINEAR = RECIPES["linear"]


def quiet(_):
    """Nobody watches."""


@pytest.fixture(scope="module")
def roles():
    return Roles.of(load("digits"), 20, 200, seed=0)


def test_no_image_has_two_roles(roles):
    rows = [part.split.indices for part in (roles.train, roles.validation, roles.test)]
    assert [len(each) for each in rows] == [20, 20, 200]
    assert len(torch.cat(rows).unique()) == 240


def test_a_hyperparameter_step_is_that_of_the_identity(roles):
    """dL_V/dλ = -v·e^λ·w with v = dL_V/dw, and RMSprop's first step is ten times its rate."""
    pace = Pace(interval=1, lr=0.01, most=100)
    training, decay = tuned(LINEAR, roles, pace, seed=0)
    training.advance(LINEAR.warmup, lambda: True)
    leaves = sorted(decay.parameters(), key=lambda leaf: -leaf.ndim)
    assert all(torch.equal(leaf, torch.full_like(leaf, math.log(LINEAR.decay))) for leaf in leaves)
    training.advance(LINEAR.warmup + 1, lambda: True)
    weight, bias = (p.detach() for p in training.model.parameters())
    x, y = roles.validation.batch(torch.arange(20))
    x = x.flatten(1)
    slope = ((x @ weight.T + bias).softmax(1) - torch.eye(10)[y]) / 20
    for leaf, w, v in zip(leaves, (weight, bias), (slope.T @ x, slope.sum(0)), strict=True):
        hypergradient = -v * LINEAR.decay * w
        expected = -0.01 * hypergradient / (0.1 * hypergradient.abs() + 1e-8)
        torch.testing.assert_close(leaf.detach() - math.log(LINEAR.decay), expected,
                                   atol=2e-3, rtol=1e-2)  # fmt: skip
        assert expected.abs().max() > 0.09


def test_both_are_learned_and_only_then_it_ends(roles):
    pace = Pace(interval=2, lr=0.5, most=2000)
    found = overfit(LINEAR, roles, pace, 0, quiet)
    assert found["reached"] and found["train"] == found["validation"] == 1.0
    assert found["before"]["validation"] < 1.0 and found["hyperparameters"] == 650
    again, _ = tuned(LINEAR, roles, pace, seed=0)
    again.advance(found["step"], lambda: True)
    x, y = roles.validation.batch(torch.arange(20))
    assert bool((again.model(x).argmax(1) == y).all())
    assert found == overfit(LINEAR, roles, pace, 0, quiet)
    early = overfit(LINEAR, roles, Pace(2, 0.5, LINEAR.warmup + 3), 0, quiet)
    assert not early["reached"] and early["step"] == LINEAR.warmup + 2


def test_decays_stay_in_range_and_are_all_counted(roles):
    found = overfit(LINEAR, roles, Pace(2, 20.0, 40), 0, quiet)
    shares, edges = found["decays"]["shares"], found["decays"]["edges"]
    assert sum(shares) == pytest.approx(1) and len(edges) == len(shares) + 1
    assert 10 ** edges[0] == pytest.approx(LEAST) and 10 ** edges[-1] == pytest.approx(MOST)
    assert shares[0] > 0.05 and shares[-1] > 0.05  # such steps go to both ends


def test_evaluation_sees_the_statistics_of_the_training_set():
    """All training examples are in each batch: an average over steps would only lag behind."""
    roles = Roles.of(load("digits"), 20, 20, seed=0)
    model = model_of(RECIPES["resnet44"], roles, 0)
    x, _ = roles.train.batch(torch.arange(20))
    with torch.no_grad():
        model.train()(x)
        inside = model[0](x)
    first = next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    torch.testing.assert_close(first.running_mean, inside.mean((0, 2, 3)))
    torch.testing.assert_close(first.running_var, inside.transpose(0, 1).flatten(1).var(1))


def test_plain_training_is_the_same_but_for_tuning(roles):
    one, (other, _) = plain(LINEAR, roles, 0), tuned(LINEAR, roles, Pace(1, 0.1, 9), 0)
    for training in (one, other):
        training.advance(LINEAR.warmup, lambda: True)
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_peak_memory_is_that_of_weights_slopes_and_moments():
    """Plain: weight, slope and Adam's two. Tuned: also λ, its slope, RMSprop's mean, and more."""
    count, asked = 598_282, SimpleNamespace(shape=(3, 16, 16), classes=10, train=range(10))
    plain_bytes, tuned_bytes = (_peak("mlp", kind, asked) for kind in ("plain", "tuned"))
    if plain_bytes is None:
        pytest.skip("The system does not tell.")
    assert 15 < plain_bytes / count < 30 and 1.3 < tuned_bytes / plain_bytes < 4


def test_cost_is_of_both(roles):
    found = cost("linear", roles, Pace(2, 0.1, 100), rounds=2)
    assert found["time"] == found["seconds"][1] / found["seconds"][0] > 1
    assert found["memory"] is None  # of a few pages


@pytest.mark.parametrize(("wrong", "says"), [
    ({"models": ()}, "--models is empty; give different ones of linear, mlp, alexnet"),
    ({"models": ("linear", "linear")}, "--models is linear linear"),
    ({"models": ("vgg",)}, "--models is vgg"),
    ({"images": 0}, "--images is 0"),
    ({"test": -1}, "--test is -1"),
    ({"interval": 0}, "--interval is 0"),
    ({"hyper_lr": 0.0}, "--hyper-lr is 0"),
    ({"most_steps": 0}, "--most-steps is 0"),
    ({"rounds": 0}, "--rounds is 0"),
    ({"seeds": ()}, "--seeds is empty"),
    ({"images": 1000}, "1797"),
    ({"models": ("alexnet",)}, "--model alexnet needs images of at least 15×15"),
])  # fmt: skip
def test_what_cannot_be_done_is_refused_before_anything_is(wrong, says, tmp_path):
    with pytest.raises(InputError, match=says):
        Overfit(out=tmp_path / "run", **wrong).run()
    assert not list(tmp_path.iterdir())
