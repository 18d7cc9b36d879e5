"""Other ways to the same hypergradient: exact solves, unrolling, differences."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from time import perf_counter

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._problem import Problem
from bestresponse._result import Result
from bestresponse._tree import Layout
from bestresponse.diagnostics._report import percent
from bestresponse.diagnostics._retrain import Clock, PointAt, seconds_of_product
from bestresponse.diagnostics._slopes import Gradient
from bestresponse.methods import (
    Curvature,
    FiniteDifference,
    Hypergradient,
    Implicit,
    Method,
    Report,
    Unroll,
)
from bestresponse.optim import SGD
from bestresponse.solvers import CG, Dense, Solver, linear_solve

_SOLVED = 1e-3  # a relative residual up to which a solve is a reference
_SHORTFALL = 1e-3  # share of the slowest direction that unrolling may leave out
_MOST_UNROLLED, _FEWEST_UNROLLED = 300, 10


@dataclass(frozen=True)
class Answer:
    """A hypergradient by one of the ways, or why there is none.

    Attributes:
        name: what was computed.
        gradient: the hypergradient, or what is known of it; None if there is none.
        seconds: what it took.
        note: how it ended.
        report: of the method that gave it.
        uncertainty: of the gradient, relative.
    """

    name: str
    gradient: Gradient | None
    seconds: float = 0.0
    note: str = ""
    report: Report | None = field(default=None, repr=False)
    uncertainty: float = 0.0

    @property
    def indefinite(self) -> bool:
        """Whether the solve met an inner loss that curves down."""
        return self.report is not None and Result.negative_curvature in self.report.warnings

    @property
    def astray(self) -> bool:
        """Whether it was computed far from any minimum."""
        moves = self.report is not None and Result.not_stationary in self.report.warnings
        return moves or self.indefinite

    @property
    def exact(self) -> bool:
        """Whether the linear system was solved."""
        residual = self.report.relative_residual if self.report else None
        return residual is not None and residual <= _SOLVED


def answered(name: str, method: Method, problem: Problem) -> Answer:
    """What a method gives for a problem."""
    begin = perf_counter()
    found = method.differentiate(problem)
    seconds = perf_counter() - begin
    broken = found.report.result.is_error
    gradient = None if broken else flat(found)
    return Answer(name, gradient, seconds, _said(found.report), found.report)


def flat(hypergradient: Hypergradient) -> Tensor:
    """The hypergradient as one float64 vector."""
    return Layout.of(hypergradient.value).flatten(hypergradient.value).double()


def _said(report: Report) -> str:
    """How it ended, as short as a table wants it."""
    steps = f"{report.products} products" if report.stats else f"{report.steps} steps"
    residual = report.relative_residual
    known = [f"residual {residual:.1e}"] if residual is not None else []
    ends = [report.result] if report.result.is_error else report.warnings
    return ", ".join([steps, *known, *(end.name for end in ends)])


@dataclass(frozen=True)
class ExactSolves:
    """Implicit hypergradients with all digits: dense where affordable, else conjugate gradients.

    Attributes:
        method: the chosen method, whose way of taking second derivatives is kept.
        point_at: gives the Hessian.
        limit: the most weights for a dense matrix.
    """

    method: Method
    point_at: PointAt
    limit: int

    def answer(
        self,
        name: str,
        problem: Problem,
        clock: Clock,
        damping: float = 0.0,
        curvature: Curvature | None = None,
    ) -> Answer:
        """The hypergradient with (A + damping·I) q = ∂L_V/∂w solved for exactly."""
        begin, size = perf_counter(), Layout.of(problem.params).size
        try:
            seconds = seconds_of_product(self.point_at(problem))
            if size <= self.limit and size * seconds <= clock.left:
                method = self._with(Dense(), damping, curvature)
                answer = answered(f"dense {name}", method, problem)
                if answer.gradient is not None:
                    return answer
            # too large, or singular: q may exist even so
            products = max(1, min(10 * size, int(clock.left / seconds)))
            solver = CG(max_steps=products, rtol=_tolerance(problem))
            answer = answered(f"CG {name}", self._with(solver, damping, curvature), problem)
            if not answer.exact:
                answer = replace(answer, gradient=None, note=f"{answer.note}; no reference")
        except InputError as error:
            return Answer(f"dense {name}", None, perf_counter() - begin, str(error))
        return replace(answer, seconds=perf_counter() - begin)

    def _with(self, solver: Solver, damping: float, curvature: Curvature | None) -> Method:
        if isinstance(self.method, FiniteDifference):
            return FiniteDifference(solver, self.method.epsilon, damping)
        chunked = isinstance(self.method, Implicit) and (
            self.method.chunked or self.method.resample
        )
        return Implicit(solver, damping, curvature, chunked)


def _tolerance(problem: Problem) -> float:
    return 1e-8 if Layout.of(problem.params).dtype is torch.float64 else 1e-5


def unrolled(problem: Problem, point_at: PointAt, clock: Clock) -> Answer:
    """Gradient descent from the problem's weights, at the longest step that is surely stable."""
    name, begin = "unrolled SGD", perf_counter()
    try:
        point = point_at(problem)
        stats = linear_solve(point.curvature, -point.gradient, CG(max_steps=20), throw=False).stats
        if not stats.largest_curvature or not stats.smallest_curvature:
            return Answer(name, None, perf_counter() - begin, "no stable step size is known")
        lr = 1 / stats.largest_curvature
        left_over = max(0.0, 1 - lr * stats.smallest_curvature)  # of the slowest direction, a step
        enough = math.log(_SHORTFALL) / math.log(left_over) if 0 < left_over < 1 else math.inf
        trial = answered(name, _descent(lr, 2), problem)
        affordable = 2 * clock.left / trial.seconds
        steps = math.ceil(min(enough, affordable, _MOST_UNROLLED))
        if steps < min(enough, _FEWEST_UNROLLED):
            return Answer(name, None, perf_counter() - begin, "there is no time for enough steps")
        answer = answered(name, _descent(lr, steps), problem)
    except InputError as error:
        return Answer(name, None, perf_counter() - begin, str(error))
    short = percent(left_over**steps) if left_over < 1 else "far"
    note = f"{steps} steps of lr {lr:.2g}, about {short} short"
    return replace(answer, note=note, seconds=perf_counter() - begin)


def _descent(lr: float, steps: int) -> Unroll:
    """Steps of which only about √T are held in memory at once."""
    return Unroll(SGD(lr), steps, checkpoint=math.ceil(math.sqrt(steps)))
