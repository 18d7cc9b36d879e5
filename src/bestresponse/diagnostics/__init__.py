"""Whether a hypergradient is right, on the user's own problem, and what it takes."""

from bestresponse._peak_memory import PeakMemory
from bestresponse.diagnostics._agreement import Agreement, Direction, agreement
from bestresponse.diagnostics._check import check
from bestresponse.diagnostics._report import COLUMNS, Cause, Check, Row

__all__ = [
    "COLUMNS",
    "Agreement",
    "Cause",
    "Check",
    "Direction",
    "PeakMemory",
    "Row",
    "agreement",
    "check",
]
