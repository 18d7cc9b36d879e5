"""`bestresponse check`: whether the hypergradient of the user's own problem is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import bestresponse as br
from bestresponse.apps._user_file import function_in_file, said
from bestresponse.diagnostics import COLUMNS

_PARTS = ("nested", "inner_batch", "outer_batch")


@dataclass(frozen=True)
class Check:
    """Compare the hypergradient of your own problem with exact solves, unrolling and retraining.

    The last line says whether they agree and, if not, why. The exit code is 0 if they do, else 1.
    """

    problem: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.py:FACTORY")]
    """A function in your file that returns (nested, inner_batch, outer_batch), or a dict with
    these names. The code in the file is run."""

    rows: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Check on the first so many rows of the batches, with the weights trained on them first; all
    by default."""

    keep: Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = None
    """Check the response of the parameters with TEXT in their names alone; all by default."""

    directions: int = 3
    """Random directions in which to retrain, beside those of the hypergradients."""

    limit: int = 3000
    """Weights above which no dense matrix is made."""

    seconds: float = 60.0
    """About how long it may take."""

    tolerance: float = 0.05
    """Relative error up to which the check is passed."""

    seed: int = 0
    """Seed of the directions, and of PyTorch while the factory runs."""

    def run(self, console: Console | None = None) -> br.diagnostics.Check:
        """Check, print the table and the verdict.

        Raises:
            InputError: for a file, a function or a problem that cannot be used.
            SolveError: if the problem's own solve fails while the factory runs.
        """
        console = console or Console()
        parts = self._parts()
        try:
            found = br.check(
                *parts,
                rows=self.rows,
                keep=self._filter(),
                directions=self.directions,
                limit=self.limit,
                seconds=self.seconds,
                tolerance=self.tolerance,
                seed=self.seed,
            )
        except (br.InputError, br.SolveError):
            raise
        except Exception as error:
            raise br.InputError(
                f"{self.problem} fails when it is checked: {said(error)}."
            ) from error
        _show(found, console)
        return found

    def _filter(self) -> Callable[[str], bool] | None:
        text = self.keep
        return None if text is None else lambda name: text in name

    def _parts(self) -> tuple[br.Nested, Any, Any]:
        """What the factory returns."""
        if ":" not in self.problem:
            raise br.InputError(f"'{self.problem}' names no function; write FILE.py:FACTORY.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            factory = function_in_file(self.problem, "check")
            try:
                made = factory()
            except br.InputError:
                raise
            except (Exception, SystemExit) as error:
                raise br.InputError(
                    f"{self.problem} fails when it is called without arguments: {said(error)}."
                ) from error
        return self._checked(made)

    def _checked(self, made: object) -> tuple[br.Nested, Any, Any]:
        if isinstance(made, Mapping) and set(made) == set(_PARTS):
            made = tuple(made[part] for part in _PARTS)
        if not isinstance(made, tuple) or len(made) != 3 or not isinstance(made[0], br.Nested):
            raise br.InputError(
                f"{self.problem} returned {_shape(made)}; it must return "
                "(nested, inner_batch, outer_batch), or a dict with these names."
            )
        return made


def _shape(made: object) -> str:
    """What was returned, in a few words."""
    if isinstance(made, tuple):
        return f"({', '.join(type(part).__name__ for part in made)})"
    if isinstance(made, Mapping):
        return f"a dict of {', '.join(map(str, made)) or 'nothing'}"
    return type(made).__name__


def _show(found: br.diagnostics.Check, console: Console) -> None:
    """The table, the sources of error, and the verdict."""
    table = Table(title=escape(found.problem), title_justify="left")
    for heading in COLUMNS:
        number = heading not in (COLUMNS[0], COLUMNS[-1])
        table.add_column(heading, justify="right" if number else "left", no_wrap=number)
    for row in found.rows:
        table.add_row(*map(escape, row.cells()))
    console.print(table)
    if found.sources_line:
        console.print(found.sources_line, highlight=False, markup=False)
    style = "green" if found.ok else "red"
    console.print(found.verdict, style=style, highlight=False, markup=False, soft_wrap=True)
