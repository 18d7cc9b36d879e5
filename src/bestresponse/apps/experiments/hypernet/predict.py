"""`bestresponse experiment hypernet-predict`: is it better to predict losses, or weights?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch

from bestresponse import response
from bestresponse._errors import InputError
from bestresponse.apps import _options
from bestresponse.apps._examples import stream_seed
from bestresponse.apps.experiments._experiment import Findings, Pulse
from bestresponse.apps.experiments._threads import one_thread
from bestresponse.apps.experiments.hypernet import _predict_report as report
from bestresponse.apps.experiments.hypernet._data import Roles
from bestresponse.apps.experiments.hypernet._predict_fit import (
    Given,
    Learning,
    Predict,
    gaussian,
    hypernetted,
    judged,
    pairs,
)
from bestresponse.apps.experiments.hypernet._problem import Elementary
from bestresponse.apps.experiments.hypernet._search import Box
from bestresponse.apps.experiments.hypernet._settings import OfFewDecays


@dataclass(frozen=True)
class HypernetPredict(OfFewDecays):
    """The loss at other decays, predicted from losses by a Gaussian process or from weights.

    Ten decays, one per class. A Gaussian process learns from a few losses; a linear hypernetwork
    learns weights at the same few points, or at fresh ones, and its losses follow. Histograms show
    the errors at points that none has seen; a table, what the best point of each is worth.
    """

    low: float = -3.0
    """The smallest logarithm λ of a decay."""
    high: float = 3.0
    """The largest."""
    grid: int = 13
    """Values in between, the same for all classes, for cross-validation."""
    evaluations: tuple[int, ...] = (10, 25)
    """Numbers of points to learn from."""
    pairs: int = 200
    """Held-out points."""
    iterations: int = 3000
    """Steps of Adam on a hypernetwork."""
    samples: int = 10
    """Of λ in each."""
    lr: float = 1e-3
    """Of Adam on a hypernetwork, to begin with; it falls to nothing."""

    verb: ClassVar[str] = "hypernet-predict"
    title: ClassVar[str] = "Hypernetworks: predicting losses or weights"

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        super().check(given)
        _options.check_positive(self, "pairs", "iterations", "samples", "lr")
        counts = self.evaluations
        if not counts or min(counts) < 2 or list(counts) != sorted(set(counts)):
            shown = " ".join(map(str, counts)) or "empty"
            raise InputError(f"--evaluations is {shown}; give growing numbers from 2 on.")

    @property
    def steps(self) -> int:
        """For each seed a grid, the pairs, and the predictions."""
        return len(self.seeds) * (3 + len(report.WAYS) * len(self.evaluations))

    def measure(self, pulse: Pulse) -> Findings:
        """Seed by seed, on one thread."""
        roles = self.roles()
        found: dict[str, list[dict[str, Any]]] = {"grids": [], "held": [], "known": [], "runs": []}
        with one_thread():
            for seed in self.seeds:
                work = partial(self.cross_validated, roles, seed, "class")
                found["grids"].append(pulse.once(f"seed {seed}, grid", work))
                for name, count in (("held", self.pairs), ("known", self.evaluations[-1])):
                    part = partial(self._pairs, roles, seed, name, count)
                    found[name].append(pulse.once(f"seed {seed}, {name} points", part))
                self._predictions(roles, seed, pulse, found)
        headline = report.headline(found)
        return Findings(report.verdict(headline), headline, report.sections(found), found)

    def _pairs(self, roles: Roles, seed: int, name: str, count: int) -> dict[str, Any]:
        stream = torch.Generator().manual_seed(stream_seed(seed, name))
        problem = self._problem(roles, seed)
        return pairs(problem, self._box(problem).draw(count, stream), roles, self.retraining)

    def _predictions(
        self, roles: Roles, seed: int, pulse: Pulse, found: dict[str, list[dict[str, Any]]]
    ) -> None:
        known, held = found["known"][-1], found["held"][-1]
        for count in self.evaluations:
            for way, make in self._ways(roles, seed, known, count).items():
                problem = self._problem(roles, seed)
                work = partial(judged, make, problem, held, self._box(problem), roles,
                               self.retraining, seed)  # fmt: skip
                part = pulse.once(f"seed {seed}, {count} points, {report.WAYS[way][0]}", work)
                where = {"seed": seed, "way": way, "count": count}
                found["runs"].append(where | part)

    def _ways(
        self, roles: Roles, seed: int, known: dict[str, Any], count: int
    ) -> dict[str, Callable[[], Predict]]:
        learning = Learning(self.lr, self.iterations, self.samples)
        samplings: dict[str, response.Sampling] = {
            "fixed": Given(torch.tensor(known["points"][:count])),
            "fresh": response.Uniform(self.low, self.high),
        }
        ways: dict[str, Callable[[], Predict]] = {"gaussian": partial(gaussian, known, count)}
        for way, sampling in samplings.items():
            problem = self._problem(roles, seed)
            ways[way] = partial(hypernetted, problem, sampling, learning, roles, seed + count)
        return ways

    def _problem(self, roles: Roles, seed: int) -> Elementary:
        return self.problem(roles[0], "class", 0.0, seed)

    def _box(self, problem: Elementary) -> Box:
        return Box(self.low, self.high, problem.hyperparameters)
