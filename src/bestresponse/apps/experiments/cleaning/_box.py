"""L-BFGS within bounds, one accepted point after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Function = Callable[[Tensor], tuple[float, Tensor]]
"""Value and gradient (n,) at a point (n,)."""

_HISTORY = 10
_ARMIJO = 1e-4
_SHORTER = 0.4
_SHORTEST = 1e-4  # share of a step below which there is no progress to be had
_CURVED = 1e-10


def descend(
    function: Function, start: Tensor, low: float, high: float, move: float
) -> Iterator[Tensor]:
    """Points of ever lower value, up to a stationary one.

    The two-metric projection: at each point the entries that the gradient holds at a bound are
    left out, L-BFGS takes a step in the others, and what leaves the box is put back onto it.
    Entries change sides by the hundred that way, where a line search up to the first bound would
    turn them over one by one.

    Args:
        function: value and gradient; may be inexact where it tells so by small steps that fail.
        start: the first point, (n,), within the bounds.
        low: of every entry; may be −∞.
        high: of every entry; may be ∞.
        move: by how much the median entry moves in a step without curvature.

    Source: Bertsekas, "Projected Newton Methods for Optimization Problems with Simple
    Constraints" (1982), https://doi.org/10.1137/0320018; Schmidt, Kim, Sra, "Projected
    Newton-type Methods in Machine Learning" (2011)
    """
    point, (value, gradient) = start, function(start)
    pairs: list[tuple[Tensor, Tensor]] = []
    while True:
        held = ((point <= low) & (gradient > 0)) | ((point >= high) & (gradient < 0))
        free = torch.where(held, 0, gradient)
        if not bool(free.any()):
            return
        step = _two_loops(free, [(s * ~held, y * ~held) for s, y in pairs])
        if step is None:
            median = free[free != 0].abs().median()
            step = free * (move / median.clamp(min=torch.finfo(median.dtype).tiny))
        found = _shortened(function, point, step, value, gradient, (low, high))
        if found is None and not pairs:
            return
        if found is None:  # what is remembered has led nowhere: once more without it
            pairs = []
            continue
        other, value, new = found
        pairs = [*pairs, (other - point, new - gradient)][-_HISTORY:]
        point, gradient = other, new
        yield point


def _shortened(
    function: Function,
    point: Tensor,
    step: Tensor,
    value: float,
    gradient: Tensor,
    bounds: tuple[float, float],
) -> tuple[Tensor, float, Tensor] | None:
    """The point after the step, shortened until it pays, its value and its gradient."""
    share = 1.0
    while share >= _SHORTEST:
        other = (point - share * step).clamp(*bounds)
        new_value, new_gradient = function(other)
        if new_value <= value + _ARMIJO * float(gradient @ (other - point)):
            return other, new_value, new_gradient
        share *= _SHORTER
    return None


def _two_loops(gradient: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor | None:
    """The L-BFGS step, from those pairs that show positive curvature; None if none does."""
    curved = [(s, y, float(s @ y), float(y @ y)) for s, y in pairs]
    # what rounds to zero tells nothing
    curved = [pair for pair in curved if pair[2] > _CURVED * pair[3] > 0]
    if not curved:
        return None
    step, weights = gradient.clone(), list[float]()
    for s, y, sy, _ in reversed(curved):
        weights.append(float(s @ step) / sy)
        step -= weights[-1] * y
    _, _, sy, yy = curved[-1]
    step *= sy / yy
    for (s, y, sy, _), weight in zip(curved, reversed(weights), strict=True):
        step += s * (weight - float(y @ step) / sy)
    return step
