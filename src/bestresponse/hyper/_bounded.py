"""Hyperparameters with bounds: unconstrained inside, constrained outside."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bestresponse._errors import InputError
from bestresponse._modules import escape


class Range(ABC):
    """A map of the real line onto a range; smooth and one-to-one, except of whole numbers."""

    low: float
    high: float

    @abstractmethod
    def constrain(self, raw: Tensor) -> Tensor:
        """The value inside the range."""

    @abstractmethod
    def unconstrain(self, value: Tensor) -> Tensor:
        """The raw number whose value this is."""

    def clamp(self, value: Tensor) -> Tensor:
        """The value, kept off the ends, which rounding would reach."""
        low, high = (
            torch.tensor(end, dtype=value.dtype, device=value.device)
            for end in (self.low, self.high)
        )
        return torch.clamp(value, torch.nextafter(low, high), torch.nextafter(high, low))

    def check(self, name: str, value: Tensor, given: object) -> None:
        """Refuse values of the hyperparameter `name` outside of the range."""
        if not bool(((value > self.low) & (value < self.high)).all()):
            raise InputError(
                f"{name} starts at {given}, outside of its open range ({self.low}, {self.high}); "
                "choose an initial value inside."
            )


@dataclass(frozen=True)
class Interval(Range):
    """The open interval (low, high), through a sigmoid."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise InputError(
                f"Interval({self.low}, {self.high}) is empty or unbounded; "
                "give finite bounds with low < high."
            )

    def constrain(self, raw: Tensor) -> Tensor:
        """Low + (high − low)·σ(raw)."""
        return self.low + (self.high - self.low) * torch.sigmoid(raw)

    def unconstrain(self, value: Tensor) -> Tensor:
        """The logit of the position in the interval."""
        return torch.log(value - self.low) - torch.log(self.high - value)


@dataclass(frozen=True)
class HalfLine(Range):
    """The open half-line (low, ∞), through a softplus."""

    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and self.high == math.inf):
            raise InputError(
                f"HalfLine({self.low}, {self.high}) is no half-line; give a finite low end only."
            )

    def constrain(self, raw: Tensor) -> Tensor:
        """Low + log(1 + eʳᵃʷ)."""
        return self.low + torch.logaddexp(raw, torch.zeros_like(raw))

    def unconstrain(self, value: Tensor) -> Tensor:
        """The inverse softplus, stable at both ends."""
        distance = value - self.low
        return distance + torch.log(-torch.expm1(-distance))


@dataclass(frozen=True)
class LogRange(Range):
    """The open range (low, high) of positive numbers, even in the logarithm."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise InputError(
                f"LogRange({self.low}, {self.high}) is no range of positive numbers; "
                "give 0 < low < high."
            )

    def _logs(self) -> Interval:
        return Interval(math.log(self.low), math.log(self.high))

    def constrain(self, raw: Tensor) -> Tensor:
        """Exp of an interval of logarithms."""
        return torch.exp(self._logs().constrain(raw))

    def unconstrain(self, value: Tensor) -> Tensor:
        """The logit of the position between the logarithms of the ends."""
        return self._logs().unconstrain(torch.log(value))


@dataclass(frozen=True)
class Integers(Range):
    """The whole numbers low, …, high: the floor of a number in the interval (low, high + 1).

    The value has no gradient, so nothing is learned through it; a response layer is fed the raw
    number, which has one.
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        whole = all(isinstance(end, int) for end in (self.low, self.high))
        if not whole or self.low >= self.high:
            raise InputError(
                f"Integers({self.low}, {self.high}) leaves nothing to choose; "
                "give whole numbers with low < high."
            )

    def _interval(self) -> Interval:
        return Interval(float(self.low), self.high + 1.0)

    def constrain(self, raw: Tensor) -> Tensor:
        """The floor of low + (high + 1 − low)·σ(raw)."""
        return torch.floor(self._interval().constrain(raw))

    def unconstrain(self, value: Tensor) -> Tensor:
        """The raw number in the middle of those with that value."""
        return self._interval().unconstrain(torch.floor(value) + 0.5)

    def clamp(self, value: Tensor) -> Tensor:
        """Rounding reaches high + 1, which is not in the range."""
        return torch.clamp(value, self.low, self.high)

    def check(self, name: str, value: Tensor, given: object) -> None:
        """Whole numbers only, the ends included."""
        if not bool(((value >= self.low) & (value <= self.high) & (value % 1 == 0)).all()):
            raise InputError(
                f"{name} starts at {given}, which is none of the whole numbers {self.low} to "
                f"{self.high}; choose one of them."
            )


class Bounded(nn.Module):
    """Named hyperparameters, each in its range; read as attributes, differentiable.

    Args:
        **hyperparameters: for each name `(low, high, initial)` with finite bounds for an open
            interval or `high=inf` for a half-line, or `(range, initial)` with a `LogRange`,
            `Integers`, `Interval` or `HalfLine`. `initial` is a number, or a tensor of any shape
            for one hyperparameter an entry.

    Raises:
        InputError: for bounds in the wrong order or an initial value outside of them.

    Example:
        >>> hyper = Bounded(dropout=(0.0, 0.8, 0.2), lr=(LogRange(1e-4, 1.0), 1e-2))
        >>> hyper.dropout
        tensor(0.2000, grad_fn=<ClampBackward0>)
        >>> hyper.set(dropout=0.5)
        >>> round(hyper.values()["dropout"].item(), 6)
        0.5
    """

    def __init__(self, **hyperparameters: tuple[object, ...]) -> None:
        super().__init__()
        if not hyperparameters:
            raise InputError("Bounded got no hyperparameter; write name=(low, high, initial).")
        self._ranges = {name: _range(name, spec) for name, spec in hyperparameters.items()}
        taken = [name for name in hyperparameters if name in {*dir(type(self)), *vars(self), "raw"}]
        if taken:
            raise InputError(f"'{taken[0]}' is an attribute of every module; use another name.")
        self.raw = nn.ParameterDict(
            {
                escape(name): nn.Parameter(self._unconstrained(name, spec[-1]))
                for name, spec in hyperparameters.items()
            }
        )

    def __getattr__(self, name: str) -> Any:
        ranges = self.__dict__.get("_ranges", {})
        if name in ranges:
            return self.constrain(name)
        return super().__getattr__(name)

    def values(self) -> dict[str, Tensor]:
        """All constrained values by name, detached."""
        return {name: self.constrain(name).detach() for name in self._ranges}

    def set(self, **values: float | Tensor) -> None:
        """Put hyperparameters to the given constrained values."""
        for name, value in values.items():
            if name not in self._ranges:
                raise InputError(f"There is no hyperparameter '{name}'; known: {[*self._ranges]}.")
            raw, new = self.raw[escape(name)], self._unconstrained(name, value)
            if new.ndim and new.shape != raw.shape:
                raise InputError(
                    f"{name} has shape {tuple(raw.shape)} but got {tuple(new.shape)}; "
                    "give one number, or a tensor of that shape."
                )
            with torch.no_grad():
                raw.copy_(new)

    def raws(self) -> dict[str, nn.Parameter]:
        """The unconstrained numbers by name: what an optimizer changes."""
        return {name: self.raw[escape(name)] for name in self._ranges}

    def constrain(self, name: str, raw: Tensor | None = None) -> Tensor:
        """The value of a hyperparameter, differentiable.

        Args:
            name: which.
            raw: its unconstrained number in place of the own one; of any shape.
        """
        span = self._ranges[name]
        return span.clamp(span.constrain(self.raw[escape(name)] if raw is None else raw))

    def _unconstrained(self, name: str, value: object) -> Tensor:
        """The raw value, computed in float64 so that the round trip is as exact as the type."""
        span = self._ranges[name]
        initial = torch.as_tensor(value)
        dtype = initial.dtype if initial.is_floating_point() else torch.get_default_dtype()
        exact = initial.detach().to(torch.float64)
        span.check(name, exact, value)
        return span.unconstrain(exact).to(dtype)

    def extra_repr(self) -> str:
        """Name and range of each hyperparameter."""
        return ", ".join(f"{name}={span}" for name, span in self._ranges.items())


def _range(name: str, spec: object) -> Range:
    match spec:
        case (Range() as span, _):
            return span
        case (int() | float() as low, int() | float() as high, _):
            return HalfLine(low) if high == math.inf else Interval(low, high)
    raise InputError(f"{name} must be (low, high, initial) or (range, initial), not {spec!r:.60}.")
