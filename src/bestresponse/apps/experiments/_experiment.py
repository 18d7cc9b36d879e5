"""What an experiment is: settings that measure something and write it down, whole or not at all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, ClassVar

import torch
import tyro
from rich.console import Console
from rich.table import Table

import bestresponse as br
from bestresponse._errors import InputError
from bestresponse.apps import _html, _options
from bestresponse.apps._progress import Reporter, reporting
from bestresponse.apps._run import RESULT_FILE, RunFolder, absolute, check_free, shown
from bestresponse.apps.experiments._ledger import Ledger, Part


@dataclass(frozen=True)
class Findings:
    """What an experiment came to.

    Attributes:
        verdict: one sentence for everyone.
        headline: the figures that the terminal prints, by name; None where one does not exist.
        sections: of the report, as HTML.
        curves: the numbers behind the pictures, ready for JSON.
    """

    verdict: str
    headline: dict[str, float | None]
    sections: tuple[str, ...] = field(repr=False)
    curves: dict[str, Any] = field(repr=False)


class Pulse:
    """Counts the steps of an experiment for whoever watches, and remembers what was measured."""

    def __init__(self, reporter: Reporter, ledger: Ledger) -> None:
        self._reporter, self._ledger, self._done = reporter, ledger, 0

    def once(self, name: str, measure: Callable[[], Part]) -> Part:
        """One step, which an interrupted experiment does not take twice.

        Args:
            name: tells this step from the others of the experiment.
            measure: takes it and gives its figures, ready for JSON.
        """
        part = self._ledger.once(name, measure)
        self.step(name)
        return part

    def step(self, note: str) -> None:
        """One more step is done."""
        self._done += 1
        self.say(note)

    def say(self, note: str) -> None:
        """What goes on inside of a step."""
        self._reporter.update(self._done, note)


@dataclass(frozen=True)
class Experiment(ABC):
    """The fields are the flags of the command line.

    Class attributes: `verb`, its name there, and `title`, that of its report.
    """

    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """The run folder; by default runs/ and the name of the experiment."""
    overwrite: bool = False
    """Replace a run that is already there."""

    verb: ClassVar[str]
    title: ClassVar[str]

    @property
    @abstractmethod
    def steps(self) -> int:
        """How many times `measure` calls `pulse.step`."""

    @abstractmethod
    def check(self, given: set[str] | None = None) -> None:
        """Refuse settings that make no sense.

        Args:
            given: fields that were set on purpose.
        """

    @abstractmethod
    def measure(self, pulse: Pulse) -> Findings:
        """Do it, without writing anything."""

    @classmethod
    def summary(cls) -> str:
        """The first sentence of its description."""
        return (cls.__doc__ or "").strip().partition("\n")[0]

    def run(self, console: Console | None = None) -> Findings:
        """Measure, write the run folder in one step, and say what was found.

        Raises:
            InputError: for settings or data that cannot be used; nothing is written then.
        """
        console = console or Console()
        self.check()
        out = absolute(self.out or Path("runs") / self.verb)
        check_free(out, overwrite=self.overwrite)
        start = perf_counter()
        settings = _options.to_json(replace(self, out=out))
        ledger = Ledger(out, _heading(self, settings))
        if len(ledger):
            console.print(
                f"Going on after an interruption: {len(ledger)} parts are measured already "
                f"(delete {shown(ledger.path)} to begin anew).",
                highlight=False, soft_wrap=True, markup=False,
            )  # fmt: skip
        with reporting(console, self.steps) as reporter:
            findings = self.measure(Pulse(reporter, ledger))
        files = _files(self, findings, settings, perf_counter() - start)
        RunFolder.create(out, files, overwrite=self.overwrite)
        ledger.remove()
        _print(findings, shown(out), console)
        return findings


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Refuse no seed, a seed twice, and negative ones."""
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        given = " ".join(map(str, seeds)) or "empty"
        raise InputError(f"--seeds is {given}; give one or more different numbers from 0 on.")


def check_distinct(flag: str, values: Sequence[float], one: str) -> None:
    """Refuse no value, and one twice.

    Args:
        flag: that has them.
        values: of any number.
        one: what one of them is.
    """
    if not values or len(set(values)) < len(values):
        raise InputError(f"{flag} is empty or has a {one} twice; give different ones.")


def _files(
    experiment: Experiment, findings: Findings, settings: dict[str, Any], seconds: float
) -> dict[str, Any]:
    sections = [
        _html.verdict(findings.verdict),
        *findings.sections,
        _html.settings({**settings, "seconds": round(seconds, 1)}),
    ]
    return {
        "settings.json": {**_versions(experiment), "settings": settings},
        "report.html": _html.page(experiment.title, experiment.summary(), sections),
        RESULT_FILE: {
            "verdict": findings.verdict,
            "headline": findings.headline,
            "seconds": seconds,
            "curves": findings.curves,
        },
    }


def _versions(experiment: Experiment) -> dict[str, Any]:
    """What was run, and with what."""
    return {
        "command": f"experiment {experiment.verb}",
        "version": br.__version__,
        "torch": torch.__version__,
    }


def _heading(experiment: Experiment, settings: dict[str, Any]) -> dict[str, Any]:
    """What a measured part depends on: not on where it is written."""
    measured = {name: value for name, value in settings.items() if name not in ("out", "overwrite")}
    return {**_versions(experiment), "settings": measured}


def _print(findings: Findings, path: Path, console: Console) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    for name, value in findings.headline.items():
        table.add_row(name, "not reached" if value is None else f"{value:.4g}")
    console.print(table)
    console.print(findings.verdict, style="bold", highlight=False, soft_wrap=True, markup=False)
    console.print(f"Report: {path / 'report.html'}", highlight=False, soft_wrap=True, markup=False)
