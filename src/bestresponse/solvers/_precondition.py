"""From a preconditioner in a solver's settings to the operator M that its steps apply."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._result import Memory, map_memory
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
        return replace(system, inverse=inner, flexible=not isinstance(solver, Scale)), {}, ()
    built, carried = carry(solver, system.operator, memory)
    inverse = solver.inverse(built, system.operator)
    return replace(system, inverse=inverse), carried, solver.uncovered(built)


def carry(
    solver: Preconditioner, operator: LinearOperator, memory: Memory
) -> tuple[Memory, Memory]:
    """What was built for this solve or an earlier one, and what to carry on."""
    if solver.refresh == 1:  # nothing is used again
        return solver.build(operator), {}
    what = f"{solver} on {solver.signature(operator)}"
    age = memory.get("age", 0)
    stale = memory.get("what") != what or age >= solver.refresh
    if stale:
        built, age = solver.build(operator), 0
    else:  # a state dict may have been loaded elsewhere
        device = operator.space.device
        built = map_memory(lambda tensor: tensor.to(device), memory["built"])
    return built, {"built": built, "age": age + 1, "what": what}


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


def check_linear(solver: IterativeSolver) -> None:
    """Refuse an inner solve as the preconditioner of what needs a linear one."""
    if isinstance(solver.preconditioner, IterativeSolver):
        raise InputError(
            f"{type(solver).__name__} needs a linear preconditioner: br.KFAC, br.Nystrom or "
            "br.Scale; br.CG takes an inner solve."
        )
