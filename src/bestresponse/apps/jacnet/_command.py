"""`bestresponse jacnet fit` and `jacnet predict`: a structure between columns of a CSV file."""

from __future__ import annotations

import csv
import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from torch import Tensor

import bestresponse as br
from bestresponse import SolveError
from bestresponse._errors import InputError
from bestresponse.apps import _options
from bestresponse.apps._progress import reporting
from bestresponse.apps._run import RESULT_FILE, RunFolder, absolute, check_free, replace_file, shown
from bestresponse.apps.jacnet import _tabular
from bestresponse.apps.jacnet._report import Fitted, report
from bestresponse.data import load_columns

_COMMAND = "jacnet fit"


@dataclass(frozen=True)
class JacNetFit:
    """Fit a function with a known structure between columns of a CSV file, and report on it.

    The structure holds for the fitted function everywhere, not only at the data. A fifth of the
    rows is held out and judges the fit.
    """

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA.csv")]
    """A comma-separated file whose first line names the columns."""
    x: str
    """The columns that are known, separated by commas."""
    y: str
    """The columns that are predicted, separated by commas."""
    structure: str = "monotone"
    """monotone (y increases with every x), lipschitz, or, for as many columns y as x,
    convex-gradient, triangular, bilipschitz, potential."""
    decreasing: bool = False
    """Of monotone: y decreases with every x."""
    bound: float = 1.0
    """Of lipschitz: y changes by at most so much for each unit of distance in x."""
    hidden: int = 32
    """Hidden units."""
    iterations: int = 200
    """Of L-BFGS, on all rows at once."""
    alpha: float = 1e-6
    """Of a penalty alpha·Σw² on the network's weights."""
    held_out: float = 0.2
    """The share of rows that judges the fit; 0 for none."""
    seed: int = 0
    """Of the split and of the initial weights."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """The run folder; by default runs/jacnet-fit."""
    overwrite: bool = False
    """Replace a run that is already there."""

    def check(self, given: set[str] | None = None) -> None:
        """Refuse settings that make no sense."""
        given = given or set()
        _options.check_choice(self, "structure", _tabular.STRUCTURES)
        _options.check_positive(self, "bound", "hidden", "iterations")
        _options.check_not_negative(self, "seed", "held_out", "alpha")
        if not self.held_out < 1:
            raise InputError(f"--held-out is {self.held_out}; give a share below 1.")
        for flag, wanted in (("decreasing", "monotone"), ("bound", "lipschitz")):
            if flag in given and self.structure != wanted:
                raise InputError(f"--{flag} has an effect on --structure {wanted} only.")
        both = set(_names(self.x)) & set(_names(self.y))
        if both:
            raise InputError(f"The column '{min(both)}' is in --x and in --y; take it out of one.")

    def run(self, console: Console | None = None) -> Fitted:
        """Fit, write the run folder in one step, and say what was found.

        Raises:
            InputError: for settings or data that cannot be used; nothing is written then.
        """
        console = console or Console()
        self.check()
        out = absolute(self.out or Path("runs") / "jacnet-fit")
        check_free(out, overwrite=self.overwrite)
        names = [*_names(self.x), *_names(self.y)]
        table = load_columns(self.data, names)
        start = perf_counter()
        fitted = self._fitted(table, console)
        RunFolder.create(out, self._files(fitted, perf_counter() - start), overwrite=self.overwrite)
        for line in fitted.lines():
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        console.print(f"Report: {shown(out / 'report.html')}", highlight=False, soft_wrap=True)
        return fitted

    def _fitted(self, table: Tensor, console: Console) -> Fitted:
        count = len(_names(self.x))
        held = round(self.held_out * len(table))
        if len(table) - held < 3:
            raise InputError(f"{len(table)} rows are too few to fit; give three or more.")
        order = torch.randperm(len(table), generator=torch.Generator().manual_seed(self.seed))
        test, train = table[order[:held]], table[order[held:]]
        with reporting(console, self.iterations) as reporter:
            model, losses = _tabular.train(
                train[:, :count], train[:, count:], self.structure,
                bound=self.bound, decreasing=self.decreasing, hidden=self.hidden,
                iterations=self.iterations, alpha=self.alpha, seed=self.seed,
                said=lambda step, loss: reporter.update(step, f"loss {loss:.4g}"),
            )  # fmt: skip
        return Fitted(model, _names(self.x), _names(self.y), train, test, losses, self.decreasing)

    def _files(self, fitted: Fitted, seconds: float) -> dict[str, Any]:
        settings = _options.to_json(self)
        return {
            "settings.json": {
                "command": _COMMAND,
                "version": br.__version__,
                "torch": torch.__version__,
                "settings": settings,
                "shape": dataclasses.asdict(fitted.model.shape),
            },
            "report.html": report(fitted, self.data.name, {**settings, "seconds": seconds}),
            _tabular.MODEL_FILE: fitted.model,
            RESULT_FILE: {
                "verdict": fitted.verdict,
                "headline": fitted.headline(),
                "seconds": seconds,
            },
        }


@dataclass(frozen=True)
class JacNetPredict:
    """Predict with a function that `jacnet fit` wrote: y from x, or x from y."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder of an earlier `jacnet fit`."""
    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA.csv")]
    """A file with the columns x, or with --inverse the columns y."""
    inverse: bool = False
    """Find the x of each y."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.csv", help_behavior_hint="")] = None
    """Where to write; by default to the terminal."""

    def run(self, console: Console | None = None) -> Tensor:
        """Predict, and write or print a table of what went in and what came out.

        Raises:
            InputError: for a run or a file that cannot be used; nothing is written then.
        """
        console = console or Console()
        model, xs, ys = load_run(self.run_folder)
        asked, answered = (ys, xs) if self.inverse else (xs, ys)
        given = load_columns(self.data, asked)
        if self.inverse:
            try:
                found = model.inverse(given).value
            except SolveError as error:
                raise InputError(f"Not every row of '{self.data}' has an x: {error}") from error
        else:
            found = model(given)
        text = _table([*asked, *answered], torch.cat([given, found.detach()], dim=1))
        if self.out is None:
            console.print(text, end="", highlight=False, markup=False, soft_wrap=True)
        else:
            _write(self.out, text)
            console.print(f"{len(given)} rows: {self.out}", highlight=False, soft_wrap=True)
        return found.detach()


def load_run(run: Path) -> tuple[_tabular.TableModel, list[str], list[str]]:
    """The function that `jacnet fit` wrote, and the names of its columns x and y.

    Raises:
        InputError: if the folder holds no such run.
    """
    content = RunFolder.open(absolute(run)).settings
    if content.get("command") != _COMMAND:
        raise InputError(f"'{run}' is a run of {content.get('command')}; give one of {_COMMAND}.")
    settings = content["settings"]
    model = _tabular.load(absolute(run), content["shape"])
    return model, _names(settings["x"]), _names(settings["y"])


def _names(columns: str) -> list[str]:
    names = [name.strip() for name in columns.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise InputError(f"'{columns}' must name columns, each once, separated by commas.")
    return names


def _table(names: list[str], rows: Tensor) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([f"{value:.9g}" for value in row] for row in rows.tolist())
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    try:
        replace_file(path, lambda draft: draft.write_text(text))
    except OSError as error:
        raise InputError(f"--out '{path}' cannot be written ({error.strerror}).") from error
