"""Whether a hypergradient is right, on the user's own problem."""

from bestresponse.diagnostics._check import check
from bestresponse.diagnostics._report import Cause, Check, Row

__all__ = ["Cause", "Check", "Row", "check"]
