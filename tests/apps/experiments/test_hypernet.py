"""Hypernetwork experiments: penalties, retraining and searches against closed forms."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from bestresponse import response
from bestresponse._errors import InputError
from bestresponse.apps.experiments.hypernet import _global_fit as whole
from bestresponse.apps.experiments.hypernet import _predict_report as predict_report
from bestresponse.apps.experiments.hypernet._data import in_turns, load_roles
from bestresponse.apps.experiments.hypernet._local_fit import VARIANTS, Pace, followed
from bestresponse.apps.experiments.hypernet._many_fit import WAYS, Course, tuned
from bestresponse.apps.experiments.hypernet._predict_fit import (
    Given,
    Learning,
    gaussian,
    hypernetted,
    judged,
    minimum,
    pairs,
)
from bestresponse.apps.experiments.hypernet._problem import Elementary
from bestresponse.apps.experiments.hypernet._retrain import Retraining, cross_validated, losses
from bestresponse.apps.experiments.hypernet._search import (
    Box,
    at_random,
    bayesian,
    expected_improvement,
    searched,
)
from bestresponse.apps.experiments.hypernet._settings import hypernetwork
from bestresponse.apps.experiments.hypernet.global_curve import HypernetGlobal
from bestresponse.apps.experiments.hypernet.local import HypernetLocal
from bestresponse.apps.experiments.hypernet.many import HypernetLarge
from bestresponse.apps.experiments.hypernet.predict import HypernetPredict
from bestresponse.data import load
from checks import relative_error

SIZES = (4, 3)
CLOSE = Retraining(lr=1e-2, steps=400)


@pytest.fixture
def roles():
    """Ten noisy rows of four features in three classes to train on, and more to hold out."""
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(3, 4))

    def rows(count):
        labels = np.arange(count) % 3
        inputs = centers[labels] + 1.5 * generator.normal(size=(count, 4))
        return torch.tensor(inputs).float(), torch.eye(3)[labels]

    return rows(10), rows(200), rows(100)


def problem_of(per="model", objective="paper", sizes=SIZES, start=0.0):
    return Elementary(sizes, per, objective, start, seed=0)


def course_of(seconds):
    form = response.Factorized(2)
    return Course(seconds, form, 0.5, 4, 1e-2, 1e-3, 1e-2, batch=10, hyper_batch=200, seed=0)


def closed_form(train, decays):
    """(3, 5) minimum of the squared error, summed over classes, plus Σ d w²; the bias last."""
    inputs, targets = (part.double().numpy() for part in train)
    inputs = np.c_[inputs, np.ones(len(inputs))]
    moments, cross = inputs.T @ inputs / len(inputs), inputs.T @ targets / len(inputs)
    return np.stack([
        np.linalg.solve(moments + np.diag(own), cross[:, i]) for i, own in enumerate(decays)
    ])  # fmt: skip


def curve_of(roles, grid):
    """Validation losses of the closed form."""
    inputs, targets = (part.double().numpy() for part in roles[1])
    inputs = np.c_[inputs, np.ones(len(inputs))]
    found = []
    for value in grid:
        w = closed_form(roles[0], np.full((3, 5), math.exp(value)))
        found.append(((inputs @ w.T - targets) ** 2).sum(1).mean())
    return np.array(found)


@pytest.mark.parametrize("objective", ["code", "paper"])
@pytest.mark.parametrize("per", ["model", "class", "weight"])
def test_losses_are_those_of_the_formulas(per, objective, roles):
    problem = problem_of(per, objective)
    torch.manual_seed(1)
    problem.move(torch.randn(problem.hyperparameters))
    (x, t), w, b = roles[1], problem.model.weight, problem.model.bias
    misses = x @ w.T + b - t
    if objective == "code":
        normal = torch.distributions.Normal(0.0, 0.1)
        expected = -normal.log_prob(misses).mean()
    else:
        expected = misses.square().sum() / len(x)
    assert torch.equal(hypernetwork(problem, 0).point, problem.log_decays)
    assert problem.outer(x, t).item() == pytest.approx(expected.item(), rel=1e-5)
    flat = torch.cat([w.flatten(), b])
    d = problem.log_decays.exp()
    penalty = {
        ("model", "code"): lambda: d[0] * flat.norm(),
        ("model", "paper"): lambda: d[0] * flat.square().sum(),
        ("class", "code"): lambda: (d * w.norm(dim=1)).mean(),
        ("class", "paper"): lambda: (d * w.square().sum(1)).mean(),
        ("weight", "code"): lambda: (d * torch.cat([b, w.flatten()])).norm(),
        ("weight", "paper"): lambda: (d * torch.cat([b, w.flatten()]).square()).sum(),
    }[per, objective]()
    assert (problem(x, t) - problem.outer(x, t)).item() == pytest.approx(penalty.item(), rel=1e-4)


@pytest.mark.parametrize("per", ["model", "class", "weight"])
def test_retraining_ends_in_the_closed_form(per, roles):
    problem = problem_of(per)
    torch.manual_seed(2)
    points = torch.randn(2, problem.hyperparameters)
    weights = CLOSE.weights(problem, points, roles[0])
    for i, d in enumerate(points.double().exp().numpy()):
        decays = {
            "model": np.full((3, 5), d[0]),
            "class": np.c_[np.repeat(d[:, None] / 3, 4, 1), np.zeros(3)] if per == "class" else 0,
            "weight": np.c_[d[3:].reshape(3, 4), d[:3]] if per == "weight" else 0,
        }[per]
        found = np.c_[weights["weight"][i].numpy(), weights["bias"][i].numpy()]
        assert np.abs(found - closed_form(roles[0], decays)).max() < 2e-3


@pytest.mark.parametrize("sizes", [SIZES, (4, 5, 3)])
def test_side_by_side_is_each_alone_and_as_a_plain_loop(sizes, roles, monkeypatch):
    train, held, _ = roles
    problem, retraining = problem_of("weight", "code", sizes), Retraining(1e-2, 20)
    points = torch.randn(3, problem.hyperparameters)
    together = retraining.weights(problem, points, train)
    found = losses(problem, together, held)
    for i, point in enumerate(points):
        alone = retraining.weights(problem, point[None], train)
        plain = problem_of("weight", "code", sizes)
        plain.move(point)
        retraining.plainly(plain, train)
        for name, weight in plain.model.named_parameters():
            assert relative_error(together[name][i], weight.detach()) < 1e-4
            assert relative_error(alone[name][0], weight.detach()) < 1e-4
        assert found[i].item() == pytest.approx(plain.outer(*held).item(), rel=1e-4)


def test_cross_validation_is_the_curve_of_the_closed_form(roles):
    grid = torch.linspace(-3, 3, 7)
    found = cross_validated(problem_of(), grid, CLOSE, roles)
    curve = curve_of(roles, grid.tolist())
    assert np.abs(np.array(found["validation"]) - curve).max() < 2e-3
    assert 0 < curve.argmin() < 6 and found["best"] == grid[curve.argmin()]
    assert found["best_test"] == found["test"][curve.argmin()]


def test_the_global_curve_is_that_of_the_closed_form(roles):
    grid, problem = torch.linspace(-3, 3, 7), problem_of()
    settings = response.PAPER_GLOBAL.settings | {"sampling": response.Uniform(-3.5, 3.5)}
    net = hypernetwork(problem, 0, **settings | {"samples": 10})
    found = whole.learned(problem, net, (1e-2, 500, 1.0), grid, CLOSE, roles)
    curve = curve_of(roles, found["points"])
    assert np.abs(np.array(found["predicted"]) - curve).max() < 0.06 * np.ptp(curve)
    exact = found["points"][curve.argmin()]
    assert abs(found["best"] - exact) < 0.3 and abs(found["descended"] - found["best"]) < 0.05
    (there,) = curve_of(roles, [found["best"]])
    assert found["best_retrained"] == pytest.approx(there, abs=2e-3)
    assert found["best_predicted"] == min(found["predicted"])


@pytest.mark.parametrize("start", [-2.5, 2.5])
def test_the_local_one_ends_at_the_optimum_of_the_closed_form(start, roles):
    grid = np.linspace(-3, 3, 601)
    exact = grid[curve_of(roles, grid).argmin()]
    problem, pace = problem_of(start=start), Pace(250, 2e-2, 3e-2, 200)
    found = followed(problem, VARIANTS["default"], pace, CLOSE, roles, seed=0)
    assert found["path"][0] == start and found["path"][-1] == found["best"]
    assert abs(found["best"] - exact) < 0.15
    (there,) = curve_of(roles, [found["best"]])
    assert found["retrained"] == pytest.approx(there, abs=2e-3)


@pytest.mark.parametrize("objective", ["code", "paper"])
def test_the_same_decay_for_every_weight_is_one_decay(objective, roles):
    grid, retraining = torch.tensor([-1.0, 1.0]), Retraining(1e-2, 50)
    one, many = (
        cross_validated(problem_of(per, objective), grid, retraining, roles)
        for per in ("model", "weight")
    )
    assert many["validation"] == pytest.approx(one["validation"], rel=1e-4)
    assert many["best_test"] == pytest.approx(one["best_test"], rel=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_decays_found_are_worth_what_the_closed_form_says(way, roles):
    problem = problem_of("weight", start=-1.0)
    course = Course(
        0.05, response.Factorized(2), 0.5, 4, 1e-2, 1e-3, 1e-2, batch=10, hyper_batch=200, seed=0
    )
    found = tuned(problem, way, roles, course, CLOSE)
    assert problem.log_decays.std() > 0 and found["steps"] > 1
    assert found["seconds"] == sorted(found["seconds"]) and found["seconds"][-1] >= 0.05
    assert found["hyperparameters"] == 15
    assert found["phi"] == (15 * 2 + 2 + 2 * 15 + 15 if way == "hypernetwork" else 0)
    d = problem.log_decays.double().exp().numpy()
    weights = closed_form(roles[0], np.c_[d[3:].reshape(3, 4), d[:3]])
    inputs, targets = (part.double().numpy() for part in roles[2])
    exact = ((np.c_[inputs, np.ones(len(inputs))] @ weights.T - targets) ** 2).sum(1).mean()
    assert found["retrained_test"][-1] == pytest.approx(exact, abs=2e-3)


def test_hypergradients_lower_what_one_decay_cannot(roles):
    problem = problem_of("weight", start=-1.0)
    course = Course(
        0.4, response.Factorized(2), 0.5, 4, 1e-2, 1e-3, 1e-2, batch=10, hyper_batch=200, seed=0
    )
    found = tuned(problem, "implicit", roles, course, CLOSE)
    best = curve_of(roles, np.linspace(-3, 3, 61)).min()
    assert found["retrained"][-1] < best - 0.01


def test_expected_improvement_is_the_integral():
    values = np.linspace(-8, 8, 200001)
    density = np.exp(-(values**2) / 2) / math.sqrt(2 * math.pi)
    for mean, deviation, best in [(0.3, 0.7, 0.5), (2.0, 0.5, 0.0), (0.0, 1.0, 3.0)]:
        gains = np.maximum(best - (mean + deviation * values), 0)
        exact = np.trapezoid(gains * density, values)
        found = expected_improvement(np.array([mean]), np.array([deviation]), best)
        assert found[0] == pytest.approx(exact, rel=1e-4)
    assert expected_improvement(np.array([1.0]), np.array([0.0]), 3.0)[0] == pytest.approx(2.0)


def test_a_bayesian_search_finds_the_minimum_of_a_bowl():
    box, stream, tried = Box(-3.0, 3.0, 2), torch.Generator().manual_seed(0), []
    propose, center = bayesian(box), torch.tensor([1.0, -2.0])
    for _ in range(15):
        point = propose(tried, stream)
        assert bool((point.abs() <= 3).all())
        tried.append((point, float((point - center).square().sum())))
    assert min(value for _, value in tried) < 0.01


def test_a_search_tells_what_its_best_point_is_worth(roles):
    problem, retraining = problem_of("class", "code"), Retraining(1e-2, 30)
    retraining.plainly(problem_of("class", "code"), roles[0])  # the first step of Adam is slow
    found = searched(problem, at_random(Box(-3.0, 3.0, 3)), roles, retraining, 0.3, seed=0)
    assert found["seconds"][-1] >= 0.3 and found["steps"] == len(found["validation"]) > 1
    assert found["validation"] == sorted(found["validation"], reverse=True)
    weights = retraining.weights(problem, torch.tensor([found["best"]]), roles[0])
    for part, name in ((roles[1], "validation"), (roles[2], "test")):
        assert found[name][-1] == pytest.approx(float(losses(problem, weights, part)), rel=1e-4)


def test_given_points_are_drawn_evenly():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    drawn = Given(values).points(torch.zeros(2), 3000, torch.Generator().manual_seed(0))
    for value in values:
        share = (drawn == value).all(1).double().mean()
        assert share == pytest.approx(1 / 3, abs=0.03)


def test_a_gaussian_process_passes_through_a_smooth_function():
    points = Box(-3.0, 3.0, 2).draw(60, torch.Generator().manual_seed(0))
    values = (points[:, 0].sin() + 0.1 * points[:, 1].square()).tolist()
    predict = gaussian({"points": points.tolist(), "validation": values}, 50)
    assert predict(points[50:]).tolist() == pytest.approx(values[50:], abs=0.15)


def test_the_minimum_of_a_prediction_is_found():
    center = torch.tensor([1.0, -2.0, 0.5])
    found = minimum(lambda points: (points - center).square().sum(1), Box(-3.0, 3.0, 3), 0)
    assert (found - center).abs().max() < 0.1
    outside = minimum(lambda points: points.sum(1), Box(-3.0, 3.0, 3), 0)
    assert (outside + 3).abs().max() < 0.1  # clipped to the box


def test_a_hypernetwork_of_given_points_knows_them(roles):
    """Two points, an affine response: weights at both are those of the closed form."""
    problem, values = problem_of(), torch.tensor([[-1.0], [1.5]])
    held = pairs(problem, values, roles, CLOSE)
    make = partial(hypernetted, problem, Given(values), Learning(3e-2, 200, 4), roles, 0)
    found = judged(make, problem, held, Box(-2.0, 2.0, 1), roles, CLOSE, seed=0)
    curve = curve_of(roles, [-1.0, 1.5, found["best"][0]])
    assert found["predicted"] == pytest.approx(curve[:2], abs=0.02)
    assert held["validation"] == pytest.approx(curve[:2], abs=2e-3)
    assert found["validation"] == pytest.approx(curve[2], abs=2e-3)


def test_errors_are_predicted_less_actual_over_all_seeds():
    held = [{"validation": [1.0, 2.0]}, {"validation": [3.0, 4.0]}]
    runs = [{"way": way, "count": 25, "predicted": [2.0, 2.0], "validation": 0.5 - i}
            for i in range(2) for way in ("gaussian", "fixed")]  # fmt: skip
    known = [{"validation": [0.7]}, {"validation": [-0.7]}]
    grids = [{"best_validation": 0.6}, {"best_validation": 0.6}]
    found = {"held": held, "runs": runs, "known": known, "grids": grids}
    assert predict_report.errors(found, "fixed", 25) == [1.0, 0.0, -1.0, -2.0]
    assert predict_report.best_seen(found) == pytest.approx((0.5 - 0.7) / 2)


def test_batches_come_in_turns(roles):
    batches = in_turns(roles[0], 4)
    sizes = [len(next(batches)[0]) for _ in range(4)]
    assert sizes == [4, 4, 2, 4]
    inputs, targets = next(in_turns(roles[0], 99))
    assert torch.equal(inputs, roles[0][0]) and torch.equal(targets, roles[0][1])


def test_roles_are_the_first_rows():
    train, held, unseen = load_roles("digits", 10, 20, 30)
    data = load("digits")
    assert [len(part[0]) for part in (train, held, unseen)] == [10, 20, 30]
    assert torch.equal(train[1].argmax(1), data.labels[:10])
    assert torch.equal(unseen[1].argmax(1), data.labels[30:60])
    assert train[0].shape == (10, 64) and (held[1].sum(1) == 1).all()


@pytest.mark.parametrize(("kind", "wrong", "says"), [
    (HypernetLocal, {"starts": ()}, "--starts is empty"),
    (HypernetLocal, {"starts": (1.0, 1.0)}, "a value twice"),
    (HypernetLocal, {"starts": (30.0,)}, "--starts has 30.0; give logarithms from -20 to 20"),
    (HypernetLocal, {"seeds": ()}, "--seeds is empty"),
    (HypernetLarge, {"grid": ()}, "--grid is empty"),
    (HypernetLarge, {"grid": (1.0, 30.0)}, "--grid has 30.0; give logarithms from -20 to 20"),
    (HypernetPredict, {"evaluations": ()}, "--evaluations is empty; give growing numbers"),
    (HypernetPredict, {"evaluations": (25, 10)}, "--evaluations is 25 10"),
    (HypernetPredict, {"evaluations": (1,)}, "--evaluations is 1"),
    (HypernetGlobal, {"low": math.nan}, "--low nan and --high 4.0 are no range"),
    (HypernetGlobal, {"iterations": 0}, "--iterations is 0"),
    (HypernetGlobal, {"end": 0.0}, "--end is 0"),
    (HypernetGlobal, {"end": 2.0}, "--end is 2.0; give a share of at most 1"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(kind, wrong, says, tmp_path):
    with pytest.raises(InputError, match=says):
        kind(out=tmp_path / "run", **wrong).run()
    assert not list(tmp_path.iterdir())
