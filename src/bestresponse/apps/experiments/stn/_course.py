"""The epochs of a training run, tuned or not, and what is written down of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import process_time
from typing import Any

import torch
from torch import Tensor, nn

import bestresponse as br
from bestresponse.apps.experiments._experiment import Pulse


@dataclass(frozen=True)
class Pace:
    """How long, and when hyperparameters move.

    Attributes:
        epochs: in all.
        warmup: epochs before the first validation step.
        interval: training steps to a validation step.
    """

    epochs: int
    warmup: int
    interval: int


class Learner(ABC):
    """A model in training."""

    net: br.response.SelfTuning | None = None
    """What tunes itself, if anything does."""

    @property
    @abstractmethod
    def steps_an_epoch(self) -> int:
        """Training steps."""

    @abstractmethod
    def step(self) -> None:
        """One training step."""

    def tune(self) -> None:  # noqa: B027  (what is fixed has none)
        """One validation step."""

    @abstractmethod
    def frozen(self) -> nn.Module:
        """A copy of the model as it is, without responses."""

    @abstractmethod
    def loss(self, model: nn.Module, part: str) -> float:
        """Its mean loss on the part `validation` or `test`, in eval mode."""


def course(
    learner: Learner, pace: Pace, say: Callable[[str], None], limit: float = math.inf
) -> dict[str, Any]:
    """Train to the end, or until `limit` CPU seconds are spent.

    Returns:
        Ready for JSON: `validation`, losses after each epoch; `best`, the epoch where it is
        lowest, counted from 0, and `test`, the loss of the model from there; `seconds` of CPU
        time, without those of the losses; `whole`, whether the end was reached; of what is tuned,
        `values` and `sigma` by hyperparameter and `response` by layer, before the first epoch and
        after each.
    """
    found: dict[str, Any] = {"validation": [], "seconds": 0.0}
    _note(learner.net, found)
    for epoch in range(pace.epochs):
        interval = pace.interval if epoch >= pace.warmup else 0
        found["seconds"] += _epoch(learner, interval, limit - found["seconds"])
        model = learner.frozen()
        loss = _finite(learner.loss(model, "validation"), epoch)
        found["validation"].append(loss)
        if loss <= min(found["validation"]):
            found["best"], best = epoch, model
        _note(learner.net, found)
        say(f"epoch {epoch + 1}, validation loss {loss:.4f}")
        if found["seconds"] >= limit:
            break
    found["test"] = _finite(learner.loss(best, "test"), found["best"])
    found["whole"] = found["seconds"] < limit
    return found


def measured(pulse: Pulse, title: str, pace: Pace, make: Callable[[], Learner]) -> dict[str, Any]:
    """One part of an experiment: a whole training run."""

    def say(words: str) -> None:
        pulse.say(f"{title}: {words}")

    return pulse.once(title, lambda: course(make(), pace, say))


class ByEpoch:
    """A timetable for `Replay`: what each epoch began with.

    Args:
        values: by hyperparameter, before the first epoch and after each.
        steps_an_epoch: training steps.
    """

    def __init__(self, values: Mapping[str, list[float]], steps_an_epoch: int) -> None:
        self._values, self._steps = values, steps_an_epoch

    def at(self, step: int) -> dict[str, Tensor]:
        """The values by name."""
        epoch = step // self._steps
        return {name: torch.tensor(own[epoch]) for name, own in self._values.items()}


def _epoch(learner: Learner, interval: int, limit: float) -> float:
    """CPU seconds of one epoch; an interval of 0 tunes nothing."""
    begun = process_time()
    for step in range(1, learner.steps_an_epoch + 1):
        learner.step()
        if interval and step % interval == 0:
            learner.tune()
        if process_time() - begun >= limit:
            break
    return process_time() - begun


def _note(net: br.response.SelfTuning | None, found: dict[str, Any]) -> None:
    if net is None:
        return
    sigma = {name: value.detach() for name, value in net.scales.sigma().items()}
    numbers: list[tuple[str, Mapping[str, Tensor | float]]] = [
        ("values", net.hyper.values()), ("sigma", sigma), ("response", net.response_size()),
    ]  # fmt: skip
    for kind, by_name in numbers:
        for name, number in by_name.items():
            found.setdefault(kind, {}).setdefault(name, []).append(float(number))


def _finite(loss: float, epoch: int) -> float:
    if not math.isfinite(loss):
        raise br.SolveError(br.Result.nonfinite, f"(loss after epoch {epoch + 1})")
    return loss
