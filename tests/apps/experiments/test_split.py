"""The share for validation: hypergradients and decays against retraining, roles, refusals."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from bestresponse._errors import InputError
from bestresponse.apps.experiments.split import ValidationShare
from bestresponse.apps.experiments.split import _fit as fit
from bestresponse.apps.experiments.split._data import Pool, stratified_order
from bestresponse.apps.experiments.split._fit import Budget, Problem, cell
from bestresponse.data import load
from checks import relative_error

COUNT = {"model": 1, "tensor": 2, "weight": 12}


@pytest.fixture
def batches(monkeypatch):
    """Rows of three features in three classes that overlap; inner problems solved to rounding."""
    monkeypatch.setattr(fit, "_TOLERANCE", 1e-12)
    monkeypatch.setattr(fit, "_RTOL", 1e-12)
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(3, 3))

    def rows(count):
        labels = np.arange(count) % 3
        inputs = centers[labels] + 0.9 * generator.normal(size=(count, 3))
        return torch.tensor(inputs), torch.tensor(labels)

    return rows(18), rows(15)


class ByHand:
    """The same problem in NumPy, by dense Newton steps: nothing of it is the library's."""

    def __init__(self, train, validation):
        self.train, self.validation = (
            (np.c_[x.numpy(), np.ones(len(x))], np.eye(3)[y.numpy()])
            for x, y in (train, validation)
        )

    def response(self, decays):
        """Weights (3, 4), the bias last, at decays of that shape."""
        (x, y), w = self.train, np.zeros((3, 4))
        for _ in range(60):
            p = np.exp(x @ w.T)
            p /= p.sum(1, keepdims=True)
            g = (p - y).T @ x / len(x) + decays * w
            h = np.diag(decays.ravel())
            for q, row in zip(p, x, strict=True):
                h += np.kron(np.diag(q) - np.outer(q, q), np.outer(row, row)) / len(x)
            w = w - np.linalg.solve(h, g.ravel()).reshape(3, 4)
        return w

    def outer(self, decays):
        x, y = self.validation
        z = x @ self.response(decays).T
        return float(np.mean(np.log(np.exp(z).sum(1)) - (z * y).sum(1)))


def spread(problem, flat, per):
    """Decays of each weight (3, 4) from λ, flat in the order of the library."""
    flat = np.exp(np.asarray(flat))
    if per == "model":
        return np.full((3, 4), flat[0])
    names = list(problem.decay.log_decay)
    sizes = {"weight": (3, 3), "bias": (3, 1)}
    parts, place = {}, 0
    for name in names:
        own = math.prod(sizes[name]) if per == "weight" else 1
        parts[name] = np.broadcast_to(flat[place : place + own].reshape(
            sizes[name] if per == "weight" else (1, 1)), sizes[name])  # fmt: skip
        place += own
    return np.concatenate([parts["weight"], parts["bias"]], 1)


@pytest.mark.parametrize("per", COUNT)
def test_fit_and_hypergradient_are_those_of_retraining(batches, per):
    problem, friend = Problem(*batches, 3, per, init=0.03), ByHand(*batches)
    torch.manual_seed(0)
    at = math.log(0.03) + torch.randn(COUNT[per], dtype=torch.float64)
    problem.loss_and_hypergradient(at.flip(0))  # from another place, in other units
    loss, found = problem.loss_and_hypergradient(at)
    decays = spread(problem, at, per)
    assert loss == pytest.approx(friend.outer(decays), rel=1e-7)
    model, best = problem.model, friend.response(decays)
    weight = (model.weight / model.get_buffer("weight_scale")).detach()
    bias = (model.bias / model.get_buffer("bias_scale")).detach()
    assert np.abs(np.c_[weight.numpy(), bias.numpy()] - best).max() < 1e-5
    size = 1e-3
    expected = [
        (friend.outer(spread(problem, at + size * e, per))
         - friend.outer(spread(problem, at - size * e, per))) / (2 * size)
        for e in torch.eye(len(at), dtype=torch.float64)
    ]  # fmt: skip
    assert relative_error(found, torch.tensor(expected, dtype=torch.float64)) < 1e-4


def test_one_decay_is_the_minimum_of_a_search(batches):
    problem, friend = Problem(*batches, 3, "model", init=1e-3), ByHand(*batches)
    taken = problem.tune(60)
    search = minimize_scalar(
        lambda log: friend.outer(np.full((3, 4), math.exp(log))),
        bounds=(math.log(fit.LEAST), math.log(fit.MOST)), method="bounded",
        options={"xatol": 1e-9},
    )  # fmt: skip
    assert math.log(1e-4) < search.x < math.log(10)  # inside
    assert problem.loss(batches[1]) == pytest.approx(search.fun, rel=1e-8)
    assert float(problem.log_decays) == pytest.approx(search.x, abs=1e-3) and 2 < taken <= 61


def test_more_decays_go_lower_on_validation_rows(batches):
    losses = []
    for per in COUNT:
        problem = Problem(*batches, 3, per, init=1e-3)
        problem.tune(60)
        losses.append(problem.loss(batches[1]))
    assert losses[2] < losses[1] - 0.01 and losses[1] <= losses[0] + 1e-9


def test_a_cell_is_tuned_and_trained_again_on_all(batches):
    train, validation = batches
    both = tuple(torch.cat(pair) for pair in zip(validation, train, strict=True))
    budget = Budget(both, train, 3)
    found = cell(budget, 15 / 33, "model", 1e-3, 20)
    problem = Problem(train, validation, 3, "model", 1e-3)
    problem.tune(20)
    decay = np.full((3, 4), 10 ** found["log10_decays"][1])
    assert float(problem.log_decays) / math.log(10) == pytest.approx(found["log10_decays"][0])

    def error(weights, batch):
        inputs = np.c_[batch[0].numpy(), np.ones(len(batch[0]))]
        return float(((inputs @ weights.T).argmax(1) != batch[1].numpy()).mean())

    on_part, on_all = (ByHand(rows, validation).response(decay) for rows in (train, both))
    assert found["test_error"] == error(on_part, train)
    assert found["validation_error"] == error(on_part, validation)
    assert found["retrained_test_error"] == error(on_all, train)


def test_without_validation_nothing_is_tuned(batches):
    budget = Budget(batches[0], batches[1], 3)
    found = cell(budget, 0.0, "weight", 1e-3, 20)
    assert found["hypergradients"] == 0 and found["validation_error"] is None
    assert found["log10_decays"] == pytest.approx([-3, -3, -3])
    assert found["test_error"] == found["retrained_test_error"]


def test_roles_are_disjoint_and_budgets_nested():
    pool = Pool.of("digits", 400)
    small, large = pool.budget(100, 7), pool.budget(400, 7)
    assert torch.equal(small.examples[0], large.examples[0][:100])
    order = stratified_order(load("digits").labels, 7)
    assert torch.equal(order.sort().values, torch.arange(1797))
    assert len(large.test[1]) == 1397 == len(small.test[1])
    assert torch.equal(large.test[1], load("digits").labels[order[400:]])
    (train, held), y = large.parts(0.25), large.examples[1]
    assert torch.equal(torch.cat([held[1], train[1]]), y) and len(held[1]) == 100
    assert large.parts(0.0)[1] is None


@pytest.mark.parametrize("size", [10, 50, 333])
def test_every_beginning_has_the_classes_in_proportion(size):
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)
    order = stratified_order(labels, 3)
    counts = torch.bincount(labels[order[:size]], minlength=3)
    assert (counts - size * torch.tensor([0.6, 0.3, 0.1])).abs().max() < 2
    assert not torch.equal(order, stratified_order(labels, 4))


@pytest.mark.parametrize(("wrong", "says"), [
    ({"sizes": ()}, "--sizes is empty"),
    ({"sizes": (40, 40)}, "--sizes is 40 40"),
    ({"sizes": (0,)}, "--sizes is 0"),
    ({"sizes": (1797,)}, "'digits' has 1797 training examples but --sizes asks for 1797"),
    ({"shares": ()}, "--shares is empty"),
    ({"shares": (0.5, 0.5)}, "a share twice"),
    ({"shares": (1.0,)}, "--shares has 1.0; give numbers from 0 to below 1"),
    ({"shares": (-0.1,)}, "--shares has -0.1"),
    ({"shares": (0.001,)}, "--shares 0.001 of 100 examples leaves a part empty"),
    ({"shares": (0.999,)}, "--shares 0.999 of 100 examples leaves a part empty"),
    ({"decay": 0.0}, "--decay is 0"),
    ({"decay": math.nan}, "--decay is nan"),
    ({"hypergradients": 0}, "--hypergradients is 0"),
    ({"seeds": (-1,)}, "--seeds is -1"),
])  # fmt: skip
def test_what_cannot_be_done_is_refused_before_anything_is(wrong, says, tmp_path):
    with pytest.raises(InputError, match=says):
        ValidationShare(out=tmp_path / "run", **wrong).run()
    assert not list(tmp_path.iterdir())
