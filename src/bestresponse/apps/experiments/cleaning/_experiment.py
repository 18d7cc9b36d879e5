"""`bestresponse experiment cleaning`: wrong labels found by weights of training examples."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, ClassVar

from bestresponse._errors import InputError
from bestresponse.apps import _options
from bestresponse.apps.experiments._experiment import (
    Experiment,
    Findings,
    Pulse,
    check_distinct,
    check_seeds,
)
from bestresponse.apps.experiments._threads import one_thread
from bestresponse.apps.experiments.cleaning import _report as report
from bestresponse.apps.experiments.cleaning._contenders import FOLLOWED
from bestresponse.apps.experiments.cleaning._data import draw
from bestresponse.apps.experiments.cleaning._memory import peaks
from bestresponse.apps.experiments.cleaning._problem import Cleaning
from bestresponse.apps.experiments.cleaning._race import (
    limit_of,
    plain_seconds,
    race,
    seconds_to,
    simple_rows,
    start_level,
)


@dataclass(frozen=True)
class DataCleaning(Experiment):
    """Training labels of which many are random, each with a weight that is tuned.

    Softmax regression without bias on standardised inputs; the inner loss is the mean of weight
    times cross-entropy plus decay·‖w‖², the outer one the loss on clean validation rows. It is
    the data-cleaning problem of the public bilevel benchmark, which takes 20,000 rows of MNIST
    and 5,000 for validation. Contenders take turns; each is judged by the outer loss at the inner
    optimum solved anew, against its CPU time on one thread.
    """

    data: str = "digits"
    """Labelled data: `digits` (bundled), or a file or folder as in `bestresponse tune`."""
    rows: int = 900
    """Training examples."""
    validation: int = 400
    """Clean examples that the weights are tuned on."""
    noise: tuple[float, ...] = (0.5, 0.7, 0.9)
    """Chances of a training label to be replaced by a uniform one."""
    decay: float = 0.2
    """Of the squared weights, without a half, as in the benchmark."""
    seconds: float = 2.0
    """CPU time of each contender at each noise and seed."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the data; figures are means over them."""

    verb: ClassVar[str] = "cleaning"
    title: ClassVar[str] = "Data cleaning: a weight for each training example"

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        _options.check_positive(self, "rows", "validation", "decay", "seconds")
        check_seeds(self.seeds)
        check_distinct("--noise", self.noise, "level")
        for level in self.noise:
            if not 0 < level < 1:
                raise InputError(f"--noise is {level}; give numbers between 0 and 1.")

    @property
    def steps(self) -> int:
        """For each noise the memory; for each seed of it simple rows, plain training, the race."""
        return len(self.noise) * (1 + 3 * len(self.seeds))

    def measure(self, pulse: Pulse) -> Findings:
        """All races, on one thread."""
        with one_thread():
            cases = [self._case(level, seed, pulse) for level in self.noise for seed in self.seeds]
        levels = [
            report.Level.of([c for c in cases if c["noise"] == n], self._memory(n, pulse))
            for n in self.noise
        ]
        headline = _headline(levels)
        sections = report.sections(levels, published=self._is_benchmark)
        return Findings(_verdict(levels), headline, sections, _curves(levels))

    @property
    def _is_benchmark(self) -> bool:
        """Whether the published figures are of this problem."""
        sizes = (self.rows, self.validation, self.decay) == (20_000, 5_000, 0.2)
        return sizes and "mnist" in self.data.lower()

    def _memory(self, noise: float, pulse: Pulse) -> dict[str, int | None]:
        """Peaks at the first seed."""
        drawn = self.data, self.rows, self.validation, noise, self.seeds[0], self.decay
        return pulse.once(f"noise {noise:g}: memory", lambda: peaks(*drawn))

    def _case(self, noise: float, seed: int, pulse: Pulse) -> dict[str, Any]:
        """One draw of the data."""
        problem = Cleaning(draw(self.data, self.rows, self.validation, noise, seed), self.decay)
        name = f"noise {noise:g}, seed {seed}"
        rows = pulse.once(f"{name}: simple rows", lambda: simple_rows(problem))
        plain = pulse.once(f"{name}: plain training", lambda: plain_seconds(problem, seed))
        curves = pulse.once(
            f"{name}: race",
            lambda: race(problem, seed, self.seconds, lambda words: pulse.say(f"{name}: {words}")),
        )
        limit = limit_of(curves)
        for curve in curves.values():
            curve |= {
                "near": seconds_to(curve, 1.02 * limit),
                "there": seconds_to(curve, 1.001 * limit),
            }
        return {
            "noise": noise,
            "seed": seed,
            "limit": limit,
            "start": start_level(problem),
            "rows": rows,
            "plain_seconds": plain,
            "curves": curves,
        }


def _curves(levels: list[report.Level]) -> dict[str, Any]:
    return {
        "cases": [case for level in levels for case in level.cases],
        "memory": {f"{level.noise:g}": dict(level.memory) for level in levels},
    }


def _headline(levels: list[report.Level]) -> dict[str, float | None]:
    """At each noise the outer loss of the recommended way, and its seconds to the limit."""
    headline: dict[str, float | None] = {}
    for level in levels:
        mine = level.contenders[FOLLOWED.key]
        name = f"at_{level.noise:g}"
        headline |= {
            f"outer_loss_{name}": mine.loss[0],
            f"seconds_to_2_percent_{name}": mine.near,
            f"seconds_to_a_thousandth_{name}": mine.there,
            f"test_error_{name}": mine.test_error[0],
            f"auroc_{name}": mine.auroc[0],
        }
    return headline


def _verdict(levels: list[report.Level]) -> str:
    """The sentence: how soon, how far, and whether it was worth it."""
    level = levels[-1]
    mine = level.contenders[FOLLOWED.key]
    there = "never" if mine.there is None else f"after {mine.there:.2g} s"
    alone = statistics.fmean(case["rows"]["validation_only"]["test_error"] for case in level.cases)
    return (
        f"With {level.noise:.0%} random labels, following the best response over weights in the "
        f"box ends at an outer loss of {mine.loss[0]:.4f}, a thousandth above the best of all "
        f"{there}; its test error is {mine.test_error[0]:.1%}, that of training on the validation "
        f"set alone {alone:.1%}."
    )
