"""What hypernetworks refuse, in a sentence."""

import pytest
import torch
from torch import nn

import bestresponse as br
from bestresponse import InputError
from bestresponse.response import (
    MLP,
    Affine,
    Factorized,
    Global,
    HyperNetwork,
    Local,
    Simplified,
    Uniform,
)
from hypernetworks import XV, Decay, Ridge, X, Y


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"samples": 0}, "samples=0 learns nothing"),
        ({"form": MLP(), "centred": True}, "A centred MLP would have to be learned anew"),
        ({"sampling": Simplified(), "centred": True}, "cannot be learned under Simplified"),
        ({"sampling": Global(), "centred": True}, "cannot be learned under Global"),
        ({"sampling": Local((0.5, 0.5))}, "sigma has 2 numbers but there are 1"),
        ({"sampling": Uniform((0.0, 0.0), 1.0)}, "low has 2 numbers but there are 1"),
        ({"std": 0.0}, "std=0.0 must be positive"),
        ({"form": "affine"}, "form is 'affine'; give a recipe such as"),
        ({"form": Affine}, "give a recipe such as"),
        ({"sampling": 0.5}, "sampling is 0.5; give a recipe such as"),
    ],
)
def test_settings_that_do_not_fit(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        Ridge(0.0).network(**settings)


def test_centred_is_what_means_something():
    forms, samplings = (Affine(), Factorized(2), MLP()), (Local(), Simplified(), Global())
    found = [[Ridge(0.0).network(form=f, sampling=s).centred for s in samplings] for f in forms]
    assert found == [[True, False, False], [True, False, False], [False, False, False]]


def test_points_and_hyperparameters_of_another_shape():
    net = Ridge(0.0).network()
    for points in (torch.zeros(3), torch.zeros(3, 2), torch.zeros(0, 1)):
        with pytest.raises(InputError, match=r"give \(n, 1\), a row for each point"):
            net.outer_losses(points)
    with pytest.raises(InputError, match=r"no hyperparameter 'logs' of shape \(2,\)"):
        net.best_response({"logs": torch.zeros(2)})
    with pytest.raises(InputError, match="no hyperparameter 'decay'"):
        net.best_response({"decay": torch.zeros(1)})


def test_a_hyperparameter_that_no_loss_reads():
    ridge = Ridge(0.0)
    idle = nn.Linear(1, 1)
    net = HyperNetwork(ridge.model, [ridge.hyper, idle], ridge.inner, ridge.outer)
    net.outer_loss()  # nothing is known yet
    net.inner_loss()
    with pytest.raises(InputError, match=r"'1.weight', '1.bias' is read by neither loss"):
        net.outer_loss()


def test_a_hyperparameter_without_a_derivative_is_read():
    model, hyper = nn.Linear(5, 1), br.hyper.Bounded(keep=(br.hyper.Integers(0, 5), 3))

    def inner():
        mask = (torch.arange(5) < hyper.keep).double()
        return (model(X * mask)[:, 0] - Y).square().mean()

    net = HyperNetwork(model, hyper, inner, lambda: model(XV).square().mean())
    net.inner_loss().backward()
    net.outer_loss().backward()


def test_a_weight_that_the_inner_loss_does_not_use():
    ridge, other = Ridge(0.0), nn.Linear(1, 1, bias=False)
    net = HyperNetwork([ridge.model, other], ridge.hyper, ridge.inner, ridge.outer)
    with pytest.raises(InputError, match=r"does not use the parameter '1\.weight'"):
        net.inner_loss()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda loss: loss * (1 + 0 * loss.item()),
        lambda loss: loss if loss > 0 else -loss,
        lambda loss: torch.zeros(()).add_(loss),
    ],
)
def test_what_cannot_be_batched_runs_with_one_sample(spoil):
    ridge = Ridge(0.0)
    inner = lambda: spoil(ridge.inner())  # noqa: E731
    net = HyperNetwork(ridge.model, ridge.hyper, inner, ridge.outer)
    with pytest.raises(InputError, match="inner closure cannot run at several hyperparameters"):
        net.inner_loss()
    HyperNetwork(ridge.model, ridge.hyper, inner, ridge.outer, samples=1).inner_loss().backward()


def test_a_mistake_in_the_closure_is_shown_as_it_is():
    ridge = Ridge(0.0)
    net = HyperNetwork(ridge.model, ridge.hyper, lambda: ridge.model(X[:, :3]).sum(), ridge.outer)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        net.inner_loss()


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (lambda model: model(X), r"returned a tensor of shape \(40, 1\)"),
        (lambda model: 3.0, "returned float"),
        (lambda model: model(X).sum().detach(), "returned a detached loss"),
    ],
)
def test_a_closure_without_a_loss(loss, sentence):
    ridge = Ridge(0.0)
    net = HyperNetwork(ridge.model, ridge.hyper, lambda: loss(ridge.model), ridge.outer)
    with pytest.raises(InputError, match=sentence):
        net.inner_loss()


def test_running_statistics_are_refused_and_batch_statistics_are_not():
    batch = torch.randn(8, 5)
    for tracking in (True, False):
        model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=tracking))
        hyper = Decay(0.0)
        inner = lambda: (model(batch) - 1).square().mean() * hyper.logs.exp().sum()  # noqa: B023, E731
        net = HyperNetwork(model, hyper, inner, lambda: model(batch).square().mean())  # noqa: B023
        if tracking:
            with pytest.raises(InputError, match="BatchNorm1d would keep running statistics"):
                net.inner_loss()
            model.eval()
        net.inner_loss().backward()
        net.outer_loss().backward()


def test_one_tensor_in_params_and_in_hyper():
    model = nn.Linear(1, 1)
    with pytest.raises(InputError, match="'weight', 'bias' is in params and in hyper"):
        HyperNetwork(model, model, lambda: 0.0, lambda: 0.0)
