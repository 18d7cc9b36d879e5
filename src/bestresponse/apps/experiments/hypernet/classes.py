"""`bestresponse experiment hypernet-classes`: ten decays, one for each class."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from bestresponse.apps import _options
from bestresponse.apps._examples import stream_seed
from bestresponse.apps.experiments._experiment import Findings, Pulse
from bestresponse.apps.experiments._threads import one_thread
from bestresponse.apps.experiments.hypernet import _classes_report as report
from bestresponse.apps.experiments.hypernet._data import Roles
from bestresponse.apps.experiments.hypernet._many_fit import Course, tuned
from bestresponse.apps.experiments.hypernet._search import Box, at_random, bayesian, searched
from bestresponse.apps.experiments.hypernet._settings import OfFewDecays, check_logarithms
from bestresponse.response import Affine

SEARCHES = {"random": at_random, "bayesian": bayesian}


@dataclass(frozen=True)
class HypernetClasses(OfFewDecays):
    """One decay per class of a linear model: a hypernetwork beside two searches.

    The penalty is the mean over classes of e^λᵢ ‖Wᵢ‖. A linear hypernetwork follows λ; random
    search and Bayesian optimisation train from scratch at one λ after another, in the same time.
    Beside them one value for all classes, chosen on a grid.
    """

    high: float = 6.0
    """The largest."""
    grid: int = 17
    """How many, in equal steps."""
    start: float = 1.5
    """The logarithm of every decay, to begin with, for the hypernetwork."""
    seconds: float = 20.0
    """CPU time for the hypernetwork and for each search."""
    sigma: float = 0.5
    """Spread of the samples around λ."""
    samples: int = 16
    """Of λ in a step."""
    lr: float = 1e-3
    """Of Adam on the hypernetwork's weights at λ."""
    response_lr: float = 1e-4
    """Of Adam on its slope."""
    hyper_lr: float = 3e-2
    """Of Adam on λ."""
    batch: int = 500
    """Validation images in a step on λ."""

    verb: ClassVar[str] = "hypernet-classes"
    title: ClassVar[str] = "Hypernetworks: one decay per class"

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        super().check(given)
        _options.check_positive(
            self, "seconds", "sigma", "samples", "lr", "response_lr", "hyper_lr", "batch"
        )  # fmt: skip
        check_logarithms("--start", self.start)

    @property
    def steps(self) -> int:
        """For each seed a grid, a hypernetwork, and the searches."""
        return len(self.seeds) * (2 + len(SEARCHES))

    def measure(self, pulse: Pulse) -> Findings:
        """Seed by seed, on one thread."""
        roles = self.roles()
        found: dict[str, list[dict[str, Any]]] = {"grids": [], "runs": []}
        with one_thread():
            for seed in self.seeds:
                work = partial(self.cross_validated, roles, seed, "class")
                found["grids"].append(pulse.once(f"seed {seed}, grid", work))
                runs = {"hypernetwork": partial(self._learned, roles, seed)} | {
                    name: partial(self._searched, roles, seed, name) for name in SEARCHES
                }
                for way, run in runs.items():
                    part = pulse.once(f"seed {seed}, {report.WAYS[way][0]}", run)
                    found["runs"].append({"seed": seed, "way": way} | part)
        headline = report.headline(found)
        return Findings(report.verdict(headline), headline, report.sections(found), found)

    def _learned(self, roles: Roles, seed: int) -> dict[str, Any]:
        problem = self.problem(roles[0], "class", self.start, seed)
        course = Course(
            self.seconds, Affine(), self.sigma, self.samples, self.lr, self.response_lr,
            self.hyper_lr, self.images, self.batch, seed,
        )  # fmt: skip
        found = tuned(problem, "hypernetwork", roles, course, self.retraining)
        return found | {"best": problem.log_decays.tolist()}

    def _searched(self, roles: Roles, seed: int, name: str) -> dict[str, Any]:
        problem = self.problem(roles[0], "class", 0.0, seed)
        propose = SEARCHES[name](Box(self.low, self.high, problem.hyperparameters))
        stream = stream_seed(seed, name)
        return searched(problem, propose, roles, self.retraining, self.seconds, stream)
