"""How a computation ended: results that carry advice, and what travels with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from torch import Tensor

Memory = dict[str, Any]
"""What one solve leaves for the next: nested dicts and lists of tensors, numbers and strings."""


def map_memory(function: Callable[[Tensor], Tensor], memory: Any) -> Any:
    """`function` of the tensors in a memory, of any depth; everything else as it is."""
    if isinstance(memory, Tensor):
        return function(memory)
    if isinstance(memory, dict):
        return {key: map_memory(function, item) for key, item in memory.items()}
    if isinstance(memory, list):
        return [map_memory(function, item) for item in memory]
    return memory


class Result(Enum):
    """How a solve or a hypergradient ended. The value is advice: what happened, what to change.

    Example:
        >>> Result.success.is_error, Result.diverging.is_error, Result.not_stationary.is_warning
        (False, True, True)
    """

    success = "The computation ended as asked."
    max_steps_reached = (
        "The tolerance was not reached within max_steps; raise max_steps or damping, "
        "or accept the residual in the report."
    )
    negative_curvature = (
        "A direction of negative curvature was met, so the inner Hessian is not positive definite "
        "and the iterate so far was returned; raise damping, or train the inner problem further."
    )
    preconditioner_indefinite = (
        "The preconditioner is not positive definite on the residual, so the iterate so far was "
        "returned; raise the preconditioner's damping, or use another one."
    )
    not_stationary = (
        "The inner gradient is larger than the outer one, so the weights are far from a best "
        "response and the implicit function theorem means little; train longer before the call."
    )
    unstable_training = (
        "The training step is past its stable range (learning rate times largest curvature is too "
        "large), so training is about to blow up; lower the learning rate or bound the decays."
    )
    nonfinite = (
        "A number became infinite or NaN; look for it in the losses, lower the learning rates, "
        "or raise damping."
    )
    breakdown = "The linear system is singular to working precision; raise damping, or use float64."
    no_inverse = (
        "No input was found for some of the outputs, so the inverse is not whole; look at "
        "`converged`, and ask for outputs that the function takes."
    )
    diverging = (
        "The series grows instead of shrinking; lower the solver's lr below 2 / (largest "
        "eigenvalue of the inner Hessian), or use CG."
    )

    @property
    def is_error(self) -> bool:
        """Whether the value cannot be used."""
        return self in (Result.nonfinite, Result.breakdown, Result.diverging, Result.no_inverse)

    @property
    def is_warning(self) -> bool:
        """Whether the value can be used with care."""
        return self is not Result.success and not self.is_error


@dataclass(frozen=True)
class Stats:
    """What a linear solve did.

    Attributes:
        steps: steps that changed the iterate.
        products: products with the operator that were computed.
        relative_residual: ‖b − A q‖ / ‖b‖. For Neumann that of the sum without its last term
            (the whole sum's would cost one product more), for SingleLoop that of q before its
            step; None for Scale, which computes none.
        growth: for Neumann, the last term's norm over that of the term before it; below 1 the
            series is converging.
        largest_curvature: a lower bound of the operator's largest eigenvalue, where the solver
            saw one in passing.
        smallest_curvature: an upper bound of its smallest one (the smallest Ritz value): an
            estimate, never a proof that none is smaller.
        uncovered: parameters that the preconditioner's structure does not cover.
    """

    steps: int
    products: int
    relative_residual: float | None
    growth: float | None = None
    largest_curvature: float | None = None
    smallest_curvature: float | None = None
    uncovered: tuple[str, ...] = ()


@dataclass(frozen=True)
class Solution:
    """The answer of a solve: `value`, how it ended, what it cost, and what the next can use.

    Attributes:
        value: the answer.
        result: how it ended; for a batch, the worst.
        stats: what it cost.
        memory: what the next solve can use.
        converged: for a batch of solves, whether each of them got there.
    """

    value: Tensor
    result: Result
    stats: Stats
    memory: Memory = field(default_factory=dict, repr=False)
    converged: Tensor | None = None


class SolveError(RuntimeError):
    """A computation ended in an error.

    Attributes:
        result: how it ended; `str(error)` starts with its advice.
    """

    def __init__(self, result: Result, detail: str = "") -> None:
        super().__init__(f"{result.value} {detail}".strip())
        self.result = result
