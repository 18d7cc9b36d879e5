"""Peak memory of the contenders."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from bestresponse.apps._fresh_process import in_fresh_process
from bestresponse.apps.experiments.cleaning._contenders import CONTENDERS
from bestresponse.apps.experiments.cleaning._data import draw
from bestresponse.apps.experiments.cleaning._problem import Cleaning
from bestresponse.diagnostics import PeakMemory

PLAIN = "plain"

_STEPS = 3  # outer steps: all that is ever kept is there by then
_TOLERANCE = 1e-5

Peaks = dict[str, int | None]
"""Bytes above the data, by contender, and of plain training; None where the system is silent."""


def peaks(source: str, rows: int, validation: int, noise: float, seed: int, decay: float) -> Peaks:
    """The peaks at one draw, by a new process."""
    found: Peaks = in_fresh_process(_here, source, rows, validation, noise, seed, decay)
    return found


def _here(source: str, rows: int, validation: int, noise: float, seed: int, decay: float) -> Peaks:
    problem = Cleaning(draw(source, rows, validation, noise, seed), decay)
    train = problem.roles.train
    runs: dict[str, Callable[[], object]] = {
        PLAIN: lambda: problem.fitted_to(train, _TOLERANCE),
        **{
            each.key: lambda each=each: list(islice(each.start(problem, seed), _STEPS))  # type: ignore[misc]
            for each in CONTENDERS
        },
    }
    for run in runs.values():  # libraries that are loaded at first use do not count
        run()
    return {key: _peak(run) for key, run in runs.items()}


def _peak(run: Callable[[], object]) -> int | None:
    peak = PeakMemory()
    run()
    return peak.read()
