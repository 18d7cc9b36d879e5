"""A nested problem at one point, and what a method returns for it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bestresponse._context import autograd_errors
from bestresponse._errors import InputError
from bestresponse._guards import check_escapes, check_graph, check_reached, check_scalar
from bestresponse._purify import Batch
from bestresponse._result import Result, Stats
from bestresponse._tree import Partial, Tree, leaves_of, tree_norm

Objective = Callable[[Tree, Tree, Batch, int], Tensor]
"""A loss as a pure function of (params, hyper, batch, seed)."""


@dataclass(frozen=True)
class Batches:
    """Several inner batches: `Unroll` takes one a step, `Implicit` averages their losses.

    Args:
        items: the batches; an iterable is read to its end when this is made.

    Example:
        >>> len(Batches([(torch.zeros(2),), (torch.ones(2),)]).items)
        2
    """

    items: tuple[Batch, ...]

    def __init__(self, items: Iterable[Batch]) -> None:
        object.__setattr__(self, "items", tuple(items))
        if not self.items:
            raise InputError("Batches got no batch; pass at least one.")


@dataclass(frozen=True)
class Problem:
    """A nested problem at one point (w, λ), as pure functions: what a method differentiates.

    Attributes:
        inner: L_T.
        outer: L_V.
        params: w, detached.
        hyper: λ, detached.
        inner_batch: one batch, or `Batches`.
        outer_batch: one batch.
        seeds: (inner, outer): every evaluation with the same seed draws the same randomness.
        read: a setting's value at a hyperparameter tree.
        live: the tensors that the user calls w, for looking up a live optimizer.
        live_hyper: the tensors that the user calls λ.
        outer_mode: what surrounds the outer closure, its backward pass included.
        checked: whether the graphs of the closures are searched for what would go wrong silently.
    """

    inner: Objective
    outer: Objective
    params: Tree
    hyper: Tree
    inner_batch: Batch | Batches
    outer_batch: Batch
    seeds: tuple[int, int]
    read: Callable[[Any, Tree], Any]
    live: Tree
    live_hyper: Tree
    outer_mode: Callable[[], AbstractContextManager[None]]
    checked: bool = True

    def inner_loss(self, params: Tree, hyper: Tree) -> Tensor:
        """The mean of the inner loss over the batches, checked; `params` are leaves."""
        batches = self.inner_batch
        items = batches.items if isinstance(batches, Batches) else (batches,)
        losses = [self.inner_step_loss(params, hyper, item, i) for i, item in enumerate(items)]
        for loss in losses:
            self.check(loss, "inner")
        return torch.stack(losses).mean() if len(losses) > 1 else losses[0]

    def inner_step_loss(self, params: Tree, hyper: Tree, batch: Batch, draw: int) -> Tensor:
        """The inner loss of one batch with the call's draw of that number."""
        return check_scalar(self.inner(params, hyper, batch, self.seeds[0] + draw), "inner")

    def outer_gradients(self, params: Tree) -> OuterGradients:
        """The outer loss and its two partial derivatives at (params, λ)."""
        params, hyper = leaves_of(params), leaves_of(self.hyper)
        with self.outer_mode():
            loss = self.outer(params, hyper, self.outer_batch, self.seeds[1])
            loss = check_scalar(loss, "outer")
            self.check(loss, "outer")
            inputs = [*params.values(), *hyper.values()]
            with autograd_errors():
                gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        by_params = {
            name: torch.zeros_like(leaf) if gradient is None else gradient
            for (name, leaf), gradient in zip(params.items(), gradients, strict=False)
        }
        direct: Partial = dict(zip(hyper, gradients[len(params) :], strict=True))
        return OuterGradients(loss.detach(), by_params, direct)

    def check(self, loss: Tensor, role: str) -> None:
        """Refuse a loss at leaves whose graph would be differentiated wrongly."""
        if not self.checked:
            return
        check_escapes(loss, self.live | self.live_hyper, role)
        check_graph(loss, role)


@dataclass(frozen=True)
class OuterGradients:
    """L_V, ∂L_V/∂w and ∂L_V/∂λ (None where L_V does not depend)."""

    loss: Tensor
    params: Tree
    direct: Partial


@dataclass(frozen=True)
class Report:
    """How a hypergradient came about and how far to trust it.

    `print(report)` is one line; `report.result.value` and the values of `report.warnings` say what
    happened and what to change.

    Attributes:
        result: the worst that happened: an error before warnings before success.
        warnings: every warning.
        stats: of the linear solve; None for `Unroll`.
        steps: steps of the solver, or unrolled steps.
        outer_loss: L_V.
        inner_gradient_norm: ‖∂L_T/∂w‖ at the weights (for `Unroll`, at the last step).
        outer_gradient_norm: ‖∂L_V/∂w‖.
        direct_norm: ‖∂L_V/∂λ‖.
        indirect_norm: the length of the part that goes through the response.
        norm: the length of their sum, the hypergradient.
        training_stability: learning rate times largest curvature seen, over its limit, for the
            SGD optimizer that `Nested` was given; above 1 training blows up.
        clipped_from: the norm before clipping, if the hypergradient was clipped.
        params: for `Unroll`, the weights after the last step.
    """

    result: Result
    warnings: tuple[Result, ...]
    stats: Stats | None
    steps: int
    outer_loss: float
    inner_gradient_norm: float
    outer_gradient_norm: float
    direct_norm: float
    indirect_norm: float
    norm: float
    training_stability: float | None = None
    clipped_from: float | None = None
    params: Tree | None = field(default=None, repr=False)

    @property
    def products(self) -> int:
        """Products with the operator."""
        return self.stats.products if self.stats else 0

    @property
    def relative_residual(self) -> float | None:
        """‖b − A q‖ / ‖b‖ of the solve, where it is known."""
        return self.stats.relative_residual if self.stats else None

    def warn(self, warning: Result) -> Report:
        """The report with one more warning."""
        result = warning if self.result is Result.success else self.result
        return replace(self, result=result, warnings=(*self.warnings, warning))

    def __str__(self) -> str:
        residual = self.relative_residual
        solve = f"{self.products} products" if self.stats else f"{self.steps} unrolled steps"
        known = f", relative residual {residual:.2g}" if residual is not None else ""
        parts = f"direct {self.direct_norm:.2g}, indirect {self.indirect_norm:.2g}"
        ends = [self.result] if self.result.is_error else self.warnings
        said = "".join(f", {end.name}" for end in ends)
        return (
            f"outer loss {self.outer_loss:.4g}, {parts}, {solve}{known}, "
            f"inner gradient {self.inner_gradient_norm:.2g}{said}"
        )


@dataclass(frozen=True)
class Hypergradient:
    """dL_V/dλ and its two parts, by hyperparameter: value = direct + indirect.

    Attributes:
        value: dL_V/dλ.
        direct: ∂L_V/∂λ.
        indirect: the part through the best response.
        loss: L_V, a detached scalar.
        report: how it came about.
    """

    value: Tree
    direct: Tree
    indirect: Tree
    loss: Tensor
    report: Report


class Method(ABC):
    """How the best response is differentiated. Frozen settings, an argument of the call."""

    @abstractmethod
    def differentiate(self, problem: Problem) -> Hypergradient:
        """The hypergradient of a problem; how it ended is in the report, nothing is raised."""


def assemble(
    problem: Problem,
    outer: OuterGradients,
    indirect: Partial,
    inner_gradient_norm: Tensor,
    *,
    stats: Stats | None,
    steps: int,
    result: Result = Result.success,
    params: Tree | None = None,
) -> Hypergradient:
    """Put a hypergradient together: the sum of its parts, and the report on them."""
    check_reached(problem.hyper, outer.direct, indirect)
    direct, through = _filled(outer.direct, problem.hyper), _filled(indirect, problem.hyper)
    value = {
        # a direct part that is not there costs no addition
        name: through[name] if outer.direct[name] is None else direct[name] + through[name]
        for name in problem.hyper
    }
    measured = _to_host(  # in the order of the report's fields
        outer.loss,
        inner_gradient_norm,
        *(tree_norm(tree) for tree in (outer.params, direct, through, value)),
    )
    warnings = (result,) if result.is_warning else ()
    if not result.is_error and not all(math.isfinite(number) for number in measured):
        result = Result.nonfinite
    report = Report(result, warnings, stats, steps, *measured, params=params)  # type: ignore[misc, arg-type]
    return Hypergradient(value, direct, through, outer.loss, report)


def _to_host(*scalars: Tensor) -> list[float]:
    device = scalars[0].device
    return torch.stack([scalar.to(device, torch.float64) for scalar in scalars]).tolist()


def _filled(part: Partial, like: Tree) -> Tree:
    """Zeros where there is no dependence."""
    return {
        name: torch.zeros_like(leaf) if (own := part[name]) is None else own.detach()
        for name, leaf in like.items()
    }


def replace_report(hypergradient: Hypergradient, report: Report) -> Hypergradient:
    """The same hypergradient under another report."""
    return replace(hypergradient, report=report)
