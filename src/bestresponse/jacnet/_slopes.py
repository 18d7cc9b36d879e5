"""What a network's output becomes to be a slope: positive, or within an interval."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bestresponse._errors import InputError


class Slope(ABC):
    """A function of the network's output whose values lie between `floor` and `ceiling`."""

    floor: float
    ceiling: float = math.inf

    def __post_init__(self) -> None:
        if not 0 <= self.floor < math.inf:
            raise InputError(
                f"{type(self).__name__}(floor={self.floor}) must be 0 or more, and finite."
            )

    @abstractmethod
    def __call__(self, raw: Tensor) -> Tensor:
        """The slopes, entry by entry."""


@dataclass(frozen=True)
class Softplus(Slope):
    """floor + log(1 + eʲ)."""

    floor: float = 1e-4

    def __call__(self, raw: Tensor) -> Tensor:
        return self.floor + F.softplus(raw)


@dataclass(frozen=True)
class Exp(Slope):
    """floor + eʲ."""

    floor: float = 1e-4

    def __call__(self, raw: Tensor) -> Tensor:
        return self.floor + raw.exp()


@dataclass(frozen=True)
class Square(Slope):
    """floor + j², the paper's JJᵀ + εI in one dimension.

    A poor choice but for reproducing it: j may cross zero away from the data, where the slope then
    falls to the floor and its inverse is stiff.
    """

    floor: float = 1e-4

    def __call__(self, raw: Tensor) -> Tensor:
        return self.floor + raw.square()


@dataclass(frozen=True)
class Interval(Slope):
    """Between floor and ceiling: floor + (ceiling − floor)·(1 + tanh j)/2.

    With floor = −ceiling it is ceiling·tanh j, the paper's Lipschitz activation.
    """

    floor: float
    ceiling: float

    def __post_init__(self) -> None:
        if not self.floor < self.ceiling < math.inf or not math.isfinite(self.floor):
            raise InputError(
                f"Interval(floor={self.floor}, ceiling={self.ceiling}) is empty; floor must be "
                "below ceiling, and both finite."
            )

    def __call__(self, raw: Tensor) -> Tensor:
        half = (self.ceiling - self.floor) / 2
        # rounding must not leave the interval
        return (self.floor + half * (1 + torch.tanh(raw))).clamp(self.floor, self.ceiling)
