"""Settings that experiments with hypernetworks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import bestresponse as br
from bestresponse._errors import InputError
from bestresponse.apps import _options
from bestresponse.apps._examples import stream_seed
from bestresponse.apps.experiments._experiment import Experiment, check_seeds
from bestresponse.apps.experiments.hypernet._data import Roles, Rows, load_roles
from bestresponse.apps.experiments.hypernet._problem import Elementary, Objective, Per
from bestresponse.apps.experiments.hypernet._retrain import Retraining, cross_validated

FAR = 20  # logarithms of decays


@dataclass(frozen=True)
class OfHypernetworks(Experiment):
    """Few images to train on, many for validation."""

    data: str = "digits"
    """Labelled data: `digits` (bundled), or a file or folder as in `bestresponse tune`."""
    objective: Objective = "code"
    """Losses of the released code (targets with a deviation of 0.1, norms) or of the paper
    (squares)."""
    images: int = 10
    """Training images, the first ones."""
    validation: int = 800
    """Validation images, the next ones."""
    test: int = 900
    """Test images, the next ones."""
    seeds: tuple[int, ...] = (0,)
    """Of the initial weights and the samples."""

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        _options.check_positive(self, "images", "validation", "test")
        check_seeds(self.seeds)

    def roles(self) -> Roles:
        """For training, validation and test."""
        return load_roles(self.data, self.images, self.validation, self.test)

    def problem(
        self, train: Rows, per: Per, start: float, seed: int, hidden: tuple[int, ...] = ()
    ) -> Elementary:
        """A network for the data, its decays at e^start."""
        sizes = (train[0].shape[1], *hidden, train[1].shape[1])
        return Elementary(sizes, per, self.objective, start, seed)


@dataclass(frozen=True)
class OfFewDecays(OfHypernetworks):
    """A linear model with so few decays that weights can be trained at many values of them."""

    low: float = -2.0
    """The smallest logarithm λ of a decay for cross-validation."""
    high: float = 4.0
    """The largest."""
    grid: int = 25
    """How many, in equal steps."""
    retraining_lr: float = 1e-3
    """Of Adam on the weights, for each of them."""
    retraining_steps: int = 2000
    """Its steps."""

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        super().check(given)
        _options.check_positive(self, "retraining_lr", "retraining_steps")
        if not -FAR <= self.low < self.high <= FAR:
            raise InputError(
                f"--low {self.low} and --high {self.high} are no range of logarithms; give "
                f"-{FAR} <= low < high <= {FAR}."
            )
        if self.grid < 2:
            raise InputError(f"--grid is {self.grid}; give 2 or more.")

    @property
    def values(self) -> Tensor:
        """The grid (S,)."""
        return torch.linspace(self.low, self.high, self.grid)

    @property
    def retraining(self) -> Retraining:
        """How weights are trained at one value."""
        return Retraining(self.retraining_lr, self.retraining_steps)

    def cross_validated(self, roles: Roles, seed: int, per: Per = "model") -> dict[str, Any]:
        """Of one seed; the same value for all decays."""
        problem = self.problem(roles[0], per, 0.0, seed)
        return cross_validated(problem, self.values, self.retraining, roles)


def hypernetwork(problem: Elementary, seed: int, **settings: Any) -> br.response.HyperNetwork:
    """Of the problem's weights and decays."""
    return br.response.HyperNetwork(
        problem.model, problem.decays, problem.inner, problem.outer,
        seed=stream_seed(seed, "hypernetwork"), **settings,
    )  # fmt: skip


def check_logarithms(flag: str, *values: float) -> None:
    """Refuse decays out of this world."""
    for value in values:
        if not -FAR <= value <= FAR:
            raise InputError(f"{flag} has {value}; give logarithms from -{FAR} to {FAR}.")
