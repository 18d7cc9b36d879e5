"""`bestresponse experiment jacnet-kronecker`: Kronecker factors for large Jacobians."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import process_time
from typing import ClassVar

import torch
from torch import Tensor

from bestresponse import jacnet
from bestresponse.apps import _figures, _html, _options
from bestresponse.apps.experiments._experiment import Experiment, Findings, Pulse
from bestresponse.apps.experiments.jacnet._targets import relative_error

_SIZES = (4, 8, 12, 16)
_BATCH = 256
_HEADINGS = ("dimension", "dense solve, ms", "Kronecker solve, ms", "times faster",
             "numbers in the matrix", "in the factors", "largest difference")  # fmt: skip


@dataclass(frozen=True)
class JacNetKronecker(Experiment):
    """Kronecker factors: solves that scale, a stack that learns, and a field that is no Jacobian.

    Solves with A ⊗ B beside dense ones; a map of matrices X ↦ s(AXBᵀ) learned by Kronecker layers
    with increasing functions between; and the path gap of a field A(x) ⊗ B(x).
    """

    iterations: int = 600
    """Of Adam."""
    rounds: int = 5
    """Timings of each solve."""

    verb: ClassVar[str] = "jacnet-kronecker"
    title: ClassVar[str] = "JacNet: Kronecker factors"

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        _options.check_positive(self, "iterations", "rounds")

    @property
    def steps(self) -> int:
        """Each size, two trainings, the field."""
        return len(_SIZES) + 3

    def measure(self, pulse: Pulse) -> Findings:
        """The three parts."""
        rows = []
        for size in _SIZES:
            rows.append(_solves(size, self.rounds))
            pulse.step(f"solves of dimension {size * size}")
        stack = _learned(self.iterations, kronecker=True)
        pulse.step("a Kronecker stack")
        plain = _learned(self.iterations, kronecker=False)
        pulse.step("a plain network")
        gap = _path_gap()
        pulse.step("the field A(x) ⊗ B(x)")
        by_size = dict(zip(_SIZES, rows, strict=True))
        headline: dict[str, float | None] = {
            "times_faster_64": by_size[8][2],
            "times_faster_256": by_size[16][2],
            "stack_error": stack,
            "plain_error": plain,
            "field_path_gap": gap,
        }
        verdict = (
            f"A Kronecker solve of dimension 256 is {by_size[16][2]:.0f} times as fast as a dense "
            f"one; Kronecker layers learn a map of 8 × 8 matrices to an error of {stack:.3f}, a "
            f"plain network to {plain:.3f}; a field A(x) ⊗ B(x) is no Jacobian: two paths differ "
            f"by {gap:.2g}."
        )
        curves = {"sizes": list(_SIZES), "times_faster": [row[2] for row in rows]}
        return Findings(verdict, headline, (_solve_section(rows), _text_section(headline)), curves)


Row = tuple[float, float, float, float]
"""Milliseconds dense, milliseconds of the factors, their ratio, the largest difference."""


def _solves(size: int, rounds: int) -> Row:
    torch.manual_seed(0)
    f = jacnet.KroneckerLinear(size, size).double()
    y = torch.randn(_BATCH, size * size, dtype=torch.float64)
    with torch.no_grad():
        dense = f.jacobian(y).contiguous()
        ways: tuple[Callable[[], Tensor], Callable[[], Tensor]] = (
            lambda: torch.linalg.solve(dense, (y - f.bias)[..., None])[..., 0],
            lambda: f.inverse(y).value,
        )
        off = float((ways[0]() - ways[1]()).abs().max())
        times = [statistics.median(_ms(way) for _ in range(rounds)) for way in ways]
    return times[0], times[1], times[0] / times[1], off


def _ms(run: Callable[[], Tensor]) -> float:
    start = process_time()
    run()
    return 1e3 * (process_time() - start)


def _learned(iterations: int, *, kronecker: bool, side: int = 8) -> float:
    """Test error on X ↦ s(A X Bᵀ), s increasing, from 512 examples."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    left, right = draw(side, side) / side**0.5, draw(side, side) / side**0.5

    def target(x: Tensor) -> Tensor:
        product = (left @ x.unflatten(-1, (side, side)) @ right.T).flatten(-2)
        return product + torch.tanh(2 * product)

    x, x_test = draw(512, side * side), draw(256, side * side)
    torch.manual_seed(0)
    dim = side * side
    model: torch.nn.Module = (
        jacnet.Compose([
            jacnet.KroneckerLinear(side, side),
            jacnet.Monotone1d(dim, hidden=8, table=jacnet.Knots(-5, 5, 33)),
            jacnet.KroneckerLinear(side, side),
        ])
        if kronecker
        else torch.nn.Sequential(
            torch.nn.Linear(dim, 128), torch.nn.Tanh(), torch.nn.Linear(128, dim)
        )
    ).double()  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for _ in range(iterations):
        loss = (model(x) - target(x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return relative_error(model(x_test), target(x_test))


def _path_gap() -> float:
    torch.manual_seed(0)
    f = jacnet.PathIntegral(4, 4, activation=jacnet.KroneckerProduct(2)).double()
    x = torch.randn(64, 4, dtype=torch.float64)
    return float(f.path_gap(x).median())


def _solve_section(rows: list[Row]) -> str:
    figure, (axes,) = _figures.panels(1, height=3.0)
    dims = [size**2 for size in _SIZES]
    axes.loglog(dims, [row[0] for row in rows], "o-", color=_figures.RED, label="dense")
    axes.loglog(dims, [row[1] for row in rows], "o-", color=_figures.BLUE, label="Kronecker")
    _figures.finish(axes, f"A solve for each of {_BATCH} samples", "dimension", "ms")
    cells = [
        [f"{size**2}", f"{dense:.2f}", f"{ours:.2f}", f"{ratio:.0f}", f"{size**4:,}",
         f"{2 * size**2:,}", f"{off:.0e}"]
        for size, (dense, ours, ratio, off) in zip(_SIZES, rows, strict=True)
    ]  # fmt: skip
    picture = _html.picture(_figures.to_uri(figure), "time of a solve over the dimension")
    return _html.section("Solves", "", picture, _html.table(_HEADINGS, cells))


def _text_section(headline: dict[str, float | None]) -> str:
    text = (
        "A map X ↦ s(AXBᵀ) of 8 × 8 matrices with an increasing s, learned from 512 examples: "
        f"Kronecker layers with increasing functions between them reach a relative test error of "
        f"{headline['stack_error']:.3f}, a plain network with one hidden layer "
        f"{headline['plain_error']:.3f}. The stack has the target's form; that is the point. A "
        "field A(x) ⊗ B(x) of positive definite factors is positive definite at each point and "
        f"the Jacobian of nothing: two paths differ by {headline['field_path_gap']:.2g}."
    )
    return _html.section("Learning", text)
