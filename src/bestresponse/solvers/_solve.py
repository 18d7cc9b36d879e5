"""`linear_solve`: the one place where a solver is run, guarded and judged."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._result import Memory, Result, Solution, SolveError, Stats
from bestresponse._tree import Space
from bestresponse.operators import LinearOperator
from bestresponse.solvers._base import (
    STATUS_RESULT,
    STOPPED,
    DirectSolver,
    IterativeSolver,
    Preconditioner,
    Solver,
    State,
    Status,
    System,
    Trace,
    check_solver,
)
from bestresponse.solvers._precondition import carry, preconditioned

_STEPS_BETWEEN_LOOKS = 4  # at a tolerance, on a device that runs ahead of the host


def linear_solve(
    operator: LinearOperator,
    vector: Tensor,
    solver: Solver,
    *,
    memory: Memory | None = None,
    throw: bool = True,
) -> Solution:
    """Approximate A⁻¹b.

    Off the CPU, nothing waits for the device before the end of a fixed budget of steps; with a
    tolerance, the loop looks at the status every few products.

    Args:
        operator: the symmetric linear map A of size n.
        vector: the right-hand side b, shape (n,).
        solver: settings, such as `CG(max_steps=20)`.
        memory: what an earlier solve left (`solution.memory`), for solvers that can use it.
        throw: raise `SolveError` for an error result instead of returning it.

    Returns:
        The solution with its result, its stats and its memory.

    Raises:
        SolveError: if the value is not finite, or the solver broke down or diverges.
        InputError: if the shapes do not fit.

    Example:
        >>> from bestresponse.operators import Matrix
        >>> from bestresponse.solvers import CG
        >>> A = Matrix(torch.tensor([[4.0, 1.0], [1.0, 3.0]]))
        >>> linear_solve(A, torch.tensor([1.0, 2.0]), CG(max_steps=2)).value
        tensor([0.0909, 0.6364])
    """
    if vector.shape != (operator.size,):
        raise InputError(
            f"The right-hand side has shape {tuple(vector.shape)}, the operator needs "
            f"({operator.size},); flatten it first."
        )
    check_solver(solver)
    counted = _Counted(operator)
    with torch.no_grad():
        if isinstance(solver, DirectSolver):
            solution = _direct(counted, vector, solver)
        elif isinstance(solver, Preconditioner):
            solution = _apply(counted, vector, solver, memory or {})
        else:
            assert isinstance(solver, IterativeSolver)
            solution = _iterate(counted, vector, solver, memory or {})
        if not solution.result.is_error and not _is_finite(solution):
            solution = replace(solution, result=Result.nonfinite)
    if solution.result.is_error:
        solution = replace(solution, memory={})  # the next solve starts afresh
    if throw and solution.result.is_error:
        raise SolveError(solution.result, f"({type(solver).__name__}, {solution.stats})")
    return solution


def _is_finite(solution: Solution) -> bool:
    residual = solution.stats.relative_residual
    # a sum is finite only if its terms are, and cheaper than asking each of them
    return math.isfinite(float(solution.value.sum())) and math.isfinite(residual or 0.0)


class _Counted(LinearOperator):
    """An operator that counts its products."""

    def __init__(self, operator: LinearOperator) -> None:
        self.operator, self.products = operator, 0

    @property
    def space(self) -> Space:
        return self.operator.space

    def terms(self) -> list[tuple[float, LinearOperator]]:
        return self.operator.terms()

    def mv(self, vector: Tensor) -> Tensor:
        self.products += 1
        return self.operator.mv(vector)

    def as_matrix(self) -> Tensor:
        self.products += self.size
        return self.operator.as_matrix()


def _direct(operator: _Counted, vector: Tensor, solver: DirectSolver) -> Solution:
    value, result, residual = solver.solve(operator, vector)
    relative = None if residual is None else _ratio(residual.norm(), vector.norm())
    return Solution(value, result, Stats(1, operator.products, relative))


def _apply(operator: _Counted, vector: Tensor, solver: Preconditioner, memory: Memory) -> Solution:
    """The approximate inverse by itself; one product more tells how good it is."""
    built, carried = carry(solver, operator, memory)
    value = solver.inverse(built, operator).mv(vector)
    relative = _ratio((vector - operator.mv(value)).norm(), vector.norm())
    stats = Stats(1, operator.products, relative, uncovered=solver.uncovered(built))
    return Solution(value, Result.success, stats, carried)


def _iterate(
    operator: _Counted, vector: Tensor, solver: IterativeSolver, memory: Memory
) -> Solution:
    target = _target(solver, vector)
    system, carried, uncovered = preconditioned(
        System(operator, vector), solver.preconditioner, memory.get("preconditioner", {})
    )
    system = solver.prepare(system, memory)
    state = solver.start(system, memory)
    observed = ("status", *solver.traced)
    if target is not None:
        _stop_at(target, state)
    history = [[state[name] for name in observed]]
    for step in range(solver.max_steps):
        if _may_look(step, vector, target) and not _running(state):
            break
        state = solver.step(system, state)
        if target is not None:
            _stop_at(target, state)
        history.append([state[name] for name in observed])
    solution = _read_back(operator, vector, solver, state, history)
    kept = solver.keep(state, memory)
    if carried:
        kept["preconditioner"] = carried
    return replace(solution, memory=kept, stats=replace(solution.stats, uncovered=uncovered))


def _has_tolerance(solver: IterativeSolver) -> bool:
    return solver.rtol is not None or solver.atol is not None


def _target(solver: IterativeSolver, vector: Tensor) -> Tensor | None:
    """The residual norm that is asked for; None for a fixed budget."""
    if not _has_tolerance(solver):
        return None
    return torch.clamp((solver.rtol or 0.0) * vector.norm(), min=solver.atol or 0.0)


def _stop_at(target: Tensor, state: State) -> None:
    reached = (state["status"] == Status.running) & (state["residual_norm"] <= target)
    state["status"] = torch.where(reached, int(Status.converged), state["status"])


def _may_look(step: int, vector: Tensor, target: Tensor | None) -> bool:
    """Whether to ask for the status: on the CPU it costs nothing, elsewhere a wait."""
    if vector.device.type == "cpu":
        return True
    return target is not None and step % _STEPS_BETWEEN_LOOKS == 0


def _running(state: State) -> bool:
    return bool(state["status"] == Status.running)


def _read_back(
    operator: _Counted,
    vector: Tensor,
    solver: IterativeSolver,
    state: State,
    history: list[list[Tensor]],
) -> Solution:
    """One transfer to the host for everything that is to be known of the solve."""
    *rows, (residual, norm) = _to_host([*history, [state["residual_norm"], vector.norm()]])
    # the first row is the start; a step was taken where the iterate was still running before it
    taken = [after for before, after in pairwise(rows) if before[0] == Status.running]
    moved = sum(1 for row in taken if row[0] not in STOPPED)
    trace: Trace = {
        name: [row[i] for row in rows[: len(taken) + 1]]
        for i, name in enumerate(solver.traced, start=1)
    }
    verdict, further = solver.judge(trace)
    result = _result(Status(int(rows[-1][0])), verdict, solver)
    relative = residual / norm if norm else 0.0
    stats = replace(Stats(moved, operator.products, relative), **further)  # type: ignore[arg-type]
    return Solution(state["value"], result, stats)


def _to_host(rows: list[list[Tensor]]) -> list[list[float]]:
    """Rows of scalars as numbers."""
    flat = torch.stack([scalar.double() for row in rows for scalar in row]).tolist()
    numbers = iter(flat)
    return [[next(numbers) for _ in row] for row in rows]


def _result(status: Status, verdict: Result, solver: IterativeSolver) -> Result:
    if verdict is not Result.success:
        return verdict
    if status is not Status.running:
        return STATUS_RESULT[status]
    return Result.max_steps_reached if _has_tolerance(solver) else Result.success


def _ratio(numerator: Tensor, denominator: Tensor) -> float:
    return float(numerator / denominator) if float(denominator) else 0.0
