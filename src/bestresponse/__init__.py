"""Nested optimization for PyTorch.

Optimize hyperparameters λ through the best response w*(λ) = argmin_w L_T(w, λ) of an inner
problem: `Nested` over live modules, `hypergradient` over plain functions.
"""

from bestresponse import diagnostics, hyper, jacnet, optim, response
from bestresponse._errors import InputError
from bestresponse._modules import select
from bestresponse._nested import Nested
from bestresponse._problem import Batches
from bestresponse._result import Result, Solution, SolveError, Stats
from bestresponse.diagnostics import check
from bestresponse.methods import (
    FiniteDifference,
    Fisher,
    GaussNewton,
    Hypergradient,
    Implicit,
    Report,
    Unroll,
    hypergradient,
)
from bestresponse.operators import (
    Diagonal,
    Hessian,
    Identity,
    Linearization,
    LinearOperator,
    Matrix,
)
from bestresponse.solvers import (
    CG,
    KFAC,
    MINRES,
    Dense,
    Neumann,
    Nystrom,
    Scale,
    SingleLoop,
    Woodbury,
    linear_solve,
)

__version__ = "0.1.0"

__all__ = [
    "CG",
    "KFAC",
    "MINRES",
    "Batches",
    "Dense",
    "Diagonal",
    "FiniteDifference",
    "Fisher",
    "GaussNewton",
    "Hessian",
    "Hypergradient",
    "Identity",
    "Implicit",
    "InputError",
    "LinearOperator",
    "Linearization",
    "Matrix",
    "Nested",
    "Neumann",
    "Nystrom",
    "Report",
    "Result",
    "Scale",
    "SingleLoop",
    "Solution",
    "SolveError",
    "Stats",
    "Unroll",
    "Woodbury",
    "check",
    "diagnostics",
    "hyper",
    "hypergradient",
    "jacnet",
    "linear_solve",
    "optim",
    "response",
    "select",
]
