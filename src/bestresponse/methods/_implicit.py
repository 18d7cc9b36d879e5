"""Hypergradients by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._problem import OuterGradients, Problem
from bestresponse._result import Memory, Result, Solution, Stats
from bestresponse.methods._base import Hypergradient, Method, assemble, replace_report
from bestresponse.methods._bound import error_bound
from bestresponse.methods._curvature import Curvature, ExactHessian
from bestresponse.methods._points import AveragedPoint, ChunkedPoint, Point, ResampledPoint
from bestresponse.operators import Compiled, Identity, LinearOperator
from bestresponse.solvers import CG, Solver, check_solver, linear_solve, power_steps

_FIRST_POWER_STEPS = 10


@dataclass(frozen=True)
class Implicit(Method):
    """dL_V/dλ = ∂L_V/∂λ − (∂²L_T/∂λ∂w) q with (A + damping·I) q = ∂L_V/∂w.

    A is the curvature of the inner loss at the current weights. Exact where the inner gradient is
    zero and the solve is; the report says how far both are.

    Args:
        solver: how q is approximated.
        damping: added to the diagonal of A; bounds q where A is nearly singular.
        curvature: what A is: `GaussNewton(...)`, `Fisher(...)`; None is the exact inner Hessian.
        chunked: of several inner batches (`Batches`) keep one graph at a time: memory for one
            batch, at twice the time.
        resample: of several inner batches use another one for each product, in turn, for
            solvers that only need products to be right on average: `Neumann`, `SingleLoop`.
        error_bound: prove a bound on the error that the solve leaves in the hypergradient, where
            there is one (`Report.error_bound`): with Gauss-Newton or Fisher curvature. Costs a
            product, two products with the penalty, and 2 to 12 mixed products.
        compile: take the products with A as code of `torch.compile` from the third of a call on,
            at the masks and numbers of that call. Where that does not go, a warning names the
            operation. Worth it for many products of small operations: 3 times as fast on a
            small MLP, 1.1 times on one of 670k weights, no faster on convolutions; compiling
            takes seconds, once a process. Not with chunked or resample.

    Source: Lorraine, Vicol, Duvenaud, "Optimizing Millions of Hyperparameters by Implicit
    Differentiation" (2020), https://arxiv.org/abs/1911.02590

    Example:
        The minimum of ½(w − λ)² is w = λ, so the outer loss ½w² has the gradient λ.

        >>> import torch, bestresponse as br
        >>> inner = lambda params, hyper: 0.5 * (params["w"] - hyper["a"]).square().sum()
        >>> outer = lambda params, hyper: 0.5 * params["w"].square().sum()
        >>> at = {"w": torch.tensor([3.0])}, {"a": torch.tensor([3.0])}
        >>> br.hypergradient(inner, outer, *at, br.Implicit(br.CG())).value["a"]
        tensor([3.])
    """

    solver: Solver = field(default_factory=CG)
    damping: float = 0.0
    curvature: Curvature | None = None
    chunked: bool = False
    resample: bool = False
    error_bound: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        check_solve(self.solver, self.damping)
        if self.curvature is not None and not isinstance(self.curvature, Curvature):
            raise InputError(
                f"{self.curvature!r:.60} is no curvature; use br.GaussNewton, br.Fisher or None."
            )
        if self.chunked and self.resample:
            raise InputError(
                "chunked takes the mean over all batches and resample one a product; choose one."
            )
        if self.resample and not self.solver.stochastic:
            raise InputError(
                "resample takes each product with another batch, which "
                f"{type(self.solver).__name__} cannot solve with; use br.Neumann or "
                "br.SingleLoop, or chunked=True."
            )
        if self.resample and self.error_bound:
            raise InputError(
                "resample takes each product with another batch, so that no error can be bounded; "
                "leave out error_bound=True."
            )
        if self.compile and (self.chunked or self.resample):
            raise InputError(
                "chunked and resample build their graphs anew for each product, which cannot be "
                "compiled; leave out compile=True."
            )

    @property
    def closures(self) -> tuple[Callable[..., Any], ...]:
        """Those of the curvature."""
        return () if self.curvature is None else self.curvature.closures

    def differentiate(self, problem: Problem) -> Hypergradient:
        """One graph serves every product."""
        # the outer closure comes first: a checkpointed inner one updates live buffers on its way
        outer = problem.outer_gradients(problem.params)
        return implicit_hypergradient(
            problem,
            outer,
            self.point(problem),
            self.solver,
            self.damping,
            bounded=self.error_bound,
            compiled=self.compile,
        )

    def point(self, problem: Problem) -> Point:
        """The inner loss around the problem's point, on its batches."""
        curvature = self.curvature or ExactHessian()
        makers = [
            partial(curvature.at, problem, number) for number in range(len(problem.inner_batches))
        ]
        if len(makers) == 1:
            return makers[0]()
        if self.resample:
            return ResampledPoint(makers)
        return ChunkedPoint(makers) if self.chunked else AveragedPoint([make() for make in makers])


def implicit_hypergradient(
    problem: Problem,
    outer: OuterGradients,
    point: Point,
    solver: Solver,
    damping: float,
    *,
    bounded: bool = False,
    compiled: bool = False,
) -> Hypergradient:
    """The one place where the formula of the implicit function theorem is put together."""
    operator = Compiled(point.curvature) if compiled else point.curvature
    if damping:
        operator = operator + damping * Identity.of(operator)
    right_side = outer.flat
    solution = linear_solve(operator, right_side, solver, memory=problem.memory, throw=False)
    if problem.watched and solution.stats.largest_curvature is None:
        solution = _watched(solution, operator, right_side, problem.memory)
    indirect = {
        name: None if product is None else -product
        for name, product in point.mixed_product(solution.value).items()
    }
    hypergradient = assemble(
        problem,
        outer,
        indirect,
        point.gradient.norm(),
        stats=_of_undamped(solution.stats, damping),
        steps=solution.stats.steps,
        result=solution.result,
        memory=solution.memory,
    )
    if bounded:
        bound = error_bound(point, operator, right_side, solution.value)
        hypergradient = replace_report(
            hypergradient, replace(hypergradient.report, error_bound=bound)
        )
    return _with_stationarity(hypergradient)


def _watched(
    solution: Solution, operator: LinearOperator, right_side: Tensor, memory: Memory
) -> Solution:
    """With the largest curvature by power iteration, which goes on from call to call."""
    iterate = memory.get("steepest")
    fits = iterate is not None and iterate.shape == right_side.shape
    iterate = iterate.to(right_side) if iterate is not None and fits else right_side
    steps = 1 if fits else _FIRST_POWER_STEPS
    with torch.no_grad():
        largest, iterate = power_steps(operator, iterate, steps)
    stats = replace(
        solution.stats,
        products=solution.stats.products + steps,
        largest_curvature=float(largest),
    )
    return replace(solution, stats=stats, memory={**solution.memory, "steepest": iterate})


def _of_undamped(stats: Stats, damping: float) -> Stats:
    """The curvature that was seen is the inner loss's own."""
    return replace(
        stats,
        largest_curvature=_less(stats.largest_curvature, damping),
        smallest_curvature=_less(stats.smallest_curvature, damping),
    )


def _less(value: float | None, damping: float) -> float | None:
    return None if value is None else value - damping


def _with_stationarity(hypergradient: Hypergradient) -> Hypergradient:
    """Warn if the inner gradient is longer than the outer one: no best response is near."""
    report = hypergradient.report
    if not report.inner_gradient_norm > report.outer_gradient_norm:
        return hypergradient
    return replace_report(hypergradient, report.warn(Result.not_stationary))


def check_solve(solver: object, damping: float) -> None:
    """Refuse settings of a solve that make no sense."""
    check_solver(solver)
    if not (isinstance(damping, int | float) and damping >= 0):
        raise InputError(f"damping={damping} is no damping; use 0 or a small positive number.")
