"""At which hyperparameters a hypernetwork is trained."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bestresponse._errors import InputError

Numbers = float | Sequence[float] | Tensor
"""One number for all hyperparameters, or one for each."""


class Sampling(ABC):
    """A distribution p(λ) over the flat vector of unconstrained hyperparameters."""

    moves: ClassVar[bool] = False
    """Whether it spreads around the live λ, so that a response centred there is learned."""

    @abstractmethod
    def points(self, live: Tensor, count: int, stream: torch.Generator) -> Tensor:
        """Draws (count, h); fewer where they would all be the same.

        Args:
            live: λ as it is, (h,), constant.
            count: how many.
            stream: of randomness, on the CPU.

        Raises:
            InputError: for settings of another length than λ.
        """


@dataclass(frozen=True)
class Global(Sampling):
    """Normal around a fixed mean, clipped: the response is learned everywhere at once.

    Args:
        mean: of λ; one number, or one for each.
        sigma: standard deviation, positive; likewise.
        low: draws below are set to it; likewise.
        high: draws above are set to it: what enters as e^λ explodes otherwise.

    Raises:
        InputError: for a σ that is not positive, or an empty range.

    Example:
        >>> drawn = Global(sigma=3.0, high=0.0).points(torch.zeros(2), 5, torch.Generator())
        >>> drawn.shape, bool((drawn <= 0).all())
        (torch.Size([5, 2]), True)
    """

    mean: Numbers = 0.0
    sigma: Numbers = 1.5
    low: Numbers = -math.inf
    high: Numbers = math.inf

    def __post_init__(self) -> None:
        for name in ("mean", "sigma", "low", "high"):
            object.__setattr__(self, name, _numbers(getattr(self, name)))
        _check_sigma(self.sigma)
        _check_range("Global", self.low, self.high)

    def points(self, live: Tensor, count: int, stream: torch.Generator) -> Tensor:
        """Clipped normal draws."""
        mean, sigma, low, high = (
            _row(getattr(self, name), live, name) for name in ("mean", "sigma", "low", "high")
        )
        return torch.clamp(mean + sigma * _drawn(torch.randn, live, count, stream), low, high)


@dataclass(frozen=True)
class Uniform(Sampling):
    """Even in a box.

    Args:
        low: of λ; one number, or one for each.
        high: likewise, above `low`.

    Raises:
        InputError: for an empty range.

    Example:
        >>> drawn = Uniform(-2.0, 4.0).points(torch.zeros(1), 100, torch.Generator())
        >>> bool((drawn >= -2).all() and (drawn < 4).all())
        True
    """

    low: Numbers
    high: Numbers

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            object.__setattr__(self, name, _numbers(getattr(self, name)))
        _check_range("Uniform", self.low, self.high)

    def points(self, live: Tensor, count: int, stream: torch.Generator) -> Tensor:
        """Even draws."""
        low, high = _row(self.low, live, "low"), _row(self.high, live, "high")
        return low + (high - low) * _drawn(torch.rand, live, count, stream)


@dataclass(frozen=True)
class Local(Sampling):
    """Normal around the live λ, wherever it has moved: a tangent of the response is learned.

    Args:
        sigma: standard deviation, positive; one number, or one for each. The slope of the
            response is learned from differences of this size: much below 0.3 it gets no signal,
            and λ ends beside the optimum.

    Raises:
        InputError: for a σ that is not positive.

    Example:
        >>> live = torch.full((1,), 7.0)
        >>> drawn = Local(sigma=0.5).points(live, 1000, torch.Generator().manual_seed(0))
        >>> round(drawn.mean().item()), round(drawn.std().item(), 1)
        (7, 0.5)
    """

    moves: ClassVar[bool] = True

    sigma: Numbers = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", _numbers(self.sigma))
        _check_sigma(self.sigma)

    def points(self, live: Tensor, count: int, stream: torch.Generator) -> Tensor:
        """Normal draws around λ."""
        return live + _row(self.sigma, live, "sigma") * _drawn(torch.randn, live, count, stream)


@dataclass(frozen=True)
class Simplified(Sampling):
    """The live λ itself, σ = 0: its movement is all that the response can be learned from.

    All draws would be the same, so one is made.

    Example:
        >>> Simplified().points(torch.ones(2), 10, torch.Generator())
        tensor([[1., 1.]])
    """

    def points(self, live: Tensor, count: int, stream: torch.Generator) -> Tensor:
        """Λ, (1, h)."""
        return live[None]


def _numbers(value: Numbers) -> float | tuple[float, ...]:
    """As settings hold them: plain numbers, compared by value."""
    flat = torch.as_tensor(value, dtype=torch.float64).detach()
    if flat.ndim > 1:
        raise InputError(
            f"A setting of shape {tuple(flat.shape)} is no vector of hyperparameters; give one "
            "number, or one for each in a flat vector."
        )
    return tuple(flat.tolist()) if flat.ndim else float(flat)


def _row(value: Numbers, live: Tensor, name: str) -> Tensor:
    """The setting as a tensor like λ, () or (h,)."""
    row = torch.as_tensor(value, dtype=live.dtype, device=live.device)
    if row.ndim and row.shape != live.shape:
        raise InputError(
            f"{name} has {len(row)} numbers but there are {len(live)} hyperparameters; "
            "give one number, or one for each of them."
        )
    return row


def _drawn(
    kind: Callable[..., Tensor], live: Tensor, count: int, stream: torch.Generator
) -> Tensor:
    """(count, h), the same on every device."""
    drawn = kind(count, len(live), generator=stream, dtype=live.dtype, device=stream.device)
    return drawn.to(live.device)


def _check_sigma(sigma: Numbers) -> None:
    found = torch.as_tensor(sigma)
    if not bool(((found > 0) & found.isfinite()).all()):
        raise InputError(
            f"sigma={sigma} must be positive: without a spread no response can be learned; 0.5 is "
            "usual, and Simplified() does without."
        )


def _check_range(what: str, low: Numbers, high: Numbers) -> None:
    if not bool((torch.as_tensor(low) < torch.as_tensor(high)).all()):
        raise InputError(f"{what}'s range from {low} to {high} is empty; give low < high.")
