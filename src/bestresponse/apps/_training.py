"""One training run that can be stopped after any step and continued bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bestresponse as br
from bestresponse import Result, SolveError
from bestresponse.apps._examples import Examples, Order, stream_seed

_EVALUATION_BATCH = 2000


class Companion(Protocol):
    """What happens beside the steps of a training run: hyperparameter steps."""

    def after_step(self, step: int) -> None:
        """Called after training step number `step`, counted from 1."""
        ...

    def state(self) -> dict[str, Any]:
        """All that is needed to continue."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        ...


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy and accuracy on some examples."""

    loss: float
    accuracy: float


class Training:
    """Training of one model, with its own order of batches and its own randomness.

    Args:
        name: the row of the table that this is.
        examples: what is trained on.
        model: trained in place.
        optimizer: steps the model.
        loss: `loss(inputs, labels, index)`, the training loss of a batch as a scalar.
        batch_size: examples a step.
        seed: of the order of the batches and of the model's randomness.
        companion: what happens beside the steps.
        product: makes the model that comes of it, where that is another than `model`.
    """

    def __init__(
        self,
        name: str,
        examples: Examples,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[Tensor, Tensor, Tensor], Tensor],
        *,
        batch_size: int,
        seed: int,
        companion: Companion | None = None,
        product: Callable[[], nn.Module] | None = None,
    ) -> None:
        self.name, self.examples, self.model = name, examples, model
        self.optimizer, self.loss, self.companion = optimizer, loss, companion
        self.order = Order(len(examples), batch_size, seed, "training")
        self.product = product or (lambda: model)
        self.step, self.seconds = 0, 0.0
        self.peak_memory: int | None = None
        self._random = _seeded_random_state(examples.device, stream_seed(seed, "dropout"))

    def advance(self, until: int, keep_going: Callable[[], bool]) -> None:
        """Train until step number `until`, or until `keep_going` says no after some step."""
        memory = br.diagnostics.PeakMemory(self._device_indices())
        with self._own_randomness():
            self.model.train()
            while self.step < until:
                start = time.perf_counter()
                self._one_step()
                self.seconds += time.perf_counter() - start
                if not keep_going():
                    break
        self._remember(memory.level())

    def _remember(self, level: int | None) -> None:
        """The peak of memory; without a companion that of the first stretch.

        In later ones, what trainings beside this one left behind would count.
        """
        if self.companion is not None and self.peak_memory and level:
            self.peak_memory = max(self.peak_memory, level)
        self.peak_memory = self.peak_memory or level

    def _one_step(self) -> None:
        index = self.order.next()
        loss = self.loss(*self.examples.batch(index), index)
        if not math.isfinite(loss.item()):
            raise SolveError(
                Result.nonfinite, f"(training loss of '{self.name}' at step {self.step + 1})"
            )
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()  # room for a hyperparameter step
        self.step += 1
        if self.companion is not None:
            self.companion.after_step(self.step)

    def state(self) -> dict[str, Any]:
        """All that is needed to continue bit for bit."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "peak_memory": self.peak_memory,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "order": self.order.state(),
            "random": self._random,
            "companion": self.companion.state() if self.companion is not None else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.peak_memory = state["peak_memory"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.order.load(state["order"])
        self._random = state["random"]
        if self.companion is not None:
            self.companion.load(state["companion"])

    def _device_indices(self) -> list[int]:
        return [device.index or 0 for device in _cuda(self.examples.device)]

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """The global random state is this run's while it trains, so that runs can take turns."""
        device = self.examples.device
        with torch.random.fork_rng(devices=_cuda(device)):
            _set_random_state(device, self._random)
            yield
            self._random = _random_state(device)


def score(model: nn.Module, examples: Examples) -> Score:
    """Loss and accuracy in eval mode, in batches of bounded size."""
    training = model.training
    model.eval()
    loss, right = 0.0, 0
    with torch.no_grad():
        for index in torch.arange(len(examples)).split(_EVALUATION_BATCH):
            inputs, labels = examples.batch(index)
            logits = model(inputs)
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(1) == labels).sum())
    model.train(training)
    if not math.isfinite(loss):
        raise SolveError(Result.nonfinite, "(loss of the trained model)")
    return Score(loss / len(examples), right / len(examples))


def predictions(model: nn.Module, examples: Examples) -> Tensor:
    """The predicted class of each example, int64 (n,), on the CPU."""
    model.eval()
    with torch.no_grad():
        parts = [
            model(examples.batch(index)[0]).argmax(1).cpu()
            for index in torch.arange(len(examples)).split(_EVALUATION_BATCH)
        ]
    return torch.cat(parts)


def _cuda(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _random_state(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in _cuda(device))]


def _set_random_state(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for own, state in zip(_cuda(device), states[1:], strict=True):
        torch.cuda.set_rng_state(state, own)


def _seeded_random_state(device: torch.device, seed: int) -> list[Tensor]:
    with torch.random.fork_rng(devices=_cuda(device)):
        torch.manual_seed(seed)
        return _random_state(device)
