"""`Nested(optimizer=...)`: whether the training step is stable, against running it."""

import pytest
import torch
from torch import nn

import bestresponse as br

CURVATURE = 2.0
SETTINGS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "dampened": {"momentum": 0.9, "dampening": 0.5},
    "decayed": {"weight_decay": 3.0},
    "dampening-without-momentum": {"dampening": 0.5},
    "dampening-more": {"momentum": 0.5, "dampening": 0.8, "weight_decay": 1.0},
}


def problem(lr, damping=0.0, solver=None, groups=None, optimizer=torch.optim.SGD, **settings):
    torch.manual_seed(0)
    weight, hyper = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    opt = optimizer(groups(weight) if groups else weight.parameters(), lr=lr, **settings)
    nested = br.Nested(
        params=weight,
        hyper=hyper,
        inner=lambda: 0.5 * CURVATURE * (weight.weight - hyper.weight).square().sum(),
        outer=lambda: weight.weight.square().sum(),
        method=br.Implicit(solver or br.CG(max_steps=2), damping=damping),
        optimizer=opt,
    )
    return weight, nested, opt


def blows_up(weight, nested, optimizer):
    start = abs(weight.weight.item())
    for _ in range(400):
        optimizer.zero_grad()
        nested.inner_loss().backward()
        optimizer.step()
    return not abs(weight.weight.item()) < 10 * start + 10


@pytest.mark.parametrize("damping", [0.0, 10.0])
@pytest.mark.parametrize("name", SETTINGS)
def test_it_is_above_one_exactly_where_training_blows_up(name, damping):
    found = set()
    for lr in (0.1, 0.3, 0.5, 0.7, 0.9, 1.2, 1.6, 2.2, 4.0, 6.0):
        weight, nested, optimizer = problem(lr, damping, **SETTINGS[name])
        report = nested()[1]
        unstable = report.training_stability > 1
        assert unstable == blows_up(weight, nested, optimizer), f"lr={lr}"
        assert (br.Result.unstable_training in report.warnings) == unstable
        found.add(unstable)
    assert found == {True, False}


def test_the_worst_group_counts_and_schedules_are_followed():
    _, nested, optimizer = problem(0.1)
    before = nested()[1].training_stability
    assert before == pytest.approx(0.1 * CURVATURE / 2)
    for group in optimizer.param_groups:
        group["lr"] = 5.0
    assert nested()[1].training_stability == pytest.approx(50 * before)


def test_unknown_where_nothing_is_known():
    assert problem(9.0, optimizer=torch.optim.AdamW)[1]()[1].training_stability is None


def test_it_is_seen_whatever_the_solver_sees(watched_solver):
    """Solvers that see no large curvature, on a spectrum from 0.01 to 10, at 1.5 of the limit."""
    curvatures = torch.logspace(-2, 1, 40, dtype=torch.float64)
    weight = nn.Linear(40, 1, bias=False, dtype=torch.float64)
    hyper = nn.Linear(40, 1, bias=False, dtype=torch.float64)
    nested = br.Nested(
        params=weight,
        hyper=hyper,
        inner=lambda: 0.5 * (curvatures * (weight.weight - hyper.weight).square()).sum(),
        outer=lambda: (weight.weight - 1).square().sum(),
        method=br.Implicit(watched_solver),
        optimizer=torch.optim.SGD(weight.parameters(), lr=3 / 10),
    )
    first, *_, last = (nested()[1] for _ in range(10))
    assert 1.4 < first.training_stability <= last.training_stability <= 1.5 + 1e-9
    assert last.training_stability > 1.49
    assert br.Result.unstable_training in last.warnings
    assert last.products <= first.products - 9  # power iteration goes on where it was


@pytest.fixture(
    params=[
        br.Scale(0.1),
        br.CG(2, preconditioner=br.Nystrom(30, refresh=100)),
        br.CG(2, preconditioner=br.Scale(0.1)),
        br.Dense(),
    ],
    ids=["scale", "nystrom", "scaled", "dense"],
)
def watched_solver(request):
    return request.param


def test_a_velocity_that_takes_in_nothing_is_stable():
    _, nested, _ = problem(9.0, momentum=0.5, dampening=1.0)
    assert not (nested()[1].training_stability or 0) > 1
