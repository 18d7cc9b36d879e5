"""`bestresponse experiment inverse-comparison`: how near, for how much work."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from bestresponse._errors import InputError
from bestresponse.apps import _options
from bestresponse.apps.experiments._experiment import Experiment, Findings, Pulse, check_seeds
from bestresponse.apps.experiments._roles import Batch, roles
from bestresponse.apps.experiments._threads import one_thread
from bestresponse.apps.experiments.inverse import _comparison_report as report
from bestresponse.apps.experiments.inverse._accuracy_problems import logistic
from bestresponse.apps.experiments.inverse._contenders import (
    CONTENDERS,
    OF_FEW_WEIGHTS,
    PLAIN_CG,
    RECOMMENDED,
    Contender,
)
from bestresponse.apps.experiments.inverse._race import RACERS, Lap, grid, race
from bestresponse.apps.experiments.inverse._regression import regression
from bestresponse.apps.experiments.inverse._work import (
    Bench,
    Reading,
    budgets,
    curve,
    reaching,
    trajectory,
    warm_reaching,
)
from bestresponse.data import load

COLD, WARM = (0.98, 0.997, 0.9998), 0.99
"""Cosines whose work is looked for, in single calls and along outer steps."""

_MOST_ROWS = 10_000


def _optional(metavar: str) -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


@dataclass(frozen=True)
class InverseComparison(Experiment):
    """Ways to approximate the inverse Hessian, by accuracy against work.

    Cosine and distance to the exact hypergradient of one decay for each weight of a logistic
    regression, against products and against work: process CPU time of a whole call, in plain
    training gradients. Then a regression of UCI's with its answer in closed form, and validation
    loss over time where each method drives its own hyperparameter steps. On MNIST with three seeds
    it takes about half an hour.
    """

    data: str = "digits"
    """Labelled data: `digits` (bundled), or a file or folder as in `bestresponse tune`."""
    uci: Annotated[Path | None, _optional("FOLDER")] = None
    """A folder of the UCI collection, such as bostonHousing; without it that part is left out."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the decays; figures are means over them."""
    rows: Annotated[int | None, _optional("INT")] = None
    """Training examples, and half as many for validation; by default 10,000, or half of what there
    is."""
    cap: int = 80
    """Most steps of a solver."""
    rounds: int = 5
    """Timings of which the median is taken."""
    outer_steps: int = 10
    """Hyperparameter steps along which memory is carried."""
    race_steps: int = 300
    """Hyperparameter steps that each method drives by itself."""
    race_rows: int = 600
    """Training examples of that race, as many test examples and half as many for validation."""

    verb: ClassVar[str] = "inverse-comparison"
    title: ClassVar[str] = "Approximate inverses, by accuracy and work"

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        _options.check_positive(
            self, "rows", "cap", "rounds", "outer_steps", "race_steps", "race_rows"
        )
        check_seeds(self.seeds)
        if self.uci is not None:
            regression(self.uci)
        if self.race_rows < 4:
            raise InputError(f"--race-rows is {self.race_rows}; give 4 or more.")

    @property
    def steps(self) -> int:
        """For each seed a fit, the walk and the contenders twice; the table; the race."""
        each = 2 + len(CONTENDERS) + len(_WARM)
        return each * len(self.seeds) + (self.uci is not None) + len(RACERS) + 2

    def measure(self, pulse: Pulse) -> Findings:
        """The three parts, on one thread."""
        rows, test = self._data()
        with one_thread():
            tracks, walks = self._accuracy(rows, pulse)
            few = self._few_weights(pulse)
            laps = self._race(test, pulse)
        headline = _headline(tracks, walks, few, laps)
        sections = (
            report.accuracy(tracks, COLD, rows),
            report.along(walks, WARM, self.outer_steps),
            *report.few_weights(few, self.uci.name if self.uci else ""),
            report.race(laps, self.race_rows),
        )
        return Findings(_verdict(headline), headline, sections, _curves(tracks, walks, few, laps))

    def _data(self) -> tuple[int, Batch]:
        """How many training examples, and the race's test examples: what is too many is refused."""
        rows = self.rows or min(_MOST_ROWS, len(load(self.data)) // 2)
        roles(self.data, rows, rows // 2)
        _, _, test = roles(self.data, self.race_rows, self.race_rows // 2, self.race_rows)[0]
        return rows, test

    def _accuracy(self, rows: int, pulse: Pulse) -> tuple[list[report.Track], list[report.Walked]]:
        """Single calls, and calls along outer steps, at each seed."""
        tracks = {c.key: report.Track(c, [], []) for c in CONTENDERS}
        walks = {c.key: report.Walked(c, []) for c in _WARM}
        for seed in self.seeds:
            say = _prefixed(f"seed {seed}", pulse.say)
            problem = logistic(self.data, seed, rows, rows // 2, say=say)
            pulse.step(f"seed {seed}: fitted")
            exact = problem.point.reference
            for contender in CONTENDERS:
                say(contender.label)
                bench = Bench(problem, contender)
                readings = curve(bench, budgets(self.cap) if contender.budget else [1], exact)
                found = [reaching(bench, readings, at, exact, self.rounds) for at in COLD]
                tracks[contender.key].readings.append(readings)
                tracks[contender.key].reached.append(found)
                pulse.step(f"seed {seed}: {contender.label}")
            points = trajectory(problem, self.outer_steps, _prefixed("walk", say))
            pulse.step(f"seed {seed}: walked")
            for contender in _WARM:
                say(f"{contender.label} along outer steps")
                bench = Bench(problem, contender, warm=True)
                ended = warm_reaching(bench, problem, points, WARM, self.cap, self.rounds)
                walks[contender.key].reached.append(ended)
                pulse.step(f"seed {seed}: {contender.label} along outer steps")
        return list(tracks.values()), list(walks.values())

    def _few_weights(self, pulse: Pulse) -> list[tuple[Contender, list[Reading]]]:
        """A regression with its answer in closed form."""
        if self.uci is None:
            return []
        problem = regression(self.uci)
        steps = range(1, 1 + min(self.cap, 2 * len(problem.reference)))
        found = [
            (c, curve(Bench(problem, c), steps if c.budget else [1], problem.reference))
            for c in OF_FEW_WEIGHTS
        ]
        pulse.step(problem.name)
        return found

    def _race(self, test: Batch, pulse: Pulse) -> list[Lap]:
        """Everyone from the same start; the grid last."""
        rows = self.race_rows
        problem = logistic(self.data, self.seeds[0], rows, rows // 2, say=pulse.say)
        pulse.step("race: fitted")
        laps = []
        for racer in RACERS:
            laps.append(race(racer, problem, test, self.race_steps, pulse.say))
            pulse.step(racer.label)
        laps.append(grid(problem, test, pulse.say))
        pulse.step("grid")
        return laps


_WARM = tuple(contender for contender in CONTENDERS if contender.budget)


def _prefixed(prefix: str, say: Callable[[str], None]) -> Callable[[str], None]:
    return lambda words: say(f"{prefix}: {words}")


def _headline(
    tracks: Sequence[report.Track],
    walks: Sequence[report.Walked],
    few: Sequence[tuple[Contender, list[Reading]]],
    laps: Sequence[Lap],
) -> dict[str, float | None]:
    headline: dict[str, float | None] = {}
    for contender in (RECOMMENDED, PLAIN_CG):
        track = next(track for track in tracks if track.contender is contender)
        walked = next(walk for walk in walks if walk.contender is contender)
        for i, level in enumerate(COLD):
            headline[f"{contender.key}_work_cosine_{level}"] = track.work(i)
        headline[f"{contender.key}_warm_work_cosine_{WARM}"] = walked.work
    for lap in laps:
        headline[f"race_{lap.key}_validation_loss"] = lap.validation_loss
        headline[f"race_{lap.key}_test_loss"] = lap.test_loss
    for contender, readings in few:
        headline[f"uci_{contender.key}_smallest_distance"] = min(r.distance for r in readings)
    return headline


def _verdict(headline: dict[str, float | None]) -> str:
    level = COLD[0]
    ours, plain = (
        headline[f"{contender.key}_work_cosine_{level}"] for contender in (RECOMMENDED, PLAIN_CG)
    )
    words = [_spent(RECOMMENDED.label, ours), _spent("plain CG", plain)]
    warm = headline[f"{RECOMMENDED.key}_warm_work_cosine_{WARM}"]
    along = f"along outer steps, for {WARM}, {_spent(RECOMMENDED.label, warm)}"
    return f"For a cosine of {level}, {words[0]} and {words[1]}; {along}."


def _spent(name: str, work: float | None) -> str:
    return f"{name} does not suffice" if work is None else f"{name} needs {work:.0f} gradients"


def _curves(
    tracks: Sequence[report.Track],
    walks: Sequence[report.Walked],
    few: Sequence[tuple[Contender, list[Reading]]],
    laps: Sequence[Lap],
) -> dict[str, Any]:
    return {
        "accuracy": {
            track.contender.key: {
                "readings": [[asdict(r) for r in readings] for readings in track.readings],
                "reached": [[r and asdict(r) for r in found] for found in track.reached],
            }
            for track in tracks
        },
        "along": {walk.contender.key: walk.reached for walk in walks},
        "uci": {contender.key: [asdict(r) for r in readings] for contender, readings in few},
        "race": [asdict(lap) for lap in laps],
        "unit": "plain training gradients",
        "median_work_of_identity": statistics.median(
            readings[0].work
            for track in tracks
            if track.contender.key == "identity"
            for readings in track.readings
        ),
    }
