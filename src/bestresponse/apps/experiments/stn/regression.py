"""`bestresponse experiment stn-regression`: tuned dropout where the best rate is known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

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
from bestresponse.apps.experiments.stn import _regression_report as report
from bestresponse.apps.experiments.stn._regression_fit import (
    METHODS,
    TOP,
    Regression,
    cost,
    grid,
    tuning,
)


@dataclass(frozen=True)
class SelfTuningRegression(Experiment):
    """Self-tuned dropout of a linear regression, beside the best rate in closed form.

    STN and Δ-STN tune the rate of the dropout at the inputs while they fit 30 weights to 60 rows,
    without ever differentiating the training loss in the rate. For a linear model dropout is a
    ridge penalty, so that the best rate is known.
    """

    starts: tuple[float, ...] = (0.05, 0.6)
    """Rates to begin with."""
    rounds: int = 6000
    """Two training steps and a validation step each."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of the data and the training."""
    timed_rounds: int = 300
    """Rounds whose time is taken."""

    verb: ClassVar[str] = "stn-regression"
    title: ClassVar[str] = "Self-tuned dropout with a known best rate"

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        _options.check_positive(self, "rounds", "timed_rounds")
        check_seeds(self.seeds)
        check_distinct("--starts", self.starts, "rate")
        for start in self.starts:
            if not 0 < start < TOP:
                raise InputError(f"--starts has {start}; give rates between 0 and {TOP:g}.")

    @property
    def steps(self) -> int:
        """A tuning for each seed, method and start, a grid for each seed, and the timing."""
        return len(self.seeds) * (len(METHODS) * len(self.starts) + 1) + 1

    def measure(self, pulse: Pulse) -> Findings:
        """All runs, on one thread."""
        runs, grids = [], []
        with one_thread():
            for seed in self.seeds:
                problem = Regression(seed)
                for method in METHODS:
                    for start in self.starts:
                        run = partial(tuning, problem, method, start, self.rounds)
                        where = {"seed": seed, "method": method, "start": start}
                        name = f"seed {seed}, {METHODS[method]} from {start:g}"
                        runs.append(where | pulse.once(name, run))
                grids.append(pulse.once(f"seed {seed}, grid", partial(grid, problem, self.rounds)))
            taken = pulse.once("time", partial(cost, Regression(self.seeds[0]), self.timed_rounds))
        return Findings(
            report.verdict(runs),
            report.headline(runs, grids, taken),
            report.sections(runs, grids, taken),
            {"runs": runs, "grids": grids, "seconds_a_round": taken},
        )
