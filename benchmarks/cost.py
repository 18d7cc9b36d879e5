"""The cost of a hypergradient, counted in plain training gradients."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.entrants import Entrant
from benchmarks.problems import Case

_SHORTEST = 0.1  # seconds of one timing: far above what the clock can tell apart


@dataclass(frozen=True)
class Cost:
    """Cost of one entrant over the rounds, in plain gradients.

    Attributes:
        library: whose it is.
        method: the row of ours that it belongs to.
        note: how it differs, in a few words.
        ratios: one a round; empty if it failed.
        difference: relative distance of its hypergradient from ours of the same method.
        failure: why there is no number, in a few words.
    """

    library: str
    method: str
    note: str
    ratios: tuple[float, ...] = ()
    difference: float | None = None
    failure: str = ""

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.ratios)


@dataclass(frozen=True)
class Measurement:
    """All entrants on one problem, and the unit in milliseconds."""

    unit_ms: float
    costs: tuple[Cost, ...]


def measure(case: Case, entrants: Iterable[Entrant], rounds: int) -> Measurement:
    """Time every entrant once a round, with the plain gradient before and after each.

    A ratio is to the mean of the two neighbouring timings of the unit, so that a machine that
    slows down for a while slows both.

    Args:
        case: what is differentiated.
        entrants: ours first, since the others' results are compared with it.
        rounds: number of ratios of each.
    """
    torch.set_num_threads(1)
    tried = _tried(list(entrants))
    running = [entrant for entrant, cost, _ in tried if not cost.failure]
    repeats = [_repeats(seconds) for _, cost, seconds in tried if not cost.failure]
    unit = case.plain_gradient()
    unit()
    unit_repeats = _repeats(_seconds(unit, 3))
    ratios: dict[int, list[float]] = {id(entrant): [] for entrant in running}
    units = []
    for _ in range(rounds):
        before = _seconds(unit, unit_repeats)
        for entrant, count in zip(running, repeats, strict=True):
            own, after = _seconds(entrant.run, count), _seconds(unit, unit_repeats)
            ratios[id(entrant)].append(own / ((before + after) / 2))
            units.append(after)
            before = after
    costs = [
        Cost(c.library, c.method, c.note, tuple(ratios.get(id(e), ())), c.difference, c.failure)
        for e, c, _ in tried
    ]
    return Measurement(1e3 * statistics.median(units), tuple(costs))


def _tried(entrants: Sequence[Entrant]) -> list[tuple[Entrant, Cost, float]]:
    """Each entrant run once: whether it works, how near its result is to ours, its seconds."""
    exact: dict[str, list[Tensor]] = {}
    tried = []
    for entrant in entrants:
        identity = (entrant.library, entrant.method, entrant.note)
        start = time.process_time()
        try:
            result = [leaf.clone() for leaf in entrant.run()]
        except Exception as error:  # a peer may fail in any way; the table says how
            if entrant.method not in exact:
                raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            tried.append((entrant, Cost(*identity, failure=reason[:60]), 0.0))
            continue
        seconds = time.process_time() - start
        reference = exact.setdefault(entrant.method, result)
        cost = Cost(*identity, difference=_distance(result, reference))
        tried.append((entrant, cost, seconds))
    gc.collect()
    gc.freeze()  # what is alive now stays; later collections are quick
    return tried


def _distance(result: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    squares = [
        ((a - b).square().sum(), b.square().sum()) for a, b in zip(result, reference, strict=True)
    ]
    apart, length = (sum(float(s) for s in column) for column in zip(*squares, strict=True))
    return (apart / length) ** 0.5


def _repeats(seconds: float) -> int:
    """How often to run within one timing what takes so long."""
    return max(1, round(_SHORTEST / seconds))


def _seconds(run: Callable[[], object], repeats: int) -> float:
    """Process CPU time of one run, the mean of several."""
    gc.collect()
    start = time.process_time()
    for _ in range(repeats):
        run()
    return (time.process_time() - start) / repeats
