"""Accuracy against work: every contender at rising budgets, on every seed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from benchmarks.clock import interleaved
from benchmarks.contenders import Contender, cosine
from benchmarks.problems import Case

_HOPELESS = 300  # plain gradients: no contender is given more


@dataclass
class Reading:
    """One contender at one budget.

    Attributes:
        budget: steps.
        products: with all rows.
        partial: with a part of the rows, in products with all of them.
        cosines: one a seed.
        ratios: work in plain gradients, one a round; empty where nobody asked.
    """

    budget: int
    products: float
    partial: float
    cosines: list[float]
    ratios: list[float] = field(default_factory=list)

    @property
    def cosine(self) -> float:
        """The mean over the seeds."""
        return statistics.mean(self.cosines)

    @property
    def work(self) -> float:
        """The middle of the rounds, in plain gradients."""
        return statistics.median(self.ratios)


@dataclass
class Track:
    """One contender at rising budgets."""

    library: str
    name: str
    readings: list[Reading]

    def at(self, budget: int) -> Reading | None:
        """The reading at a budget."""
        return next((r for r in self.readings if r.budget == budget), None)

    def reaching(self, level: float) -> Reading | None:
        """The first reading whose mean cosine is as high as `level`."""
        return next((r for r in self.readings if r.cosine >= level), None)

    @property
    def best(self) -> Reading:
        """The one nearest to the truth."""
        return max(self.readings, key=lambda reading: reading.cosine)


@dataclass(frozen=True)
class Judged:
    """All contenders on one problem; the unit in milliseconds."""

    unit_ms: float
    tracks: list[Track]

    def find(self, name: str, library: str = "bestresponse") -> Track:
        """One contender's."""
        return next(t for t in self.tracks if (t.library, t.name) == (library, name))


def judge(
    cases: Sequence[Case],
    references: Sequence[Tensor],
    contenders_of: Callable[[Case], Iterable[Contender]],
    levels: Sequence[float],
    shown: Sequence[int],
    rounds: int,
    say: Callable[[str], None],
) -> Judged:
    """Cosines at all budgets up to the highest level; work at the `shown` ones and at the levels.

    Work, which does not depend on the seed, is timed on the first one.

    Args:
        cases: one a seed.
        references: the true hypergradients, in the order of the weights.
        contenders_of: the contenders on a case.
        levels: cosines that count.
        shown: budgets whose work is asked for in any case.
        rounds: timings of each.
        say: told what is being done.
    """
    by_contender = list(zip(*(contenders_of(case) for case in cases), strict=True))
    tracks = []
    for seeds in by_contender:
        say(f"{seeds[0].library}, {seeds[0].name}")
        readings = list(_readings(seeds, references, max(levels, default=2.0)))
        tracks.append(Track(seeds[0].library, seeds[0].name, readings))
    say("work")
    asked = [
        (reading, seeds[0].at(reading.budget).run)
        for track, seeds in zip(tracks, by_contender, strict=True)
        for reading in _timed(track, levels, shown)
    ]
    ratios, unit = interleaved(cases[0].plain_gradient(), [run for _, run in asked], rounds)
    for (reading, _), own in zip(asked, ratios, strict=True):
        reading.ratios += own
    return Judged(unit, tracks)


def _readings(
    seeds: Sequence[Contender], references: Sequence[Tensor], enough: float
) -> Iterator[Reading]:
    for budget in seeds[0].budgets:
        efforts = [contender.at(budget) for contender in seeds]
        cosines = [cosine(e.run(), r) for e, r in zip(efforts, references, strict=True)]
        partial = statistics.mean(effort.partial() for effort in efforts)
        products = statistics.mean(effort.products() for effort in efforts)
        reading = Reading(budget, products, partial, cosines)
        yield reading
        if reading.cosine >= enough or reading.products > _HOPELESS:
            return


def _timed(track: Track, levels: Sequence[float], shown: Sequence[int]) -> list[Reading]:
    """The readings whose work is asked for."""
    wanted = {id(reading) for level in levels if (reading := track.reaching(level))}
    wanted |= {id(reading) for budget in shown if (reading := track.at(budget))}
    wanted.add(id(track.best))
    return [reading for reading in track.readings if id(reading) in wanted]
