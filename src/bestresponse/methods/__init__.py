"""Ways of differentiating a best response."""

from bestresponse.methods._base import Hypergradient, Method, Report
from bestresponse.methods._curvature import Curvature
from bestresponse.methods._finite_difference import FiniteDifference
from bestresponse.methods._fisher import Fisher
from bestresponse.methods._functional import hypergradient
from bestresponse.methods._gauss_newton import GaussNewton
from bestresponse.methods._implicit import Implicit
from bestresponse.methods._unroll import Unroll

__all__ = [
    "Curvature",
    "FiniteDifference",
    "Fisher",
    "GaussNewton",
    "Hypergradient",
    "Implicit",
    "Method",
    "Report",
    "Unroll",
    "hypergradient",
]
