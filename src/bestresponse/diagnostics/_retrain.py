"""The inner problem solved again, accurately, and the same way each time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from time import perf_counter

import torch
from torch import Tensor

from bestresponse._guards import no_activation_checkpointing
from bestresponse._problem import Problem
from bestresponse._tree import Layout, leaves_of
from bestresponse.methods import FiniteDifference, Implicit, Method
from bestresponse.methods._points import Point
from bestresponse.operators import Differences
from bestresponse.solvers import CG, linear_solve

PointAt = Callable[[Problem], Point]
"""The inner loss around a problem's point."""

_MOST_STEPS = 100
_MOST_HALVINGS = 25
_SUFFICIENT = 1e-4  # share of the promised decrease that a step must bring (Armijo)
_LOOSEST, _TIGHTEST = 0.1, 1e-8  # relative residual of a Newton step, far away and nearby


class Clock:
    """How much time is left."""

    def __init__(self, seconds: float) -> None:
        self.end = perf_counter() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return max(0.0, self.end - perf_counter())

    def share(self, part: float) -> Clock:
        """A clock for a part of what is left."""
        return Clock(part * self.left)


def points_of(method: Method) -> PointAt:
    """How the inner Hessian is to be had: as the method does it, but never a stand-in for it."""
    if isinstance(method, FiniteDifference):  # perhaps there is no second derivative

        def differences(problem: Problem) -> Point:
            return Differences(problem.inner_loss, problem.params, problem.hyper, method.epsilon)

        return differences
    chunked = isinstance(method, Implicit) and (method.chunked or method.resample)
    return Implicit(chunked=chunked).point


@dataclass(frozen=True)
class Minimum:
    """Where retraining ended.

    Attributes:
        problem: the problem at the last weights.
        gradient_norm: ‖∂L_T/∂w‖ there.
        start_norm: ‖∂L_T/∂w‖ where it began.
        steps: Newton steps.
    """

    problem: Problem
    gradient_norm: float
    start_norm: float
    steps: int

    @property
    def vector(self) -> Tensor:
        """The weights, flat."""
        return Layout.of(self.problem.params).flatten(self.problem.params)

    @property
    def loss(self) -> float:
        """The outer loss."""
        return float(self.problem.outer_gradients(self.problem.params).loss)


def at(problem: Problem, vector: Tensor) -> Problem:
    """The problem at other weights, given flat."""
    return replace(problem, params=Layout.of(problem.params).unflatten(vector))


def retrained(
    problem: Problem, point_at: PointAt, scale: float, target: float, clock: Clock
) -> Minimum:
    """A minimum of the inner loss near the problem's weights, by Newton's method.

    Each step is solved by conjugate gradients, which end where the loss curves down, and halved
    until the loss decreases enough: it comes down from anywhere and ends in a few accurate steps.
    That it arrived is told by the gradient, whatever Hessian led the way.

    Args:
        problem: the problem at the weights to start from.
        point_at: gives the Hessian.
        scale: a gradient of this length is far from zero.
        target: a gradient of this length is zero.
        clock: when to stop.
    """
    here = _Here(problem, point_at)
    start, steps, seconds = here.norm, 0, seconds_of_product(here.point)
    while here.norm > target and steps < _MOST_STEPS and clock.left:
        budget = max(1, min(4 * len(here.gradient) + 50, int(clock.left / seconds)))
        lower = here.lower(here.newton_step(budget, here.norm / scale), clock)
        if lower is None:
            break
        here, steps = lower, steps + 1
    return Minimum(here.problem, here.norm, start, steps)


def seconds_of_product(point: Point) -> float:
    """What a product with the Hessian takes."""
    begin = perf_counter()
    float(point.curvature.mv(point.gradient).sum())
    return max(1e-6, perf_counter() - begin)


class _Here:
    """The inner loss, its gradient and its Hessian at one point."""

    def __init__(self, problem: Problem, point_at: PointAt) -> None:
        self.problem, self.point_at = problem, point_at

    @cached_property
    def loss(self) -> float:
        with no_activation_checkpointing("inner"):
            params, hyper = leaves_of(self.problem.params), leaves_of(self.problem.hyper)
            return float(self.problem.inner_loss(params, hyper).detach())

    @cached_property
    def point(self) -> Point:
        with no_activation_checkpointing("inner"):
            return self.point_at(self.problem)

    @cached_property
    def gradient(self) -> Tensor:
        return self.point.gradient

    @cached_property
    def norm(self) -> float:
        return float(self.gradient.norm())

    def newton_step(self, products: int, nearness: float) -> Tensor:
        """−A⁻¹g, as exactly as the gradient is small; a descent direction in any case."""
        rtol = min(_LOOSEST, max(_TIGHTEST, nearness))
        solver = CG(max_steps=products, rtol=rtol)
        step = linear_solve(self.point.curvature, -self.gradient, solver, throw=False).value
        if bool(step.isfinite().all()) and float(step @ self.gradient) < 0:
            return step
        curvature = float(self.point.curvature.mv(self.gradient).norm()) / self.norm
        return -self.gradient / curvature if 0 < curvature < math.inf else -self.gradient

    def lower(self, step: Tensor, clock: Clock) -> _Here | None:
        """A better point along a step; None if rounding hides every one, or there is no time."""
        start = Layout.of(self.problem.params).flatten(self.problem.params)
        slope = float(step @ self.gradient)
        for halving in range(_MOST_HALVINGS):
            length = 0.5**halving
            if halving and not clock.left:
                return None
            there = _Here(at(self.problem, start + length * step), self.point_at)
            if self._accepts(there, length * slope):
                return there
        return None

    def _accepts(self, there: _Here, promised: float) -> bool:
        decrease = there.loss - self.loss
        # a difference of losses has half of the digits that the gradient has
        rounding = 1e3 * torch.finfo(self.gradient.dtype).eps * abs(self.loss)
        if -promised < rounding:
            return abs(decrease) <= rounding and there.norm < self.norm
        return decrease <= _SUFFICIENT * promised
