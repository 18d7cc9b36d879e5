"""The parts of a check: directions, steps, retraining."""

import pytest
import torch
from torch import nn

import bestresponse as br
from bestresponse._nested import next_problem
from bestresponse.diagnostics._retrain import Clock, points_of, retrained
from bestresponse.diagnostics._slopes import (
    Directions,
    Slopes,
    cosine,
    distance,
    norm,
    step_length,
)


def vectors(count, size):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, size, generator=generator)


def test_all_directions_tell_everything():
    one, other = vectors(2, 7)
    directions = Directions.drawn([one, 2 * one, other], random=20, seed=0)
    assert len(directions) == 7 and directions.telling == 2
    assert torch.allclose(directions.basis @ directions.basis.T, torch.eye(7))
    slopes = Slopes.of(other, directions)
    for left, right in [(one, slopes), (slopes, one), (Slopes.of(one, directions), slopes)]:
        assert distance(left, right) == pytest.approx(float((one - other).norm()))
        angle = torch.nn.functional.cosine_similarity(one, other, dim=0)
        assert cosine(left, right) == pytest.approx(float(angle))
    assert norm(slopes) == pytest.approx(float(other.norm()))


def test_few_directions_estimate_the_rest_without_bias():
    one, other = vectors(2, 50)
    squares = []
    for seed in range(400):
        directions = Directions.drawn([one], random=2, seed=seed)
        squares.append(distance(one, Slopes.of(other, directions)) ** 2)
    mean, exact = sum(squares) / len(squares), float((one - other).square().sum())
    assert mean == pytest.approx(exact, rel=0.1)


def test_fewer_slopes_than_directions():
    one, other = vectors(2, 5)
    directions = Directions.drawn([one, other], random=3, seed=0)
    first = Slopes(directions, (directions.basis @ other)[:2])
    assert distance(one, first) == pytest.approx(float((one - other).norm()))


@pytest.mark.parametrize(
    ("hyper", "direction", "expected"),
    [
        ({"a": torch.tensor([3.0, -3.0])}, [0.5, 1.0], 0.03),
        ({"a": torch.zeros(2)}, [0.5, 1.0], 0.01),
        ({"a": torch.tensor([100.0]), "b": torch.tensor([1e-3])}, [1.0, 1.0], 1e-5),
        ({"a": torch.tensor([100.0]), "b": torch.tensor([1e-3])}, [1.0, 0.0], 1.0),
    ],
    ids=["size", "zero", "the smaller leaf", "the only leaf"],
)
def test_a_step_is_small_for_every_entry(hyper, direction, expected):
    assert step_length(torch.tensor(direction), hyper, 0.01) == pytest.approx(expected)


class Rosenbrock(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([-1.2, 1.0]))

    def forward(self, a):
        return (a - self.w[0]) ** 2 + 100 * (self.w[1] - self.w[0] ** 2) ** 2


@pytest.mark.parametrize(
    "method", [br.Implicit(br.CG()), br.FiniteDifference(br.CG())], ids=["exact", "differences"]
)
def test_retraining_comes_down_a_bent_valley(method):
    model, hyper = Rosenbrock(), nn.Linear(1, 1, bias=False)
    hyper.weight.data.fill_(1.5)
    nested = br.Nested(
        params=model,
        hyper=hyper,
        inner=lambda: model(hyper.weight.squeeze()),
        outer=lambda: model.w.sum(),
        method=method,
    )
    with next_problem(nested, (), ()) as problem:
        found = retrained(problem, points_of(method), 1.0, 1e-11, Clock(60))
    assert found.gradient_norm <= 1e-11
    assert torch.allclose(found.vector, torch.tensor([1.5, 2.25]), atol=1e-9)
    assert found.start_norm == pytest.approx(
        float(torch.autograd.grad(model(1.5), model.w)[0].norm())
    )


def test_a_look_at_the_next_call_does_not_make_it():
    model, hyper = Rosenbrock(), nn.Linear(1, 1, bias=False)
    nested = br.Nested(
        params=model,
        hyper=hyper,
        inner=lambda: model(hyper.weight.squeeze()),
        outer=lambda: model.w.sum(),
        method=br.Implicit(br.CG()),
    )
    seeds = []
    for _ in range(2):
        with next_problem(nested, (), ()) as problem:
            seeds.append(problem.seeds)
    assert seeds[0] == seeds[1] and nested._calls == 0
    nested()
    with next_problem(nested, (), ()) as problem:
        assert problem.seeds != seeds[0]
