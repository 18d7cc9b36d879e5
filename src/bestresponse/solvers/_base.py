"""What a solver is: frozen settings, and one formula or a step that a shared loop repeats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, ClassVar

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._result import Memory, Result
from bestresponse.operators import LinearOperator

State = dict[str, Any]
"""What an iterative solver carries: `value`, `residual_norm`, `status`, and whatever it needs."""

Trace = Mapping[str, list[float]]
"""Scalars of the start and of every step, read back in one go after the solve."""


class Status(IntEnum):
    """How an iterate stands, as a number that lives on the device."""

    running = 0
    converged = 1
    negative_curvature = 2
    breakdown = 3
    preconditioner_indefinite = 4


STATUS_RESULT = {
    Status.converged: Result.success,
    Status.negative_curvature: Result.negative_curvature,
    Status.breakdown: Result.breakdown,
    Status.preconditioner_indefinite: Result.preconditioner_indefinite,
}
STOPPED = (Status.negative_curvature, Status.breakdown, Status.preconditioner_indefinite)
"""Ends at which the last product did not move the iterate."""


class Solver(ABC):  # noqa: B024  (a common word for the two kinds below)
    """Settings of an approximation of A⁻¹b. Frozen; holds no tensor."""

    stochastic: ClassVar[bool] = False
    """Whether each product may be with another operator, as long as they are right on average."""


@dataclass(frozen=True)
class System:
    """What an iterative solver works on.

    Attributes:
        operator: A.
        vector: the right-hand side b.
        guess: where to start; None is zero, whose residual costs nothing.
        inverse: M ≈ A⁻¹, symmetric positive definite; None is the identity.
        flexible: M is no linear map (an inner solve), or changes from product to product.
    """

    operator: LinearOperator
    vector: Tensor
    guess: Tensor | None = None
    inverse: LinearOperator | None = None
    flexible: bool = False

    def start(self) -> tuple[Tensor, Tensor]:
        """The first iterate and its residual, in memory of their own."""
        if self.guess is None:
            return torch.zeros_like(self.vector), self.vector.clone()
        return self.guess.clone(), self.vector - self.operator.mv(self.guess)

    def start_from(
        self, share_of: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """As `start`, from the share of the guess, 0 to 1, that is worth starting from.

        On a changed or an indefinite system the whole of it can be worse than nothing, and would
        be carried on and grow from solve to solve.

        Args:
            share_of: the best multiple of the guess q, given q, Aq and b.
        """
        value, residual = self.start()
        if self.guess is None:
            return value, residual
        share = share_of(value, self.vector - residual, self.vector)
        share = torch.where(share > 0, share, 0).clamp(max=1)  # what is not a number is none
        return value.mul_(share), torch.lerp(self.vector, residual, share)

    def precondition(self, residual: Tensor) -> Tensor:
        """Mr, in memory of its own."""
        conditioned = residual if self.inverse is None else self.inverse.mv(residual)
        return residual.clone() if conditioned is residual else conditioned


class DirectSolver(Solver):
    """A solver that is one formula."""

    @abstractmethod
    def solve(
        self, operator: LinearOperator, vector: Tensor
    ) -> tuple[Tensor, Result, Tensor | None]:
        """The value, how it ended, and the residual b − A q where it is known.

        It need not check for non-finite numbers.
        """


class Preconditioner(Solver):
    """An approximate inverse that is built once and applied often.

    By itself it is a solver, q = Mb; in `CG(preconditioner=...)` and its like it is M. What was
    built is plain tensors, so that it can be carried from one solve to the next and stored.

    Subclasses are frozen dataclasses with the field `refresh`: it is built anew at every that
    many solves, where something is carried between them.
    """

    refresh: int

    @abstractmethod
    def build(self, operator: LinearOperator) -> Memory:
        """What is to be known of the operator."""

    @abstractmethod
    def inverse(self, built: Memory, operator: LinearOperator) -> LinearOperator:
        """M ≈ A⁻¹ from what was built, perhaps for an earlier operator."""

    def signature(self, operator: LinearOperator) -> str:
        """What must be the same for something that was built to fit another operator."""
        return str(operator.space)

    def uncovered(self, built: Memory) -> tuple[str, ...]:
        """Parameters outside of its structure."""
        return ()


class IterativeSolver(Solver):
    """A solver whose step the shared loop of `linear_solve` repeats.

    Subclasses are frozen dataclasses with the fields `max_steps`, `rtol`, `atol` and
    `preconditioner`, and with `warm_start` if they can start from a guess. A step never asks the
    host for a number: it sets `status` instead, and from then on leaves `value`, `residual_norm`
    and `status` as they are, but for rounding. (Setting a scalar step length to zero does that; a
    choice between two vectors would cost a tenth of a gradient.) It may reuse the memory of the
    vectors in its state.
    """

    max_steps: int
    rtol: float | None
    atol: float | None
    preconditioner: Solver | None
    warm_start: bool = False
    traced: tuple[str, ...] = ()

    @abstractmethod
    def start(self, system: System, memory: Memory) -> State:
        """The state before the first step."""

    @abstractmethod
    def step(self, system: System, state: State) -> State:
        """The state after one more product."""

    @abstractmethod
    def judge(self, trace: Trace) -> tuple[Result, dict[str, float | None]]:
        """A verdict on the traced scalars, and further `Stats` fields."""

    def prepare(self, system: System, memory: Memory) -> System:
        """The system with what is carried over from an earlier one: its answer as a guess."""
        guess = memory.get("value") if self.warm_start else None
        if guess is None or guess.shape != system.vector.shape:
            return system
        return replace(system, guess=guess.to(system.vector))

    def keep(self, state: State, memory: Memory) -> Memory:
        """What the next solve can use: the answer."""
        return {"value": state["value"]} if self.warm_start else {}


def move(start: Tensor, direction: Tensor, length: Tensor) -> Tensor:
    """Add length·direction to `start` in place, for a scalar tensor `length`.

    In place, since a fresh vector costs more than the arithmetic; expanded, since the kernel is
    some twenty times slower with a tensor of no dimension.
    """
    return start.addcmul_(direction, length.expand_as(direction))


def check_solver(solver: object) -> None:
    """Refuse what is no solver."""
    if not isinstance(solver, Solver):
        raise InputError(
            f"{solver!r:.60} is not a solver; use br.CG, br.MINRES, br.Neumann, br.Nystrom, "
            "br.KFAC, br.SingleLoop, br.Dense or br.Scale."
        )


def check_whole(solver: Solver, least: int, *fields: str) -> None:
    """Refuse counts that are no whole numbers, or below `least`; None may stand for a default."""
    for field in fields:
        value = getattr(solver, field)
        if value is not None and not (isinstance(value, int) and value >= least):
            raise InputError(
                f"{type(solver).__name__}({field}={value!r:.30}) must be {least} or more, "
                "a whole number."
            )


def check_settings(solver: IterativeSolver) -> None:
    """Refuse a step budget or a tolerance that makes no sense."""
    name = type(solver).__name__
    if solver.preconditioner is not None:
        check_solver(solver.preconditioner)
    check_whole(solver, 0, "max_steps")
    for field, tolerance in (("rtol", solver.rtol), ("atol", solver.atol)):
        if tolerance is not None and not (isinstance(tolerance, int | float) and tolerance > 0):
            raise InputError(f"{name}({field}={tolerance}) is not positive; use a small number.")
