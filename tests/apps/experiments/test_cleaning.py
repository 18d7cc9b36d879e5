"""Data cleaning: the draw, the hypergradient, the limit, and what stands beside it."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear, minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import bestresponse as br
from bestresponse.apps.experiments.cleaning import DataCleaning
from bestresponse.apps.experiments.cleaning import _contenders as contenders
from bestresponse.apps.experiments.cleaning._box import descend
from bestresponse.apps.experiments.cleaning._data import Roles, draw
from bestresponse.apps.experiments.cleaning._problem import Cleaning
from bestresponse.apps.experiments.cleaning._race import seconds_to, simple_rows
from bestresponse.data import load
from checks import relative_error

MNIST = Path(__file__).parents[4] / "shared" / "data" / "mnist"
STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))
"""Offsets and factors of the difference quotient whose error is of fourth order."""
SIZE = 2e-3


@pytest.fixture
def tiny():
    """30 rows in three features and three classes, in double precision."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(1)
    centers = torch.randn(3, 3)

    def rows(count):
        labels = torch.arange(count) % 3
        return centers[labels] + 0.7 * torch.randn(count, 3), labels

    inputs, true = rows(30)
    labels = torch.where(torch.rand(30) < 0.5, torch.randint(3, (30,)), true)
    return Cleaning(Roles((inputs, labels), true, rows(20), rows(10), 3), decay=0.05)


@pytest.fixture
def exact(monkeypatch):
    """Inner problems solved to rounding."""
    for name in ("_EXACT", "_COARSEST", "_FINEST"):
        monkeypatch.setattr(contenders, name, 1e-14)


class ByHand:
    """The same problem in NumPy, with dense Newton steps: nothing of it is the library's."""

    def __init__(self, problem):
        roles = problem.roles
        self.x, self.y = roles.train[0].numpy(), np.eye(3)[roles.train[1]]
        self.v, self.t = roles.validation[0].numpy(), roles.validation[1].numpy()
        self.decay = problem.decay

    def response(self, weights):
        w, n = np.zeros(9), len(self.x)
        for _ in range(50):
            p = np.exp(self.x @ w.reshape(3, 3).T)
            p /= p.sum(1, keepdims=True)
            g = ((p - self.y) * weights[:, None]).T @ self.x / n
            h = 2 * self.decay * np.eye(9)
            for a, q, x in zip(weights, p, self.x, strict=True):
                h += a / n * np.kron(np.diag(q) - np.outer(q, q), np.outer(x, x))
            w = w - np.linalg.solve(h, g.ravel() + 2 * self.decay * w)
        return w.reshape(3, 3)

    def outer(self, weights):
        z = self.v @ self.response(weights).T
        return float(np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), self.t]))


def differences(function, at):
    """The gradient by fourth-order differences."""
    gradient = np.zeros(len(at))
    for i in range(len(at)):
        for offset, factor in STENCIL:
            moved = at.copy()
            moved[i] += offset * SIZE
            gradient[i] += factor * function(moved) / SIZE
    return torch.from_numpy(gradient)


def test_the_hypergradient_of_each_weight_is_that_of_solving_again(tiny, exact):
    """In the weights a themselves, some of them zero: their rows take part in no product."""
    weights = torch.rand(30)
    weights[::3] = 0
    value, gradient = contenders.Response(tiny)(weights)
    by_hand = ByHand(tiny)
    assert value == pytest.approx(by_hand.outer(weights.numpy()), rel=1e-12)
    expected = differences(by_hand.outer, weights.numpy())
    assert (gradient - expected).abs().max() < 1e-10
    assert gradient[::3].abs().min() > 1e-6


def test_the_hypergradient_of_each_raw_weight_is_that_of_solving_again(tiny, exact):
    """In λ of the weights σ(λ), by `Nested`."""
    modules = contenders.Modules(tiny, br.Implicit(br.Dense()))
    raw = torch.randn(30)
    modules.weights.raw.data.copy_(raw)
    loss, gradient = modules.exact()
    by_hand = ByHand(tiny)

    def outer(at):
        return by_hand.outer(1 / (1 + np.exp(-at)))

    assert loss == pytest.approx(outer(raw.numpy()), rel=1e-12)
    assert (gradient - differences(outer, raw.numpy())).abs().max() < 1e-10


def test_an_inexact_value_is_right_to_second_order(tiny, monkeypatch):
    """What the inner gradient lacks is taken out by the adjoint: a tenth of it, a hundredth."""
    weights, errors = torch.full((30,), 0.5), []
    expected = ByHand(tiny).outer(weights.numpy())
    for tolerance in (1e-1, 1e-2, 1e-3):
        monkeypatch.setattr(contenders, "_COARSEST", tolerance)
        monkeypatch.setattr(contenders, "_ADJOINT", 1.0)
        value, _ = contenders.Response(tiny)(weights)
        errors.append(abs(value - expected))
        assert errors[-1] < tolerance**2 * 2
    assert errors[-1] < 1e-2 * errors[0]


def test_following_ends_where_an_independent_optimizer_does(tiny, exact):
    by_hand = ByHand(tiny)
    scipy = minimize(
        by_hand.outer, np.full(30, 0.5), method="L-BFGS-B", bounds=[(0, 1)] * 30,
        options={"ftol": 1e-15, "gtol": 1e-8, "maxfun": 10_000},
    )  # fmt: skip
    *_, weights = islice(contenders.followed(tiny, 0), 200)
    assert by_hand.outer(weights.numpy()) == pytest.approx(scipy.fun, rel=1e-7)
    assert 0 < int((weights == 0).sum()) and 0 < int((weights == 1).sum())
    assert np.abs(weights.numpy() - scipy.x).max() < 1e-2


@pytest.mark.parametrize("bounded", [True, False])
def test_box_lbfgs_solves_least_squares_within_bounds(bounded):
    generator = np.random.RandomState(0)
    matrix, target = generator.randn(30, 20), generator.randn(30)
    low, high = (-0.1, 0.1) if bounded else (-np.inf, np.inf)
    expected = lsq_linear(matrix, target, (low, high), method="bvls", tol=1e-15).x
    a, b = torch.from_numpy(matrix), torch.from_numpy(target)

    def function(x):
        residual = a @ x - b
        return float(residual.square().sum() / 2), a.T @ residual

    points = [*islice(descend(function, torch.zeros(20).double(), low, high, 0.01), 300)]
    values = [function(point)[0] for point in points]
    assert values == sorted(values, reverse=True)
    assert np.abs(points[-1].numpy() - expected).max() < 1e-6
    assert all(bool(((low <= p) & (p <= high)).all()) for p in points)


def test_box_lbfgs_ends_at_a_corner():
    points = [*descend(lambda x: (float(x.sum()), torch.ones(3)), torch.ones(3), 0, 1, 0.3)]
    assert points[-1].tolist() == [0, 0, 0] and 1 < len(points) < 6


def test_the_draw_is_that_of_the_benchmark():
    torch.set_default_dtype(torch.float64)
    roles = draw("digits", 900, 400, 0.7, seed=5)
    data, generator = load("digits"), np.random.RandomState(5)
    images = data.inputs.flatten(1).double().numpy()
    x, v, y, t = train_test_split(
        images, data.labels.numpy(), test_size=400, train_size=900, random_state=generator
    )
    true, random = y.copy(), generator.rand(900) < 0.7
    y[random] = generator.randint(0, 10, random.sum())
    scaler = StandardScaler().fit(x)
    assert (roles.train[1].numpy() == y).all() and (roles.true.numpy() == true).all()
    assert (roles.validation[1].numpy() == t).all()
    assert (roles.wrong.numpy() == (y != true)).all()
    assert relative_error(roles.train[0], torch.from_numpy(scaler.transform(x))) < 1e-13
    assert relative_error(roles.validation[0], torch.from_numpy(scaler.transform(v))) < 1e-13
    assert len(roles.test[1]) == 1797 - 1300
    every = torch.cat([roles.train[0], roles.validation[0], roles.test[0]])
    back = every.numpy() * np.where(scaler.scale_ > 0, scaler.scale_, 1) + scaler.mean_
    assert sorted(map(tuple, back.round().astype(int))) == sorted(map(tuple, images.astype(int)))


def test_simple_rows_are_those_of_scikit_learn():
    torch.set_default_dtype(torch.float64)
    problem = Cleaning(draw("digits", 500, 200, 0.5, seed=0), decay=0.2)
    roles, found = problem.roles, simple_rows(problem)
    right = ~roles.wrong
    kept = {"none": torch.ones(500, dtype=torch.bool), "clean": right}
    for key, rows in kept.items():
        x, y = roles.train[0][rows].numpy(), roles.train[1][rows].numpy()
        model = LogisticRegression(
            C=1 / (2 * 0.2 * len(y)), fit_intercept=False, tol=1e-9, max_iter=1000
        ).fit(x, y)
        v, t = roles.validation[0].numpy(), roles.validation[1].numpy()
        loss = log_loss(t, model.predict_proba(v), labels=range(10))
        assert found[key]["loss"] == pytest.approx(loss, rel=1e-6)
        error = 1 - model.score(roles.test[0].numpy(), roles.test[1].numpy())
        assert found[key]["test_error"] == pytest.approx(error, abs=1e-12)
    assert found["both"]["loss"] is None and found["validation_only"]["loss"] is None


def test_the_limit_is_the_published_one():
    """Exact hypergradients with L-BFGS end at 0.7478 on the benchmark's draw."""
    if not MNIST.exists():
        pytest.skip(f"no MNIST in {MNIST}")
    problem = Cleaning(draw(str(MNIST), 20_000, 5_000, 0.5, seed=32), decay=0.2)
    *_, weights = islice(contenders.followed(problem, 0), 12)
    loss = problem.outer(problem.fitted(weights, problem.zeros(), 1e-4))
    assert loss == pytest.approx(0.7478, abs=1e-4)
    alone = problem.test_error(problem.fitted_to(problem.roles.validation, 1e-4))
    assert alone == pytest.approx(0.124, abs=1e-3)


def test_seconds_are_those_of_the_first_that_is_low_enough():
    curve = {"seconds": [1.0, 2.0, 4.0], "losses": [3.0, 1.0, 1.0]}
    assert seconds_to(curve, 1.0) == 2.0 and seconds_to(curve, 0.9) is None


def test_headline_is_on_disk_and_every_contender_has_its_end(run, headline_of):
    findings, out, printed = run(
        DataCleaning, rows=200, validation=150, noise=(0.5,), seconds=0.3, seeds=(0, 1)
    )
    assert headline_of(out) == findings.headline
    assert all(name in printed for name in findings.headline) and findings.verdict in printed
    for case in findings.curves["cases"]:
        for curve in case["curves"].values():
            assert curve["seconds"] == sorted(curve["seconds"]) and curve["steps"] > 0
            assert case["limit"] <= min(curve["losses"]) and curve["losses"][-1] < case["start"]
        followed = case["curves"]["followed"]
        assert followed["losses"][-1] == pytest.approx(case["limit"], rel=1e-4)
        assert followed["auroc"] > 0.85


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"noise": ()}, "--noise is empty"),
        ({"noise": (0.5, 0.5)}, "a level twice"),
        ({"noise": (0.5, 1.0)}, "--noise is 1.0; give numbers between 0 and 1"),
        ({"noise": (0.0,)}, "--noise is 0.0"),
        ({"decay": 0.0}, "--decay is 0.0"),
        ({"validation": 0}, "--validation is 0"),
        ({"rows": 1397}, "1397 \\+ 400 and at least one for the test are asked for"),
    ],
)
def test_refusals(settings, says, run):
    with pytest.raises(br.InputError, match=says):
        run(DataCleaning, **{"seconds": 0.1, "seeds": (0,), **settings})


def test_box_lbfgs_survives_changes_that_round_to_zero():
    """Gradients in float32 whose squares underflow: no pair has curvature, none divides by zero."""
    scale = 1e-25

    def function(x):
        return scale * float((x.double() - 1).square().sum() / 2), scale * (x - 1)

    points = [*islice(descend(function, torch.zeros(4), -np.inf, np.inf, 0.3), 50)]
    assert len(points) > 1 and relative_error(points[-1], torch.ones(4)) < 1e-2
