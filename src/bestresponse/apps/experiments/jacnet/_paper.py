"""The setting of the JacNet paper's two experiments, and what is trained in it.

What the paper leaves open: the hidden activation (tanh here), the initial value (the target's, at
zero), the first tolerance (1) and the seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bestresponse import jacnet

POINTS, TESTS = 5, 100
TRAIN_REACH, TEST_REACH = 1.0, 2.0
RATE = 0.01
GRID = torch.linspace(-2.0, 2.0, 401, dtype=torch.float64)[:, None]

_TIGHT = 1e-8  # the tolerance with which everything is judged

Target = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Contender:
    """Something that is trained on the five points.

    Attributes:
        key: its name in the figures' numbers.
        label: its name for people.
        make: an untrained one.
        annealed: its tolerance follows the paper's schedule.
    """

    key: str
    label: str
    make: Callable[[], nn.Module]
    annealed: bool = False


@dataclass
class Trained:
    """One contender after training on one seed.

    Attributes:
        model: the function.
        before: its values on the grid before training, (401,).
        after: those after it.
        risks: the training risk at each iteration.
        tolerances: that the integrator had at each iteration.
        nodes: evaluations a sample at each iteration.
        train_risk: the mean absolute error at the five points, at a tight tolerance.
        test_risk: at the hundred test points.
    """

    model: nn.Module
    before: Tensor
    after: Tensor = field(default_factory=lambda: torch.empty(0))
    risks: list[float] = field(default_factory=list)
    tolerances: list[float] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)
    train_risk: float = math.nan
    test_risk: float = math.nan

    def slopes(self) -> tuple[float, float]:
        """The smallest and the largest slope of the function between neighbours on the grid."""
        steps = self.after.diff() / GRID[:, 0].diff()
        return float(steps.min()), float(steps.max())


def perceptron() -> nn.Module:
    """The function itself as a network: no Jacobian, no guarantee."""
    return nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 1))


def points(seed: int) -> tuple[Tensor, Tensor]:
    """The inputs of one seed: five to train on, a hundred to test on."""
    generator = torch.Generator().manual_seed(1000 + seed)
    train, test = (
        reach * (2 * torch.rand(count, 1, generator=generator, dtype=torch.float64) - 1)
        for count, reach in ((POINTS, TRAIN_REACH), (TESTS, TEST_REACH))
    )
    return train, test


def train(contender: Contender, target: Target, seed: int, iterations: int) -> Trained:
    """Adam on the mean absolute error, full batch."""
    x, x_test = points(seed)
    torch.manual_seed(seed)
    model = contender.make().double()
    trained = Trained(model, before=_values(model))
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = jacnet.Annealing(start=1.0)
    for _ in range(iterations):
        predicted, nodes = _predicted(model, x, schedule.tolerance if contender.annealed else None)
        risk = (predicted - target(x)).abs().mean()
        optimizer.zero_grad()
        risk.backward()
        optimizer.step()
        trained.risks.append(risk.item())
        trained.tolerances.append(schedule.tolerance)
        trained.nodes.append(nodes)
        schedule.step(risk.item())
    with torch.no_grad():
        trained.after = _values(model)
        trained.train_risk, trained.test_risk = (
            float((_predicted(model, z, None)[0] - target(z)).abs().mean()) for z in (x, x_test)
        )
    return trained


def _predicted(model: nn.Module, x: Tensor, tolerance: float | None) -> tuple[Tensor, int]:
    """The values, and evaluations a sample."""
    if not isinstance(model, jacnet.PathIntegral):
        return model(x), 1
    found = model.integral(x, jacnet.GaussKronrod(tolerance or _TIGHT))
    return found.value, found.nodes


def _values(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return _predicted(model, GRID, None)[0][:, 0]


def inverse_error(model: nn.Module, *, polish: bool = True) -> float:
    """The largest |f⁻¹(f(x)) − x| on the grid; infinite where an inverse is not a number."""
    assert isinstance(model, jacnet.Structure)
    points = GRID if polish else GRID[::20]  # the equation alone takes many steps
    with torch.no_grad():
        y = model(points)
        if isinstance(model, jacnet.PathIntegral):
            found = model.inverse(y, throw=False, polish=polish)
        else:
            found = model.inverse(y, throw=False)
    error = (found.value - points).abs()
    return float(error.nan_to_num(math.inf).max())


def printed_inverse_error(model: nn.Module) -> float:
    """The same for the formula as the paper prints it: J⁻¹ at points between y₀ and y."""
    assert isinstance(model, jacnet.PathIntegral)
    with torch.no_grad():
        y, start = model(GRID), model.value
        rule = jacnet.GaussLegendre(16, cells=8)
        found = jacnet.line_integral(
            lambda z: 1 / model.field(z), jacnet.STRAIGHT, start.expand(y.shape), y, rule
        )
    return float((model.start + found.value - GRID).abs().max())


def median(values: Sequence[float]) -> float:
    """Of one figure over the seeds."""
    return statistics.median(values)
