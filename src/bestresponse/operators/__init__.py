"""Linear maps on flat vectors: the inner Hessian, its stand-ins, and their sums and scalings."""

from bestresponse.operators._base import LinearOperator
from bestresponse.operators._curvature import Hessian
from bestresponse.operators._difference import Differences
from bestresponse.operators._linearize import Linearization
from bestresponse.operators._matrix import Diagonal, Identity, Matrix

__all__ = [
    "Diagonal",
    "Differences",
    "Hessian",
    "Identity",
    "LinearOperator",
    "Linearization",
    "Matrix",
]
