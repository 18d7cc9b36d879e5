"""Random search over fixed values, in the time of a tuned run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from time import process_time
from typing import Any

import bestresponse as br
from bestresponse.apps.experiments._experiment import Pulse
from bestresponse.apps.experiments.stn._course import Learner, Pace, course
from bestresponse.apps.experiments.stn._runs import PARTS, at_best

Values = dict[str, float]


def searched(
    pulse: Pulse,
    title: str,
    make: Callable[[Values], Learner],
    draw: Callable[[int], Values],
    pace: Pace,
    seconds: float,
) -> dict[str, Any]:
    """One part of an experiment: a whole search."""

    def say(words: str) -> None:
        pulse.say(f"{title}: {words}")

    return pulse.once(title, lambda: search(make, draw, pace, seconds, say))


def search(
    make: Callable[[Values], Learner],
    draw: Callable[[int], Values],
    pace: Pace,
    seconds: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Train one draw after another until the CPU time is spent.

    What the last one has reached when the time is up counts; one that diverges does not.

    Args:
        make: the training at some values.
        draw: gives those of trial number 0, 1, …
        pace: of every training.
        seconds: for all together.
        say: what is being done.

    Returns:
        The run of the trial with the lowest validation loss, ready for JSON, with its `drawn`
        values, and `trials`: those of every trial, its losses, seconds, and whether it is whole.
    """
    runs, left = list[dict[str, Any]](), seconds
    for trial in count():
        values, begun = draw(trial), process_time()
        try:
            run = course(make(values), pace, partial(_note, say, trial), left)
        except br.SolveError:
            left -= process_time() - begun
        else:
            runs.append({**run, "drawn": values})
            left -= run["seconds"]
        if left <= 0:
            break
    if not runs:
        raise br.SolveError(br.Result.nonfinite, "(every trial of the random search)")
    winner = min(runs, key=lambda run: at_best(run, "validation"))
    return {**winner, "trials": [_summary(run) for run in runs]}


def _summary(run: dict[str, Any]) -> dict[str, Any]:
    losses = {part: at_best(run, part) for part in PARTS}
    return {**losses, **{name: run[name] for name in ("drawn", "seconds", "whole")}}


def _note(say: Callable[[str], None], trial: int, words: str) -> None:
    say(f"trial {trial + 1}, {words}")
