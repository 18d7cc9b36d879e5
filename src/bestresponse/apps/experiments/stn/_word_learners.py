"""Language models whose regularization is fixed, follows a timetable, or tunes itself."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import bestresponse as br
from bestresponse.apps._examples import stream_seed
from bestresponse.apps.experiments.stn._course import ByEpoch, Learner
from bestresponse.apps.experiments.stn._word_model import (
    PENALTIES,
    Reader,
    Reading,
    WordModel,
    dropout,
    mean_word_loss,
    penalty,
    word_loss,
)
from bestresponse.data import Text

_CLIP = 1.0  # norm of the gradient, at most
_SHARED = ("embedding", "weight", *PENALTIES)  # one value for the whole batch


class Timetable:
    """Values by step, from a function of it.

    Args:
        value: of a step.
    """

    def __init__(self, value: Callable[[int], Mapping[str, float]]) -> None:
        self._value = value

    def at(self, step: int) -> dict[str, Tensor]:
        """The values by name."""
        return {name: torch.tensor(float(value)) for name, value in self._value(step).items()}


@dataclass(frozen=True)
class WordRecipe:
    """How a language model is built and trained, the same for all that are compared.

    Attributes:
        width: units a layer.
        layers: of the LSTM.
        batch: columns of text that are read side by side.
        window: words a step.
        lr: of Adam on the weights.
        hyper_batch: columns in a validation step.
        hyper_lr: of Adam on hyperparameters and scales.
        entropy: weight of the perturbations' entropy.
        sigma: initial deviation of the perturbations.
        response_lr: of Adam on the response.
    """

    width: int
    layers: int
    batch: int
    window: int
    lr: float
    hyper_batch: int
    hyper_lr: float
    entropy: float
    sigma: float
    response_lr: float


class WordLearner(Learner):
    """What all kinds share: same seed, same initial weights.

    Args:
        text: in three parts.
        recipe: of the training.
        seed: of weights, masks and perturbations.
    """

    def __init__(self, text: Text, recipe: WordRecipe, seed: int) -> None:
        torch.manual_seed(stream_seed(seed, "weights"))
        self.text, self.recipe = text, recipe
        self._plain = WordModel(len(text.vocabulary), recipe.width, recipe.layers)
        self._reader = Reader(text.train, recipe.batch, recipe.window, self._plain)
        self.model = self._prepared()
        self._optimizer = torch.optim.Adam(self._groups())
        torch.manual_seed(stream_seed(seed, "dropout"))

    @property
    def steps_an_epoch(self) -> int:
        """Windows of the training part."""
        return self._reader.windows

    def step(self) -> None:
        """One window."""
        words, targets, state = self._reader.next()
        self._optimizer.zero_grad()
        reading, loss = self._loss(words, targets, state)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        self._optimizer.step()
        self._reader.keep(reading.state)

    def frozen(self) -> nn.Module:
        """A copy."""
        return copy.deepcopy(self.model)

    def loss(self, model: nn.Module, part: str) -> float:
        """Mean cross-entropy a word."""
        words = self.text.test if part == "test" else self.text.validation
        return mean_word_loss(model, words, self._plain)

    def _groups(self) -> list[dict[str, object]]:
        """What Adam steps, and how fast."""
        return [{"params": list(self.model.parameters()), "lr": self.recipe.lr}]

    @abstractmethod
    def _prepared(self) -> nn.Module:
        """The network that is trained."""

    @abstractmethod
    def _loss(self, words: Tensor, targets: Tensor, state: object) -> tuple[Reading, Tensor]:
        """A window's reading and training loss."""


class FixedWords(WordLearner):
    """Ordinary training at one output dropout."""

    def __init__(self, text: Text, recipe: WordRecipe, seed: int, rate: float) -> None:
        self._rate = rate
        super().__init__(text, recipe, seed)

    def _prepared(self) -> nn.Module:
        self._plain.output.p = self._rate
        return self._plain

    def _loss(self, words: Tensor, targets: Tensor, state: object) -> tuple[Reading, Tensor]:
        reading = self.model(words, state)
        return reading, word_loss(reading, targets)


class ReplayedWords(WordLearner):
    """Ordinary training by a timetable, of any of the hyperparameters."""

    _steps = 0

    def __init__(
        self, text: Text, recipe: WordRecipe, seed: int, timetable: ByEpoch | Timetable
    ) -> None:
        self._timetable = timetable
        super().__init__(text, recipe, seed)

    def _prepared(self) -> nn.Module:
        names = tuple(self._timetable.at(0))
        rates = dropout(names, self.recipe.layers)
        self._replay = br.response.Replay(self._plain, self._timetable, rates, batch_dim=1)
        return self._replay

    def _loss(self, words: Tensor, targets: Tensor, state: object) -> tuple[Reading, Tensor]:
        self._replay.set(self._steps)
        self._steps += 1
        reading = self.model(words, state)
        return reading, word_loss(reading, targets) + penalty(reading, self._replay.values)


class TunedWords(WordLearner):
    """STN, with a draw for each column of text and one loss under perturbation.

    Args:
        text: in three parts.
        recipe: of the training.
        seed: of weights, masks and perturbations.
        hyper: the hyperparameters at their start, any of `RATES` and `PENALTIES`.
        centred: feed the gates the perturbation alone.
    """

    net: br.response.SelfTuning

    def __init__(
        self,
        text: Text,
        recipe: WordRecipe,
        seed: int,
        hyper: br.hyper.Bounded,
        *,
        centred: bool = False,
    ) -> None:
        self._hyper, self._centred = hyper, centred
        super().__init__(text, recipe, seed)
        tuned = [*hyper.parameters(), *self.net.scales.parameters()]
        self._hypers = torch.optim.Adam(tuned, lr=recipe.hyper_lr)
        held_out = min(recipe.hyper_batch, len(text.validation) // 2)
        self._held_out = Reader(text.validation, held_out, recipe.window, self._plain)

    def _prepared(self) -> nn.Module:
        names = tuple(self._hyper.values())
        shared: Sequence[str] = [name for name in names if name in _SHARED]
        rates = dropout(names, self.recipe.layers)
        self.net = br.response.SelfTuning(
            self._plain, self._hyper, rates, sigma=self.recipe.sigma, shared=shared, batch_dim=1,
            centred=self._centred,
        )  # fmt: skip
        return self.net

    def _loss(self, words: Tensor, targets: Tensor, state: object) -> tuple[Reading, Tensor]:
        with self.net.perturbed(words.shape[1]) as drawn:
            reading = self.net(words, state)
            return reading, word_loss(reading, targets) + penalty(reading, drawn)

    def _groups(self) -> list[dict[str, object]]:
        return [
            {"params": self.net.elementary(), "lr": self.recipe.lr},
            {"params": self.net.responses(), "lr": self.recipe.response_lr},
        ]

    def frozen(self) -> nn.Module:
        """A plain model at the hyperparameters as they are."""
        return self.net.freeze()

    def tune(self) -> None:
        """Follow the response on a window of the validation part, without any penalty."""
        words, targets, state = self._held_out.next()
        self._hypers.zero_grad()
        with self.net.tuning(words.shape[1]):
            reading = self.net(words, state)
            loss = word_loss(reading, targets) - self.recipe.entropy * self.net.entropy()
        loss.backward()
        self._hypers.step()
        self._held_out.keep(reading.state)
