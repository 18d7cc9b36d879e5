"""Settings that experiments with JacNet share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bestresponse._errors import InputError
from bestresponse.apps import _options
from bestresponse.apps.experiments._experiment import Experiment, Pulse
from bestresponse.apps.experiments.jacnet import _paper as paper


@dataclass(frozen=True)
class OfThePaper(Experiment):
    """Every contender on every seed in the paper's setting.

    Class attributes: `contenders`, and `target`, the function that is learned.
    """

    seeds: int = 20
    """Of the points and of the initial weights: 0, 1, ..."""
    iterations: int = 50
    """Of Adam."""

    contenders: ClassVar[Sequence[paper.Contender]]

    @staticmethod
    @abstractmethod
    def target(x: Tensor) -> Tensor:
        """The function that is learned."""

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        _options.check_positive(self, "seeds", "iterations")

    @property
    def steps(self) -> int:
        """Each contender on each seed."""
        return self.seeds * len(self.contenders)

    def trained(self, pulse: Pulse) -> dict[str, list[paper.Trained]]:
        """All seeds of each contender, by key."""
        runs: dict[str, list[paper.Trained]] = {each.key: [] for each in self.contenders}
        for each in self.contenders:
            for seed in range(self.seeds):
                runs[each.key].append(paper.train(each, self.target, seed, self.iterations))
                pulse.step(f"{each.label}, seed {seed}")
        return runs


@dataclass(frozen=True)
class OfSeveralDimensions(Experiment):
    """Maps in a few dimensions."""

    dims: tuple[int, ...] = (2, 8)
    """Dimensions, even numbers."""
    iterations: int = 1500
    """Of Adam; slow structures get a share."""

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        _options.check_positive(self, "iterations")
        if not self.dims or any(d < 2 or d % 2 for d in self.dims):
            raise InputError(f"--dims is {self.dims}; give even numbers from 2 on.")
