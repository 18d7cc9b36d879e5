"""Ways of differentiating a best response."""

from bestresponse.methods._base import Batches, Hypergradient, Method, Problem, Report
from bestresponse.methods._finite_difference import FiniteDifference
from bestresponse.methods._functional import hypergradient
from bestresponse.methods._implicit import Implicit
from bestresponse.methods._unroll import Unroll

__all__ = [
    "Batches",
    "FiniteDifference",
    "Hypergradient",
    "Implicit",
    "Method",
    "Problem",
    "Report",
    "Unroll",
    "hypergradient",
]
