"""Hypergradients by the implicit function theorem."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._result import Result, Stats
from bestresponse._tree import Layout, Partial
from bestresponse.methods._base import (
    Hypergradient,
    Method,
    OuterGradients,
    Problem,
    assemble,
    replace_report,
)
from bestresponse.operators import Hessian, Identity, Linearization, LinearOperator
from bestresponse.solvers import CG, Solver, check_solver, linear_solve


@dataclass(frozen=True)
class Implicit(Method):
    """dL_V/dλ = ∂L_V/∂λ − (∂²L_T/∂λ∂w) q with (A + damping·I) q = ∂L_V/∂w.

    A is the inner Hessian at the current weights. Exact where the inner gradient is zero and the
    solve is; the report says how far both are.

    Args:
        solver: how q is approximated.
        damping: added to the diagonal of A; bounds q where A is nearly singular.

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

    def __post_init__(self) -> None:
        check_solve(self.solver, self.damping)

    def differentiate(self, problem: Problem) -> Hypergradient:
        """One retained graph of the inner gradient serves every product."""
        # the outer closure comes first: a checkpointed inner one updates live buffers on its way
        outer = problem.outer_gradients(problem.params)
        point = Linearization(problem.inner_loss, problem.params, problem.hyper)
        curvature = Hessian(point)
        return implicit_hypergradient(problem, outer, point, curvature, self.solver, self.damping)


class Point(Protocol):
    """The inner loss around one point."""

    layout: Layout
    gradient: Tensor

    def mixed_product(self, vector: Tensor) -> Partial:
        """(∂²L_T/∂λ∂w) v."""
        ...


def implicit_hypergradient(
    problem: Problem,
    outer: OuterGradients,
    point: Point,
    curvature: LinearOperator,
    solver: Solver,
    damping: float,
) -> Hypergradient:
    """The one place where the formula of the implicit function theorem is put together."""
    operator = curvature
    if damping:
        operator = curvature + damping * Identity.of(curvature)
    right_side = point.layout.flatten(outer.params)
    solution = linear_solve(operator, right_side, solver, throw=False)
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
    )
    return _with_stationarity(hypergradient)


def _of_undamped(stats: Stats, damping: float) -> Stats:
    """The curvature that was seen is the inner loss's own."""
    if stats.largest_curvature is None:
        return stats
    return replace(stats, largest_curvature=stats.largest_curvature - damping)


def _with_stationarity(hypergradient: Hypergradient) -> Hypergradient:
    """Warn if the inner gradient is longer than the outer one: no best response is near."""
    report = hypergradient.report
    if not report.inner_gradient_norm > report.outer_gradient_norm:
        return hypergradient
    return replace_report(hypergradient, report.warn(Result.not_stationary))


def check_solve(solver: object, damping: float) -> None:
    """Refuse settings of a solve that make no sense."""
    check_solver(solver)
    if not damping >= 0:
        raise InputError(f"damping={damping} is negative; use 0 or a small positive number.")
