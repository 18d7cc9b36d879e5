"""Differences of the outer loss through solving the inner problem again at other λ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bestresponse._problem import Problem
from bestresponse._tree import Layout
from bestresponse.diagnostics._retrain import Clock, Minimum, PointAt, at, retrained
from bestresponse.diagnostics._slopes import Directions, Slopes, step_length
from bestresponse.methods import Unroll

Pair = Callable[[Tensor, Clock], tuple[float, float] | None]
"""The outer loss at λ + δ and at λ − δ, within a time; None if that did not suffice."""

_NEGLIGIBLE = 1e-3  # share of a difference that may come from an inner gradient that is not zero


@dataclass(frozen=True)
class Differences:
    """Slopes by central differences.

    Attributes:
        slopes: along the directions there was time for; None without any.
        uncertainty: how far the first slope moves if its step is doubled.
    """

    slopes: Slopes | None
    uncertainty: float


def differences(pair: Pair, problem: Problem, directions: Directions, clock: Clock) -> Differences:
    """The outer loss's slopes along the directions, as many as there is time for."""
    values: list[float] = []
    uncertainty = 0.0
    for number, direction in enumerate(directions.basis):
        length = step_length(direction, problem.hyper, relative_step(problem))
        remaining = len(directions) - number + (number == 0)
        slope = _slope(pair, direction, length, clock.share(1 / remaining))
        if slope is None:
            break
        values.append(slope)
        if number == 0:
            doubled = _slope(pair, direction, 2 * length, clock.share(1 / len(directions)))
            uncertainty = abs(doubled - slope) if doubled is not None else abs(slope)
    if not values:
        return Differences(None, 0.0)
    return Differences(Slopes(directions, directions.basis.new_tensor(values)), uncertainty)


def _slope(pair: Pair, direction: Tensor, length: float, clock: Clock) -> float | None:
    ends = pair(length * direction, clock)
    return None if ends is None else (ends[0] - ends[1]) / (2 * length)


def relative_step(problem: Problem) -> float:
    """Step of a difference relative to λ: balances truncation against the inner gradient's end."""
    return float(torch.finfo(Layout.of(problem.params).dtype).eps ** 0.2)


def acceptable_gradient(problem: Problem, scale: float) -> float:
    """An inner gradient that spoils a difference by `_NEGLIGIBLE` at the most."""
    return _NEGLIGIBLE * relative_step(problem) * scale


def through_retraining(minimum: Minimum, point_at: PointAt, scale: float, target: float) -> Pair:
    """Pairs by retraining from the minimum at λ: there, and then from the mirrored weights."""
    acceptable = acceptable_gradient(minimum.problem, scale)

    def pair(delta: Tensor, clock: Clock) -> tuple[float, float] | None:
        losses: list[float] = []
        start = minimum.vector
        for sign in (1, -1):
            problem = at(_moved(minimum.problem, sign * delta), start)
            end = retrained(problem, point_at, scale, target, clock)
            if not end.gradient_norm <= acceptable:
                return None
            losses.append(end.loss)
            start = 2 * minimum.vector - end.vector  # right up to the response's curvature
        return losses[0], losses[1]

    return pair


def through_steps(problem: Problem, method: Unroll) -> Pair:
    """Pairs by taking the method's own steps again."""
    plain = replace(method, truncate=1, checkpoint=None)  # only its loss is wanted

    def pair(delta: Tensor, clock: Clock) -> tuple[float, float] | None:
        if not clock.left:
            return None
        ahead, behind = (
            float(plain.differentiate(_moved(problem, sign * delta)).loss) for sign in (1, -1)
        )
        return ahead, behind

    return pair


def _moved(problem: Problem, delta: Tensor) -> Problem:
    """The problem at λ + δ."""
    layout = Layout.of(problem.hyper)
    return replace(problem, hyper=layout.unflatten(layout.flatten(problem.hyper) + delta))
