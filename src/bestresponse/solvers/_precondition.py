"""From a preconditioner in a solver's settings to the operator M that its steps apply."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from bestresponse._result import Memory
from bestresponse._tree import Space
from bestresponse.operators import LinearOperator
from bestresponse.solvers._base import IterativeSolver, Preconditioner, Solver, System
from bestresponse.solvers._scale import Scale


def preconditioned(
    system: System, solver: Solver | None, memory: Memory
) -> tuple[System, Memory, tuple[str, ...]]:
    """The system with M, what is to be carried on of it, and the parameters that M leaves out."""
    if solver is None:
        return system, {}, ()
    if not isinstance(solver, Preconditioner):
        inner = _InnerSolve(system.operator, solver)
        linear = isinstance(solver, Scale)
        return replace(system, inverse=inner, flexible=not linear), {}, ()
    built, carried = carry(solver, system.operator, memory)
    inverse = solver.inverse(built, system.operator)
    return replace(system, inverse=inverse), carried, solver.uncovered(built)


def carry(
    solver: Preconditioner, operator: LinearOperator, memory: Memory
) -> tuple[Memory, Memory]:
    """What was built for this solve or an earlier one, and what to carry on."""
    age = memory.get("age", 0)
    stale = not memory or age >= solver.refresh or memory["size"] != operator.size
    built = solver.build(operator) if stale else memory["built"]
    return built, {"built": built, "age": 1 if stale else age + 1, "size": operator.size}


@dataclass(frozen=True)
class _InnerSolve(LinearOperator):
    """Any solver as an approximate inverse: not linear in general."""

    operator: LinearOperator
    solver: Solver

    @property
    def space(self) -> Space:
        return self.operator.space

    def mv(self, vector: Tensor) -> Tensor:
        from bestresponse.solvers._solve import linear_solve

        return linear_solve(self.operator, vector, self.solver, throw=False).value


def is_iterative(solver: Solver | None) -> bool:
    """Whether a solver takes steps."""
    return isinstance(solver, IterativeSolver)
