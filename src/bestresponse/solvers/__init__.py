"""Approximations of A⁻¹b behind one call, `linear_solve`."""

from bestresponse.solvers._base import (
    DirectSolver,
    IterativeSolver,
    Preconditioner,
    Solver,
    check_solver,
)
from bestresponse.solvers._cg import CG
from bestresponse.solvers._dense import Dense
from bestresponse.solvers._kfac import KFAC
from bestresponse.solvers._lanczos import power_steps
from bestresponse.solvers._minres import MINRES
from bestresponse.solvers._neumann import Neumann
from bestresponse.solvers._nystrom import Nystrom
from bestresponse.solvers._scale import Scale
from bestresponse.solvers._single_loop import SingleLoop
from bestresponse.solvers._solve import linear_solve
from bestresponse.solvers._woodbury import Woodbury

__all__ = [
    "CG",
    "KFAC",
    "MINRES",
    "Dense",
    "DirectSolver",
    "IterativeSolver",
    "Neumann",
    "Nystrom",
    "Preconditioner",
    "Scale",
    "SingleLoop",
    "Solver",
    "Woodbury",
    "check_solver",
    "linear_solve",
    "power_steps",
]
