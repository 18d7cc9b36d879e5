"""Training of a language model by truncated backpropagation, tuned or not."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

import bestresponse as br
from bestresponse.apps.experiments.language._model import (
    LanguageModel,
    Per,
    Regularizers,
    State,
    Strengths,
)
from bestresponse.apps.experiments.language._parts import (
    Parts,
    Window,
    columns,
    perplexity,
    windows,
)

_CLIP = 1.0  # norm of the gradient, at most
_HYPER_BETAS = (0.9, 0.99)  # hypergradients grow by powers of ten as strengths do


@dataclass(frozen=True)
class Recipe:
    """How a model is built and trained, the same for all that are compared.

    Attributes:
        width: units a layer.
        layers: of the LSTM.
        batch: columns of text that are read side by side.
        window: words a step (truncated backpropagation).
        epochs: at the most.
        patience: epochs without a better selection perplexity before training stops.
        lr: of Adam on the weights.
        warmup: epochs before the first hyperparameter step.
        interval: training steps between two hyperparameter steps.
        hyper_batch: columns in a hyperparameter step, others each time; all if there are fewer.
        hyper_lr: of Adam on the hyperparameters.
        rates: one a kind of dropout, or one a unit.
        decay: one a model, tensor or weight.
        temperature: of the relaxed masks.
    """

    width: int
    layers: int
    batch: int
    window: int
    epochs: int
    patience: int
    lr: float
    warmup: int
    interval: int
    hyper_batch: int
    hyper_lr: float
    rates: Literal["one", "unit"]
    decay: Per
    temperature: float


@dataclass
class History:
    """What happened, ready for JSON.

    Attributes:
        epochs: after which the curves have a point.
        seconds: of CPU time until there; what only the curves need is not counted.
        train: perplexity on the first words of the training part.
        selection: perplexity there.
        test: perplexity there, which decides nothing.
        values: of each group of hyperparameters.
        best: the point with the lowest selection perplexity.
        spent: CPU seconds in all.
        calls: hyperparameter steps.
    """

    epochs: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    selection: list[float] = field(default_factory=list)
    test: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    best: int = 0
    spent: float = 0.0
    calls: int = 0


class LanguageTraining:
    """One training run.

    Args:
        parts: of the text.
        recipe: of the training.
        strengths: of the regularizers; initial ones if they are tuned.
        seed: of the initial weights and of the masks.
        tuned: whether hyperparameter steps are taken.
    """

    def __init__(
        self, parts: Parts, recipe: Recipe, strengths: Strengths, seed: int, *, tuned: bool
    ) -> None:
        torch.manual_seed(seed)
        self.parts, self.recipe = parts, recipe
        self.model = LanguageModel(parts.words, recipe.width, recipe.layers)
        self.regularizers = Regularizers(
            self.model, strengths, recipe.rates, recipe.decay, recipe.temperature
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=recipe.lr)
        self.nested = self._nested(seed) if tuned else None
        self.hyper_optimizer = torch.optim.Adam(
            self.regularizers.parameters(), lr=recipe.hyper_lr, betas=_HYPER_BETAS
        )
        self.history = History()
        self.step = 0
        self._batches, self._outer = self._training_batches(), self._outer_batches()

    def _nested(self, seed: int) -> br.Nested:
        """T1–T2: Adam on λ takes the scale out of the hypergradient, so that alpha = 1 will do."""
        model, regularizers = self.model, self.regularizers

        def inner(words: Tensor, targets: Tensor, state: State) -> Tensor:
            return regularizers.loss(model, words, targets, state)

        def outer(words: Tensor, targets: Tensor, state: State) -> Tensor:
            return model.loss(words, targets, state)

        method = br.Implicit(br.Scale(1.0))
        return br.Nested(model, regularizers, inner, outer, method, seed=seed)

    def _training_batches(self) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Windows for ever, and whether one begins the text anew."""
        table = columns(self.parts.train, self.recipe.batch)
        while True:
            for i, window in enumerate(windows(table, self.recipe.window)):
                yield (*window, i == 0)

    def _outer_batches(self) -> Iterator[Window]:
        table = columns(self.parts.tuning, min(self._hyper_batch, len(self.parts.tuning) // 2))
        while True:
            yield from windows(table, self.recipe.window)

    @property
    def _hyper_batch(self) -> int:
        return min(self.recipe.hyper_batch, self.recipe.batch)

    @property
    def steps_an_epoch(self) -> int:
        """Windows of the training part."""
        return -(-(len(self.parts.train) // self.recipe.batch - 1) // self.recipe.window)

    def run(self, say: Callable[[str], None], limit: float = math.inf) -> History:
        """Train to the end, or until `limit` CPU seconds are spent; leaves the best weights."""
        history, best = self.history, copy.deepcopy(self.model.state_dict())
        for epoch in range(1, self.recipe.epochs + 1):
            self.advance(self.steps_an_epoch, limit)
            self.record()
            if history.selection[-1] <= min(history.selection):
                history.best, best = epoch - 1, copy.deepcopy(self.model.state_dict())
            say(f"epoch {epoch}, selection perplexity {history.selection[-1]:.1f}")
            if history.spent >= limit or epoch - 1 - history.best >= self.recipe.patience:
                break
        self.model.load_state_dict(best)
        return history

    def advance(self, steps: int, limit: float = math.inf) -> None:
        """So many training steps, fewer if the time is up."""
        start, before = time.process_time(), self.history.spent
        for _ in range(steps):
            self._one_step()
            self.history.spent = before + time.process_time() - start
            if self.history.spent >= limit:
                break

    def _one_step(self) -> None:
        words, targets, first = next(self._batches)
        if first:
            self._state = self.model.state(words.shape[1])
        late = self.step - self.recipe.warmup * self.steps_an_epoch
        if self.nested is not None and late >= 0 and late % self.recipe.interval == 0:
            self._tune(self.nested, words, targets)
        self.regularizers.requires_grad_(False)  # λ is a constant of the training step
        loss, self._state = self.regularizers.parts(self.model, words, targets, self._state)
        self.regularizers.requires_grad_(True)
        if not math.isfinite(loss.item()):
            raise br.SolveError(br.Result.nonfinite, f"(training loss at step {self.step + 1})")
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        self.optimizer.step()
        self.step += 1

    def _tune(self, nested: br.Nested, words: Tensor, targets: Tensor) -> None:
        inner = _some_columns(words, targets, self._state, self.history.calls, self._hyper_batch)
        held, next_held = next(self._outer)
        outer_state = self.model.state(held.shape[1])
        loss, _ = nested(inner, (held, next_held, outer_state))
        self.hyper_optimizer.zero_grad()
        loss.backward()
        self.hyper_optimizer.step()
        self.history.calls += 1

    def record(self) -> None:
        """One point on the curves; only the selection perplexity is part of the training."""
        history, parts = self.history, self.parts
        start = time.process_time()
        history.selection.append(perplexity(self.model, parts.selection))
        history.spent += time.process_time() - start
        history.epochs.append(self.step / self.steps_an_epoch)
        history.seconds.append(history.spent)
        history.train.append(perplexity(self.model, parts.train[: len(parts.test)]))
        history.test.append(perplexity(self.model, parts.test))
        for name, value in self.regularizers.values().items():
            history.values.setdefault(name, []).append(value)


def _some_columns(
    words: Tensor, targets: Tensor, state: State, call: int, count: int
) -> tuple[Tensor, Tensor, State]:
    """So many columns of a window, beginning where the call before ended."""
    total = words.shape[1]
    chosen = torch.arange(call * count, (call + 1) * count) % total
    picked = [(h[:, chosen], c[:, chosen]) for h, c in state]
    return words[:, chosen], targets[:, chosen], picked
