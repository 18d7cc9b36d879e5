"""`bestresponse experiment hypernet-large` and `hypernet-depth`: one decay per weight."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch

from bestresponse.apps import _options
from bestresponse.apps.experiments._experiment import Findings, Pulse, check_distinct
from bestresponse.apps.experiments._threads import one_thread
from bestresponse.apps.experiments.hypernet import _many_report as report
from bestresponse.apps.experiments.hypernet._data import Roles
from bestresponse.apps.experiments.hypernet._many_fit import WAYS, Course, tuned
from bestresponse.apps.experiments.hypernet._problem import Elementary, Objective
from bestresponse.apps.experiments.hypernet._retrain import Retraining, cross_validated
from bestresponse.apps.experiments.hypernet._settings import OfHypernetworks, check_logarithms
from bestresponse.response import Factorized

_PUBLISHED = {"linear": "0.434", "one hidden layer": "0.157", "two hidden layers": "0.206"}


@dataclass(frozen=True)
class OfManyDecays(OfHypernetworks):
    """One decay per weight, beside one for all of them, chosen on a grid.

    Class attributes: `networks`, hidden layers by name; `ways` of tuning; `published`, the
    validation losses of one decay tuned by hand, by network.
    """

    objective: Objective = "paper"
    """Losses of the released code (targets with a deviation of 0.1, norms) or of the paper
    (squares)."""
    seconds: float = 20.0
    """CPU time for each way of tuning."""
    start: float = 0.0
    """The logarithm of every decay, to begin with."""
    grid: tuple[float, ...] = (-6.0, -4.0, -2.0, 0.0, 1.0, 2.0, 3.0)
    """Logarithms of the one decay."""
    rank: int = 10
    """Of the hypernetwork."""
    sigma: float = 1.0
    """Spread of its samples around λ."""
    samples: int = 16
    """Of λ in a step."""
    lr: float = 1e-3
    """Of Adam on the hypernetwork's weights at λ."""
    response_lr: float = 1e-5
    """Of Adam on its slope."""
    hyper_lr: float = 1e-3
    """Of Adam on λ, with the hypernetwork."""
    batch: int = 100
    """Training images in a step."""
    hyper_batch: int = 500
    """Validation images in a step on λ."""
    retraining_steps: int = 2000
    """Steps of Adam on the weights at fixed decays."""

    networks: ClassVar[dict[str, tuple[int, ...]]]
    ways: ClassVar[tuple[str, ...]] = tuple(WAYS)
    published: ClassVar[dict[str, str]]

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        super().check(given)
        _options.check_positive(
            self, "seconds", "rank", "sigma", "samples", "lr", "response_lr", "hyper_lr", "batch",
            "hyper_batch", "retraining_steps",
        )  # fmt: skip
        check_distinct("--grid", self.grid, "value")
        check_logarithms("--start", self.start)
        check_logarithms("--grid", *self.grid)

    @property
    def steps(self) -> int:
        """For each seed and network a grid and the ways."""
        return len(self.seeds) * len(self.networks) * (1 + len(self.ways))

    def measure(self, pulse: Pulse) -> Findings:
        """Seed by seed, network by network, on one thread."""
        roles = self.roles()
        found: dict[str, list[dict[str, Any]]] = {"grids": [], "runs": []}
        with one_thread():
            for seed in self.seeds:
                for network in self.networks:
                    self._one(roles, seed, network, pulse, found)
        return Findings(
            report.verdict(found, self.ways),
            report.headline(found, self.ways),
            report.sections(found, self.networks, self.published),
            found,
        )

    def _one(
        self, roles: Roles, seed: int, network: str, pulse: Pulse,
        found: dict[str, list[dict[str, Any]]],
    ) -> None:  # fmt: skip
        where = {"seed": seed, "network": network}
        grid, retraining = torch.tensor(self.grid), self._retraining
        name = f"seed {seed}, {network}"
        part = pulse.once(
            f"{name}, grid",
            lambda: cross_validated(self._problem(roles, network, seed), grid, retraining, roles),
        )
        found["grids"].append(where | part)
        for way in self.ways:
            problem = self._problem(roles, network, seed)
            run = partial(tuned, problem, way, roles, self._course(seed), retraining)
            part = pulse.once(f"{name}, {WAYS[way].label}", run)
            found["runs"].append(where | {"way": way} | part)

    def _problem(self, roles: Roles, network: str, seed: int) -> Elementary:
        return self.problem(roles[0], "weight", self.start, seed, self.networks[network])

    @property
    def _retraining(self) -> Retraining:
        return Retraining(steps=self.retraining_steps, batch=self.batch)

    def _course(self, seed: int) -> Course:
        form = Factorized(self.rank)
        return Course(
            self.seconds, form, self.sigma, self.samples, self.lr, self.response_lr, self.hyper_lr,
            self.batch, self.hyper_batch, seed,
        )  # fmt: skip


@dataclass(frozen=True)
class HypernetLarge(OfManyDecays):
    """One decay per weight of a linear model: a hypernetwork beside hypergradients.

    On MNIST 7,850 decays are tuned by a factorized hypernetwork with 164,860 weights, beside
    implicit and unrolled hypergradients in the same time, and one decay chosen on a grid. Its
    response has ten directions, which see next to nothing of thousands of decays.
    """

    verb: ClassVar[str] = "hypernet-large"
    title: ClassVar[str] = "Hypernetworks: one decay per weight"

    networks: ClassVar[dict[str, tuple[int, ...]]] = {"linear": ()}
    published: ClassVar[dict[str, str]] = {}


@dataclass(frozen=True)
class HypernetDepth(OfManyDecays):
    """One decay per weight of a linear model and of networks with one and two hidden layers.

    Tuned by a factorized hypernetwork and by implicit hypergradients in the same time, beside one
    decay chosen on a grid; with the gap between validation and test.
    """

    images: int = 600
    """Training images, the first ones."""
    validation: int = 600
    """Validation images, the next ones."""
    test: int = 590
    """Test images, the next ones."""
    start: float = -5.0
    """The logarithm of every decay, to begin with."""
    samples: int = 4
    """Of λ in a step."""
    grid: tuple[float, ...] = (-9.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0)
    """Logarithms of the one decay."""

    verb: ClassVar[str] = "hypernet-depth"
    title: ClassVar[str] = "Hypernetworks: one decay per weight, deeper"

    networks: ClassVar[dict[str, tuple[int, ...]]] = {
        "linear": (), "one hidden layer": (100,), "two hidden layers": (100, 100),
    }  # fmt: skip
    ways: ClassVar[tuple[str, ...]] = ("hypernetwork", "implicit")
    published: ClassVar[dict[str, str]] = _PUBLISHED
