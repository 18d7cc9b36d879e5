"""Integrals of a slope in one dimension, from a table at knots that a whole batch shares.

The function that is evaluated is the integral of the slope that is meant only up to the rule's
error; what is guaranteed is guaranteed of the former.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse.jacnet._quadrature import gauss_legendre

SlopeAt = Callable[[Tensor], Tensor]
"""Slopes (..., dim, points) at times (..., dim, points) or (dim, points)."""

_LOOKS = 33  # points of a cell at which its slope is looked at
_ROUNDS = 60  # of safeguarded Newton; halving alone needs about so many


class Antiderivative(ABC):
    """F with F' the slope, on all of the line, at today's weights."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """F at points (..., dim)."""

    @abstractmethod
    def inverse(self, y: Tensor) -> tuple[Tensor, int]:
        """The x (..., dim) with F(x) = y for an increasing F, and how many steps it took."""

    @abstractmethod
    def meant(self, x: Tensor) -> Tensor:
        """The slope that is integrated, at points (..., dim)."""

    @abstractmethod
    def extremes(self) -> tuple[Tensor, Tensor]:
        """The smallest and the largest slope of F that is known of, scalars."""


class Table(ABC):
    """How to integrate a slope: frozen settings.

    Attributes:
        low: the first knot.
        high: the last one; beyond both, F goes on as straight lines.
    """

    low: float
    high: float
    proves = False
    """Whether `extremes` are those of all slopes of F, not only of those that were looked at."""

    @abstractmethod
    def of(self, slope: SlopeAt, like: Tensor, dim: int) -> Antiderivative:
        """F for a slope, in the type and on the device of `like`."""


@dataclass(frozen=True)
class Knots(Table):
    """The slope at `count` equidistant knots, and between them linear: F is exact.

    Values at the knots bound all slopes of F, so that what the network's activation guarantees is
    a theorem about F, at any weights; and the inverse is a formula.

    Args:
        low: the first knot.
        high: the last knot.
        count: how many.

    Example:
        >>> square = Knots(0.0, 1.0, 3).of(lambda t: 2 * t, torch.zeros(1), dim=1)
        >>> square(torch.tensor([0.5]))
        tensor([0.2500])
    """

    low: float = -4.0
    high: float = 4.0
    count: int = 65
    proves = True

    def __post_init__(self) -> None:
        _check(self, "count", 2)

    def of(self, slope: SlopeAt, like: Tensor, dim: int) -> Antiderivative:
        """By the trapezoidal rule, which is exact here."""
        knots = _knots(self, self.count, like)
        return _Spline(knots, slope(knots.expand(dim, -1)))


@dataclass(frozen=True)
class Cells(Table):
    """Gauss-Legendre from the nearest knot below: the paper's adaptively chosen initial conditions.

    Composite quadrature whose cells a batch shares. Accurate for smooth slopes; but a quadrature
    rule's derivative is not the slope, so that a guarantee needs cells enough and is only checked.

    Args:
        low: the first knot.
        high: the last knot.
        cells: parts between them.
        nodes: of the rule in each of them.

    Example:
        >>> fourth = Cells(0.0, 1.0, cells=1, nodes=2).of(lambda t: 4 * t ** 3, torch.zeros(1), 1)
        >>> fourth(torch.tensor([0.5]))
        tensor([0.0625])
    """

    low: float = -4.0
    high: float = 4.0
    cells: int = 32
    nodes: int = 4

    def __post_init__(self) -> None:
        _check(self, "cells", 1)
        _check(self, "nodes", 1)

    def of(self, slope: SlopeAt, like: Tensor, dim: int) -> Antiderivative:
        """Every cell's integral in one evaluation."""
        return _Composite(_knots(self, self.cells + 1, like), slope, self.nodes, dim)


@dataclass(frozen=True)
class _Spline(Antiderivative):
    """Pieces of degree two with continuous slopes."""

    knots: Tensor
    slopes: Tensor

    def __post_init__(self) -> None:
        steps = (self.slopes[..., 1:] + self.slopes[..., :-1]) / 2 * self._width
        object.__setattr__(self, "values", _cumulated(steps))

    values: Tensor = None  # type: ignore[assignment]

    @property
    def _width(self) -> Tensor:
        return self.knots[1] - self.knots[0]

    def __call__(self, x: Tensor) -> Tensor:
        inside = x.clamp(self.knots[0], self.knots[-1])
        cell = _cell(inside.detach(), self.knots)
        start, slope, change = self._piece(cell)
        u = inside - self.knots[cell]
        # beyond the ends u stands still, and the slope there goes on
        return start + (slope + change * u / 2) * u + (slope + change * u) * (x - inside)

    def inverse(self, y: Tensor) -> tuple[Tensor, int]:
        values = self.values.expand(*y.shape, -1)
        cell = torch.searchsorted(values.detach().contiguous(), y.detach()[..., None])[..., 0] - 1
        start, slope, change = self._piece(cell.clamp(0, values.shape[-1] - 2))
        # beyond the ends straight lines go on
        last = cell >= values.shape[-1] - 1
        start = torch.where(last, values[..., -1], start)
        slope = torch.where(last, self.slopes[..., -1].expand(y.shape), slope)
        outside = last | (cell < 0)
        change = torch.where(outside, 0.0, change)
        at = torch.where(last, self.knots[-1], self.knots[cell.clamp(0, len(self.knots) - 2)])
        rise = y - start
        # the root of slope·u + change·u²/2 = rise that does not cancel
        root = (slope * slope + 2 * change * rise).clamp(min=0).sqrt()
        return at + 2 * rise / (slope + root), 1

    def meant(self, x: Tensor) -> Tensor:
        inside = x.clamp(self.knots[0], self.knots[-1])
        cell = _cell(inside, self.knots)
        _, slope, change = self._piece(cell)
        return slope + change * (inside - self.knots[cell])

    def _piece(self, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Value and slope at the start of a cell, and how the slope changes in it."""
        left, right = _looked_up(self.slopes, cell), _looked_up(self.slopes, cell + 1)
        return _looked_up(self.values, cell), left, (right - left) / self._width

    def extremes(self) -> tuple[Tensor, Tensor]:
        smallest, largest = self.slopes.aminmax()
        return smallest, largest


class _Composite(Antiderivative):
    """A sum of whole cells, and a part of the next one."""

    def __init__(self, knots: Tensor, slope: SlopeAt, nodes: int, dim: int) -> None:
        self._knots, self._slope, self._dim = knots, slope, dim
        times, weights = gauss_legendre(nodes)
        self._times = torch.tensor(times, dtype=torch.float64).to(knots)
        self._weights = torch.tensor(weights, dtype=torch.float64).to(knots)
        width = knots[1] - knots[0]
        every = (knots[:-1, None] + width * self._times).reshape(-1)
        slopes = slope(every.expand(dim, -1)).unflatten(-1, (-1, nodes))
        self._values = _cumulated(width * (slopes @ self._weights))

    def __call__(self, x: Tensor) -> Tensor:
        inside = x.clamp(self._knots[0], self._knots[-1])
        cell = _cell(inside.detach(), self._knots)
        start = _looked_up(self._values, cell)
        at = self._knots[cell]
        part = inside - at
        slopes = self._slope(at[..., None] + part[..., None] * self._times)
        end = self._slope(inside[..., None])[..., 0]
        return start + part * (slopes @ self._weights) + end * (x - inside)

    def inverse(self, y: Tensor) -> tuple[Tensor, int]:
        """Newton's method between two knots, halved wherever it leaves what encloses the root."""
        with torch.no_grad():
            values = self._values.expand(*y.shape, -1).contiguous()
            cell = torch.searchsorted(values, y[..., None])[..., 0]
            low, high = self._enclosed(cell, y, values)
            x, steps = self._guess(cell, y, values, low, high), 0
            resting = torch.zeros_like(x, dtype=torch.bool)
            rounding = torch.finfo(y.dtype).eps
            while steps < _ROUNDS and not bool(resting.all()):
                off, slope = self(x) - y, self.meant(x)
                low, high = torch.where(off > 0, low, x), torch.where(off > 0, x, high)
                trial = x - off / slope
                # the root may be an end of what encloses it
                inside = (trial >= low) & (trial <= high)
                following = torch.where(inside, trial, (low + high) / 2)
                close = (off.abs() <= 4 * rounding * (1 + y.abs())) | (
                    (following - x).abs() <= 2 * rounding * (1 + x.abs())
                )
                x, steps = torch.where(resting, x, following), steps + 1
                resting = resting | close
        return x, steps

    def _guess(self, cell: Tensor, y: Tensor, values: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Along the chord of a cell; the middle outside of the table."""
        last = len(self._knots) - 1
        start, end = (_looked_up(values, k.clamp(0, last)) for k in (cell - 1, cell))
        share = torch.where(end > start, (y - start) / (end - start), 0.5)
        inside = (cell > 0) & (cell <= last)
        return low + (high - low) * torch.where(inside, share, 0.5)

    def _enclosed(self, cell: Tensor, y: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Ends between which the root lies; outside of the table its distance is known."""
        last = len(self._knots) - 1
        low = self._knots[(cell - 1).clamp(0, last)].clone()
        high = self._knots[cell.clamp(0, last)].clone()
        ends = self._slope(self._knots[[0, last]].expand(self._dim, -1)).expand(*y.shape, -1)
        below = (values[..., 0] - y).clamp(min=0) / ends[..., 0]
        above = (y - values[..., -1]).clamp(min=0) / ends[..., 1]
        return low - 2 * below, high + 2 * above

    def meant(self, x: Tensor) -> Tensor:
        return self._slope(x.clamp(self._knots[0], self._knots[-1])[..., None])[..., 0]

    def _at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            value = self(leaf)
            (slope,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), slope

    def extremes(self) -> tuple[Tensor, Tensor]:
        """Of F's own derivative, at points of each cell, on both sides of knots, where it jumps."""
        width = self._knots[1] - self._knots[0]
        inside = torch.linspace(0, 1, _LOOKS, dtype=self._knots.dtype, device=width.device)
        inside = inside.clamp(1e-6, 1 - 1e-6)
        points = (self._knots[:-1, None] + width * inside).reshape(-1)
        smallest, largest = self._at(points[:, None].expand(-1, self._dim))[1].aminmax()
        return smallest, largest


def _knots(table: Table, count: int, like: Tensor) -> Tensor:
    return torch.linspace(table.low, table.high, count, dtype=torch.float64).to(like)


def _cell(x: Tensor, knots: Tensor) -> Tensor:
    """The number of the cell in which each point lies."""
    # not by division, which may round into the next cell
    return (torch.bucketize(x, knots, right=True) - 1).clamp(0, len(knots) - 2)


def _looked_up(table: Tensor, index: Tensor) -> Tensor:
    """Entries of tables (..., dim, knots), one for each of the indices (..., dim)."""
    shape = torch.broadcast_shapes(table.shape[:-1], index.shape)
    return table.expand(*shape, -1).gather(-1, index.expand(shape)[..., None])[..., 0]


def _cumulated(steps: Tensor) -> Tensor:
    """The sums of the first 0, 1, 2, … steps."""
    return torch.cat([torch.zeros_like(steps[..., :1]), steps.cumsum(-1)], dim=-1)


def _check(table: Table, field: str, least: int) -> None:
    name = type(table).__name__
    if not -math.inf < table.low < table.high < math.inf:
        raise InputError(f"{name}(low={table.low}, high={table.high}) is no interval.")
    count = getattr(table, field)
    if not (isinstance(count, int) and count >= least):
        raise InputError(f"{name}({field}={count!r}) must be {least} or more.")
