"""What a method is, and what it returns for a nested problem."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bestresponse._guards import check_reached, names
from bestresponse._problem import OuterGradients, Problem
from bestresponse._result import Memory, Result, Stats
from bestresponse._tree import Partial, Tree, tree_norm


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
        error_bound: a proved bound on the distance from the hypergradient of an exact solve with
            the same curvature, for `Implicit(error_bound=True)` where there is a proof.
        peak_memory: bytes that the call took at its peak, for `Nested(measure_memory=True)`.
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
    error_bound: float | None = None
    peak_memory: int | None = None
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

    @property
    def largest_curvature(self) -> float | None:
        """A lower bound of the largest curvature of the inner loss, where the solver saw one."""
        return self.stats.largest_curvature if self.stats else None

    @property
    def smallest_curvature(self) -> float | None:
        """The smallest Ritz value: an estimate, from above, of the smallest curvature."""
        return self.stats.smallest_curvature if self.stats else None

    @property
    def stationarity(self) -> float:
        """The inner gradient's length over the outer one's: zero at a best response."""
        scale = self.outer_gradient_norm
        return self.inner_gradient_norm / scale if scale else math.inf

    @property
    def direct_ratio(self) -> float:
        """The direct part's length over the indirect one's."""
        return self.direct_norm / self.indirect_norm if self.indirect_norm else math.inf

    def warn(self, warning: Result) -> Report:
        """The report with one more warning."""
        result = warning if self.result is Result.success else self.result
        return replace(self, result=result, warnings=(*self.warnings, warning))

    def __str__(self) -> str:
        return ", ".join(part for part in self._parts() if part)

    def _parts(self) -> list[str]:
        """The line in pieces; what is not known is left out."""
        ends = [self.result] if self.result.is_error else self.warnings
        uncovered = self.stats.uncovered if self.stats else ()
        return [
            f"outer loss {self.outer_loss:.4g}",
            f"direct {self.direct_norm:.2g}",
            f"indirect {self.indirect_norm:.2g}"
            + _said(" off by at most {:.2g}", self.error_bound),
            _said("clipped from {:.2g}", self.clipped_from),
            f"{self.products} products" if self.stats else f"{self.steps} unrolled steps",
            _said("relative residual {:.2g}", self.relative_residual),
            self._curvature(),
            f"inner gradient {self.inner_gradient_norm:.2g} ({self.stationarity:.2g} of the outer)",
            _said("{:.0f} MB", self.peak_memory and self.peak_memory / 1e6),
            f"not covered by the preconditioner: {names(uncovered)}" if uncovered else "",
            *(end.name for end in ends),
        ]

    def _curvature(self) -> str:
        smallest = _said("smallest at most {:.2g}", self.smallest_curvature)
        largest = _said("largest at least {:.2g}", self.largest_curvature)
        stable = _said("training step at {:.0%} of its limit", self.training_stability)
        ends = " and ".join(end for end in (smallest, largest) if end)
        return ", ".join(part for part in (ends and f"curvature (estimate) {ends}", stable) if part)


def _said(template: str, number: float | None) -> str:
    return "" if number is None else template.format(number)


@dataclass(frozen=True)
class Hypergradient:
    """dL_V/dλ and its two parts, by hyperparameter: value = direct + indirect.

    Attributes:
        value: dL_V/dλ.
        direct: ∂L_V/∂λ.
        indirect: the part through the best response.
        loss: L_V, a detached scalar.
        report: how it came about.
        memory: what the next call can use; `Nested` carries it.
    """

    value: Tree
    direct: Tree
    indirect: Tree
    loss: Tensor
    report: Report
    memory: Memory = field(default_factory=dict, repr=False)


class Method(ABC):
    """How the best response is differentiated. Frozen settings, an argument of the call."""

    @property
    def closures(self) -> tuple[Callable[..., Any], ...]:
        """Functions over the live modules that the method calls beside `inner` and `outer`."""
        return ()

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
    memory: Memory | None = None,
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
    return Hypergradient(value, direct, through, outer.loss, report, memory or {})


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
