"""What a solver is: frozen settings, and one formula or a step that a shared loop repeats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import IntEnum

from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._result import Result
from bestresponse.operators import LinearOperator

State = dict[str, Tensor]
"""What an iterative solver carries: `value`, `residual_norm`, `status`, and whatever it needs."""

Trace = Mapping[str, list[float]]
"""Scalars of the start and of every step, read back in one go after the solve."""


class Status(IntEnum):
    """How an iterate stands, as a number that lives on the device."""

    running = 0
    converged = 1
    negative_curvature = 2
    breakdown = 3


STATUS_RESULT = {
    Status.converged: Result.success,
    Status.negative_curvature: Result.negative_curvature,
    Status.breakdown: Result.breakdown,
}


class Solver(ABC):  # noqa: B024  (a common word for the two kinds below)
    """Settings of an approximation of A⁻¹b. Frozen; holds no tensor."""


class DirectSolver(Solver):
    """A solver that is one formula."""

    @abstractmethod
    def solve(
        self, operator: LinearOperator, vector: Tensor
    ) -> tuple[Tensor, Result, Tensor | None]:
        """The value, how it ended, and the residual b − A q where it is known.

        It need not check for non-finite numbers.
        """


class IterativeSolver(Solver):
    """A solver whose step the shared loop of `linear_solve` repeats.

    Subclasses are frozen dataclasses with the fields `max_steps`, `rtol` and `atol`. A step never
    asks the host for a number: it sets `status` instead, and from then on leaves `value`,
    `residual_norm` and `status` as they are, but for rounding. (Setting a scalar step length to
    zero does that; a choice between two vectors would cost a tenth of a gradient.) It may reuse
    the memory of the vectors in its state.
    """

    max_steps: int
    rtol: float | None
    atol: float | None
    traced: tuple[str, ...] = ()

    @abstractmethod
    def start(self, operator: LinearOperator, vector: Tensor) -> State:
        """The state before the first step."""

    @abstractmethod
    def step(self, operator: LinearOperator, state: State) -> State:
        """The state after one more product."""

    @abstractmethod
    def judge(self, trace: Trace) -> tuple[Result, dict[str, float | None]]:
        """A verdict on the traced scalars, and further `Stats` fields."""


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
            f"{solver!r} is not a solver; use br.CG, br.Neumann, br.Dense or br.Scale."
        )


def check_settings(solver: IterativeSolver) -> None:
    """Refuse a step budget or a tolerance that makes no sense."""
    name = type(solver).__name__
    if solver.max_steps < 0:
        raise InputError(f"{name}(max_steps={solver.max_steps}) is negative; use 0 or more.")
    for field, tolerance in (("rtol", solver.rtol), ("atol", solver.atol)):
        if tolerance is not None and not tolerance > 0:
            raise InputError(f"{name}({field}={tolerance}) is not positive; use a small number.")
