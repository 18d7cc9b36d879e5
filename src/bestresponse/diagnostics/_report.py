"""What a check found: a table of references, the sources of error, and one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Cause(Enum):
    """Why a hypergradient is wrong. The value says what is the matter, then what to change.

    Example:
        >>> Cause.damping.cure
        'lower it as far as the solve allows'
    """

    solver = (
        "the solve is inexact; raise max_steps, or take br.CG with a tolerance in the place of a "
        "cruder solver"
    )
    curvature = (
        "the chosen curvature is not the inner Hessian; leave curvature out, or accept the bias"
    )
    damping = "damping changes the answer; lower it as far as the solve allows"
    weights = (
        "the weights are not at a minimum of the inner loss on this batch; train further, take a "
        "larger inner batch, or switch dropout off"
    )
    truncation = "the steps before the last `truncate` ones matter; raise truncate"
    horizon = (
        "the unrolled steps end before the best response is reached; raise steps, unless these "
        "very steps are what is tuned"
    )
    randomness = (
        "the closures draw randomness that no seed pins; draw before the call and pass the batch, "
        "or draw from PyTorch's global stream"
    )
    reference = (
        "retraining is not accurate enough to tell; raise seconds, train further, or shrink the "
        "problem with rows or keep"
    )

    @property
    def reason(self) -> str:
        """What is the matter."""
        return self.value.partition("; ")[0]

    @property
    def cure(self) -> str:
        """What to change."""
        return self.value.partition("; ")[2]


@dataclass(frozen=True)
class Row:
    """A reference, and the chosen method beside it.

    Attributes:
        name: what was computed.
        error: ‖chosen − this‖ / ‖this‖; None for the chosen method itself, or without a value.
        cosine: of the angle between the two.
        norm: ‖this‖.
        seconds: what it took.
        note: how it ended.
    """

    name: str
    error: float | None
    cosine: float | None
    norm: float | None
    seconds: float
    note: str = ""

    def cells(self) -> tuple[str, str, str, str, str, str]:
        """The row as text, in the order of `COLUMNS`."""
        return (
            self.name,
            "" if self.error is None else f"{self.error:.1e}",
            "" if self.cosine is None else f"{self.cosine:.4f}",
            "" if self.norm is None else f"{self.norm:.3g}",
            f"{self.seconds:.2f}",
            self.note,
        )


COLUMNS = ("reference", "error", "cosine", "norm", "seconds", "note")


@dataclass(frozen=True)
class Check:
    """What `check` found; `print(check)` is a table that ends in one sentence.

    Attributes:
        problem: what was checked, in words.
        rows: the chosen method and its references.
        sources: how much each cause contributes, relative to the hypergradient.
        error: relative error of the chosen method against retraining; None where there is none.
        tolerance: up to which error the check is passed.
        ok: whether the chosen method agrees with retraining within the tolerance.
        cause: why not; None if it does.
        verdict: the sentence.
    """

    problem: str
    rows: tuple[Row, ...]
    sources: Mapping[Cause, float]
    error: float | None
    tolerance: float
    ok: bool
    cause: Cause | None
    verdict: str

    def row(self, name: str) -> Row:
        """The first row whose name starts with `name`; KeyError if there is none."""
        for row in self.rows:
            if row.name.startswith(name):
                return row
        raise KeyError(f"{name!r} is none of {[row.name for row in self.rows]}")

    @property
    def sources_line(self) -> str:
        """The sources of error in one line; empty without any."""
        parts = [f"{cause.name} {size:.1e}" for cause, size in self.sources.items()]
        return f"sources of error: {', '.join(parts)}" if parts else ""

    def __str__(self) -> str:
        table = [COLUMNS, *(row.cells() for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [_aligned(cells, widths) for cells in table]
        return "\n".join(filter(None, [self.problem, *lines, self.sources_line, self.verdict]))


def _aligned(cells: tuple[str, ...], widths: list[int]) -> str:
    """Words to the left, numbers to the right."""
    name, *numbers, note = cells
    columns = [cell.rjust(width) for cell, width in zip(numbers, widths[1:-1], strict=True)]
    return "  ".join([name.ljust(widths[0]), *columns, note]).rstrip()


def percent(share: float) -> str:
    """A share as readers say it.

    Example:
        >>> percent(0.00321), percent(2.5)
        ('0.32 %', '250 %')
    """
    return f"{100 * share:.2g} %" if share < 1 else f"{100 * share:.0f} %"
