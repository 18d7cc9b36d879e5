"""Time in units of one plain gradient, on a machine that slows down when it likes."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence

Run = Callable[[], object]

_SHORTEST = 0.1  # seconds of one timing: far above what the clock can tell apart


def interleaved(
    unit: Run, runs: Sequence[Run], rounds: int, first: Sequence[float] = ()
) -> tuple[list[tuple[float, ...]], float]:
    """Each run timed once a round, with the unit before and after each.

    A ratio is to the mean of the two neighbouring timings of the unit, so that a machine that
    slows down for a while slows both.

    Args:
        unit: what is counted in.
        runs: what is counted.
        rounds: number of ratios of each.
        first: seconds of each run, where they are known; otherwise each is run once to find out.

    Returns:
        The ratios of each run, and the unit in milliseconds.
    """
    repeats = [_repeats(once) for once in first or [seconds(run) for run in runs]]
    unit()
    unit_repeats = _repeats(seconds(unit, 3))
    ratios: list[list[float]] = [[] for _ in runs]
    units = []
    for _ in range(rounds):
        before = seconds(unit, unit_repeats)
        for run, count, own in zip(runs, repeats, ratios, strict=True):
            spent, after = seconds(run, count), seconds(unit, unit_repeats)
            own.append(spent / ((before + after) / 2))
            units.append(after)
            before = after
    return [tuple(own) for own in ratios], 1e3 * statistics.median(units)


def seconds(run: Run, repeats: int = 1) -> float:
    """Process CPU time of one run, the mean of several."""
    gc.collect()
    start = time.process_time()
    for _ in range(repeats):
        run()
    return (time.process_time() - start) / repeats


def _repeats(once: float) -> int:
    """How often to run within one timing what takes so long."""
    return max(1, round(_SHORTEST / max(once, 1e-6)))
