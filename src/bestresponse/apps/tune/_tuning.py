"""Hyperparameter steps beside a training run."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import bestresponse as br
from bestresponse.apps._examples import Examples, Order
from bestresponse.apps._run import RunFolder

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Schedule:
    """When hyperparameter steps are taken.

    Attributes:
        warmup: training steps before the first.
        interval: training steps between two.
        patience: stop tuning after so many without a better validation loss; 0 for never.
    """

    warmup: int
    interval: int
    patience: int

    def is_due(self, step: int) -> bool:
        """Whether a hyperparameter step follows training step `step`."""
        return step > self.warmup and (step - self.warmup) % self.interval == 0


@dataclass
class Tally:
    """What the hypergradients of a run have cost and how they ended."""

    calls: int = 0
    products: int = 0
    worst_residual: float | None = None
    warnings: dict[str, int] = field(default_factory=dict)
    best_loss: float = math.inf
    calls_since_best: int = 0
    stopped_at: int | None = None

    def add(self, report: br.Report) -> None:
        """Count one hypergradient."""
        self.calls += 1
        self.products += report.products
        if report.relative_residual is not None:
            self.worst_residual = max(self.worst_residual or 0.0, report.relative_residual)
        for warning in report.warnings:
            self.warnings[warning.name] = self.warnings.get(warning.name, 0) + 1
        better = report.outer_loss < self.best_loss
        self.best_loss = min(self.best_loss, report.outer_loss)
        self.calls_since_best = 0 if better else self.calls_since_best + 1


class HyperSteps(ABC):
    """Hyperparameter steps beside a training run; a companion of `Training`."""

    @abstractmethod
    def after_step(self, step: int) -> None:
        """Take hyperparameter steps if they are due after training step `step`."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that is needed to continue bit for bit; the hyperparameters are saved by the run."""

    @abstractmethod
    def load(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""

    @abstractmethod
    def note(self) -> str:
        """How it goes, in a few words; nothing before the first step."""

    @abstractmethod
    def figures(self) -> dict[str, float]:
        """For the headline."""

    @abstractmethod
    def ending(self) -> dict[str, Any]:
        """How it ended, ready for JSON."""

    def observed(self, step: int, scores: Mapping[str, float]) -> None:  # noqa: B027
        """Called after an evaluation of the run at training step `step`."""

    def write(self, folder: RunFolder) -> None:  # noqa: B027
        """Files of its own, in the end."""


class Tuner(HyperSteps):
    """Takes a hyperparameter step by the hypergradient whenever one is due.

    Args:
        nested: the nested problem; the inner closure takes (inputs, labels, index).
        optimizer: steps the hyperparameters.
        schedule: when.
        train: inner examples, drawn `inner_batch` at a time (times `inner_batches`).
        validation: outer examples, drawn `outer_batch` at a time.
        inner_batches: batches a call, one for each unrolled step; 1 for implicit methods.
        seed: of the order of the batches.
        record: called with the figures of each hyperparameter step.
    """

    def __init__(
        self,
        nested: br.Nested,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        train: Examples,
        validation: Examples,
        *,
        inner_batch: int,
        outer_batch: int,
        inner_batches: int,
        seed: int,
        record: Callable[..., None],
    ) -> None:
        self.nested, self.optimizer, self.schedule = nested, optimizer, schedule
        self.train, self.validation = train, validation
        self.inner_order = Order(len(train), inner_batch, seed, "inner")
        self.outer_order = Order(len(validation), outer_batch, seed, "outer")
        self.inner_batches, self.record = inner_batches, record
        self.tally = Tally()
        self.last: br.Report | None = None

    def after_step(self, step: int) -> None:
        if self.tally.stopped_at is None and self.schedule.is_due(step):
            self._tune(step)

    def _tune(self, step: int) -> None:
        inner = [self._inner_batch() for _ in range(self.inner_batches)]
        loss, report = self.nested(
            br.Batches(inner) if self.inner_batches > 1 else inner[0],
            self.validation.batch(self.outer_order.next()),
        )
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()  # the next call has the room
        self.tally.add(report)
        self.last = report
        self._record(step, report)
        if 0 < self.schedule.patience <= self.tally.calls_since_best:
            self.tally.stopped_at = step

    def _inner_batch(self) -> tuple[Tensor, Tensor, Tensor]:
        index = self.inner_order.next()
        return (*self.train.batch(index), index)

    def _record(self, step: int, report: br.Report) -> None:
        self.record(
            kind="hyper",
            step=step,
            outer_loss=report.outer_loss,
            direct_norm=report.direct_norm,
            indirect_norm=report.indirect_norm,
            inner_gradient_norm=report.inner_gradient_norm,
            outer_gradient_norm=report.outer_gradient_norm,
            products=report.products,
            relative_residual=report.relative_residual,
            result=report.result.name,
        )

    def note(self) -> str:
        if self.last is None:
            return ""
        return f"validation loss {self.last.outer_loss:.4f}, hypergradient {self.last.norm:.2g}"

    def figures(self) -> dict[str, float]:
        found: dict[str, float] = {
            "hypergradient_calls": self.tally.calls,
            "products": self.tally.products,
        }
        if self.tally.worst_residual is not None:
            found["worst_relative_residual"] = self.tally.worst_residual
        return found

    def ending(self) -> dict[str, Any]:
        return {"warnings": self.tally.warnings, "stopped_at": self.tally.stopped_at}

    def state(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "nested": self.nested.state_dict(),
            "inner_order": self.inner_order.state(),
            "outer_order": self.outer_order.state(),
            "tally": dict(vars(self.tally)),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.nested.load_state_dict(state["nested"])
        self.inner_order.load(state["inner_order"])
        self.outer_order.load(state["outer_order"])
        self.tally = Tally(**state["tally"])


def quantiles(values: Tensor) -> list[float]:
    """Five quantiles of a flat tensor of any length."""
    flat = values.reshape(-1).double().sort().values
    positions = [round(q * (len(flat) - 1)) for q in QUANTILES]
    return [float(flat[position]) for position in positions]
