"""What a self-tuning network can tune: the ranges, and where the values enter the loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bestresponse as br
from bestresponse._errors import InputError

if TYPE_CHECKING:
    from bestresponse.apps.tune._settings import TuneSettings

DECAY, SMOOTHING = "decay", "label-smoothing"
_GROUPS = ("dropout", DECAY, "augment", SMOOTHING)
_RATE = (0.0, 0.9, 0.05)
_WHOLE = {"cutout": None, "holes": 3}  # the most; half of the image's shorter side
_LARGEST = {  # of the other changes, and what it is counted in
    "translate": 0.5,  # of the image's width and height
    "rotate": math.pi,  # radians
    "scale": 1.0,  # of the logarithm of the size
    "shear": 1.0,  # tangent of the angle
    "brightness": 1.0,  # of a full pixel
    "contrast": 1.0,  # of the distance from the image's mean
    "saturation": 1.0,  # of the distance from grey
    "hue": 0.5,  # of the circle of colours
    "gain": 1.0,  # of the least and largest factor of all pixels
    "noise": 1.0,  # standard deviation, of a full pixel
    "drop": 0.9,  # rate
}
_START = 0.05  # of the largest
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True)
class Tunable:
    """Hyperparameters of a self-tuning network.

    Attributes:
        ranges: by group and name, for `br.hyper.Bounded`.
        dropout: which layer drops at which rate.
    """

    ranges: dict[str, dict[str, tuple[Any, ...]]]
    dropout: dict[str, str]

    def bounded(self) -> br.hyper.Bounded:
        """All of them, at their initial values."""
        return br.hyper.Bounded(
            **{name: span for group in self.ranges.values() for name, span in group.items()}
        )

    def fixed_values(self, count: int) -> list[dict[str, float]]:
        """Values of the first one to try, of dropout all rates alike; the others stay."""
        group, spans = next(iter(self.ranges.items()))
        names = [*spans] if group == "dropout" else [*spans][:1]
        values = dict.fromkeys(_spread(spans[names[0]], count))
        return [dict.fromkeys(names, value) for value in values]


def check_groups(groups: Iterable[str], kinds: str) -> None:
    """Refuse what no layer can respond to, and changes of images that there are not."""
    wrong = [group for group in groups if group not in _GROUPS]
    if wrong:
        raise InputError(
            f"--method self-tuning cannot tune {wrong[0]}, a number for each example or a network; "
            f"give --tune {','.join(_GROUPS)} or some of these."
        )
    chosen = _kinds(kinds)
    known = (*_LARGEST, *_WHOLE)
    if len({*chosen}) < len(chosen) or not {*chosen} <= {*known}:
        raise InputError(f"--augment {kinds} is not understood; give a list of {', '.join(known)}.")


def tunable(settings: TuneSettings, model: nn.Module, shape: tuple[int, ...]) -> Tunable:
    """What `settings` ask for, for a model of inputs of `shape`.

    Raises:
        InputError: if the model or the data has nothing of the kind.
    """
    dropout = _dropout(model, settings.model) if "dropout" in settings.groups else {}
    make = {
        "dropout": lambda: dict.fromkeys(dropout.values(), _RATE),
        DECAY: lambda: {DECAY: (0.0, math.inf, settings.decay)},
        "augment": lambda: _augmentation(_kinds(settings.augment), shape),
        SMOOTHING: lambda: {SMOOTHING: (0.0, 1.0, 0.1)},
    }
    return Tunable({group: make[group]() for group in settings.groups}, dropout)


class Objective:
    """The training loss at values of the hyperparameters, one for each example or for all.

    Args:
        names: of those that are tuned.
        decay: the weight decay where it is not.
    """

    def __init__(self, names: Iterable[str], decay: float) -> None:
        self._kinds = [name for name in names if name in _LARGEST or name in _WHOLE]
        self._decay = decay

    def augmented(self, inputs: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """The inputs under random changes."""
        ranges = {kind: values[kind] for kind in self._kinds}
        return br.hyper.augment(inputs, **ranges) if ranges else inputs

    def cross_entropy(self, logits: Tensor, labels: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """The mean loss, of smoothed labels if that is tuned."""
        if SMOOTHING not in values:
            return F.cross_entropy(logits, labels)
        logs, strength = F.log_softmax(logits, dim=1), values[SMOOTHING].to(logits)
        right = F.nll_loss(logs, labels, reduction="none")
        return ((1 - strength) * right - strength * logs.mean(1)).mean()

    def decay(self, values: Mapping[str, Tensor]) -> Tensor:
        """The weight decays, one for each example or for all."""
        return values[DECAY] if DECAY in values else torch.tensor([self._decay])


def is_whole(name: str) -> bool:
    """Whether a hyperparameter counts something."""
    return name in _WHOLE


def _kinds(kinds: str) -> list[str]:
    return [kind.strip() for kind in kinds.split(",")]


def _dropout(model: nn.Module, named: str) -> dict[str, str]:
    """A rate for each Dropout of the model, or before each layer but the first."""
    modules = dict(model.named_modules())
    layers = [name for name, module in modules.items() if isinstance(module, _DROPOUTS)]
    layers = layers or [n for n, module in modules.items() if isinstance(module, _LAYERS)][1:]
    if not layers:
        raise InputError(
            f"--tune dropout, --model {named}: the model has no hidden layer to drop units of; "
            "take a deeper one."
        )
    return {layer: f"dropout.{layer}" for layer in layers}


def _augmentation(kinds: list[str], shape: tuple[int, ...]) -> dict[str, tuple[Any, ...]]:
    if len(shape) != 3:
        raise InputError("--tune augment changes images; leave it out for a table of features.")
    try:
        br.hyper.augment(torch.zeros(1, *shape), **dict.fromkeys(kinds, 0.0))
    except InputError as error:
        raise InputError(f"--augment {','.join(kinds)}: {error}") from error
    spans: dict[str, tuple[Any, ...]] = {}
    for kind in kinds:
        if kind in _WHOLE:
            most = _WHOLE[kind] or max(min(shape[1:]) // 2, 1)
            spans[kind] = (br.hyper.Integers(0, most), 1)
        else:
            spans[kind] = (0.0, _LARGEST[kind], _START * _LARGEST[kind])
    return spans


def _spread(span: tuple[Any, ...], count: int) -> list[float]:
    """So many values over a range, from its low end."""
    match span:
        case (br.hyper.Integers() as whole, _):
            return [whole.low + i * (whole.high + 1 - whole.low) // count for i in range(count)]
        case (_, math.inf, start):
            return [start * 10.0 ** (i - count // 2) for i in range(count)]
    low, high, _ = span
    return [low + i * (high - low) / count for i in range(count)]
