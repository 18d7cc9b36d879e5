"""A small convolutional network, and all that may be changed in its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import bestresponse as br
from bestresponse._errors import InputError
from bestresponse.apps._networks import Shape
from bestresponse.apps.experiments.stn._classifier import Problem, Roles, Values

LAYERS = {"3": "conv1", "7": "conv2", "12": "flat", "15": "hidden"}
RATES = tuple(LAYERS.values())
_LEAST, _HOLES = 8, 3  # pixels a side; squares cut out at most


@dataclass(frozen=True)
class Span:
    """A range to tune or to search in.

    Attributes:
        low: end.
        high: end; of whole numbers it is included.
        start: of tuning.
        whole: whether only whole numbers are in it.
    """

    low: float
    high: float
    start: float
    whole: bool = False

    def spec(self) -> tuple[object, ...]:
        """As `Bounded` has it."""
        if self.whole:
            return br.hyper.Integers(int(self.low), int(self.high)), self.start
        return self.low, self.high, self.start

    def draw(self, stream: torch.Generator) -> float:
        """A value at random, evenly."""
        share = float(torch.rand((), generator=stream))
        if self.whole:
            return float(int(self.low + share * (self.high + 1 - self.low)))
        return self.low + share * (self.high - self.low)


def spans(shape: Shape) -> dict[str, Span]:
    """What is tuned for images of that shape: colours only where there are any.

    Raises:
        InputError: for what is no image, or too small a one.
    """
    if len(shape) != 3 or min(shape[1:]) < _LEAST:
        raise InputError(
            f"The data has shape {shape}; give images of at least {_LEAST}×{_LEAST} pixels."
        )
    side = min(shape[1:]) // 2
    found = {name: Span(0.0, 0.9, 0.05) for name in RATES}
    found |= {"cutout": Span(0, side, side // 4, whole=True)}
    found |= {"holes": Span(0, _HOLES, 1, whole=True)}
    found |= {name: Span(0.0, 0.5, 0.05) for name in ("brightness", "contrast")}
    if shape[0] == 3:
        found |= {"saturation": Span(0.0, 0.5, 0.05), "hue": Span(0.0, 0.25, 0.025)}
    return found


def problem(roles: Roles, width: int) -> Problem:
    """Three convolutions and two linear layers; channels and units are dropped between them.

    Args:
        roles: the examples.
        width: channels of the first convolution.
    """
    names = [name for name in spans(roles.shape) if name not in RATES]
    channels, rows, columns = roles.shape
    flat = 4 * width * (rows // 8) * (columns // 8)

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(), nn.Linear(flat, 4 * width), nn.ReLU(),
            nn.Dropout(), nn.Linear(4 * width, roles.classes),
        )  # fmt: skip

    def augment(x: Tensor, values: Values) -> Tensor:
        return br.hyper.augment(x, **{name: values[name] for name in names})

    return Problem(roles, make, LAYERS, augment)


def draw(within: Mapping[str, Span], stream: torch.Generator) -> dict[str, float]:
    """All values at random."""
    return {name: span.draw(stream) for name, span in within.items()}
