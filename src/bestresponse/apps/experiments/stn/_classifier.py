"""Classifiers whose dropout and augmentation are fixed, follow a schedule, or tune themselves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bestresponse as br
from bestresponse.apps._examples import Order, stream_seed
from bestresponse.apps._networks import Shape
from bestresponse.apps.experiments._roles import Batch
from bestresponse.apps.experiments.stn._course import ByEpoch, Learner
from bestresponse.data import load, split

_EVALUATED = 1000  # examples at a time

Values = Mapping[str, Tensor]
Augment = Callable[[Tensor, Values], Tensor]


@dataclass(frozen=True)
class Roles:
    """Examples, none of which has two roles; pixels from 0 to 1.

    Attributes:
        name: of the data.
        train: inputs (n, …) and labels (n,) that weights are fitted to.
        validation: what hyperparameters are tuned on, and epochs and fixed values chosen.
        test: what decides nothing.
        shape: of an input.
        classes: how many.
    """

    name: str
    train: Batch
    validation: Batch
    test: Batch
    shape: Shape
    classes: int

    @classmethod
    def of(cls, source: str, train: int, validation: int, seed: int) -> Roles:
        """So many examples of each role, drawn; the test is the data's own, or a fifth."""
        data = load(source)
        parts = split(data, validation=validation, train=train, seed=seed)
        examples = [part.batch() for part in (parts.train, parts.validation, parts.test)]
        return cls(
            data.name, examples[0], examples[1], examples[2], data.shape, len(data.class_names)
        )


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    Attributes:
        batch: examples a training step.
        lr: of Adam on the weights.
        hyper_batch: examples a validation step.
        hyper_lr: of Adam on hyperparameters and scales.
        entropy: weight of the perturbations' entropy.
        sigma: initial deviation of the perturbations.
        response_lr: of Adam on the response.
        response_interval: training steps of the weights to one of its response.
    """

    batch: int
    lr: float
    hyper_batch: int
    hyper_lr: float
    entropy: float
    sigma: float
    response_lr: float
    response_interval: int


@dataclass(frozen=True)
class Problem:
    """What is trained, and what may change in it.

    Attributes:
        roles: the examples.
        make: the model.
        dropout: names of hyperparameters by names of Dropout layers.
        augment: changes training inputs at given values, (n,) or (1,) each.
    """

    roles: Roles
    make: Callable[[], nn.Module]
    dropout: Mapping[str, str]
    augment: Augment = lambda x, values: x


class Classifier(Learner):
    """What all kinds share: same seed, same initial weights and order of the batches."""

    model: nn.Module

    def __init__(self, problem: Problem, recipe: Recipe, seed: int) -> None:
        torch.manual_seed(stream_seed(seed, "weights"))
        self.problem, self.recipe = problem, recipe
        self._plain = problem.make()
        count = len(problem.roles.train[1])
        self._order = Order(count, recipe.batch, seed, "training")
        torch.manual_seed(stream_seed(seed, "dropout"))

    @property
    def steps_an_epoch(self) -> int:
        """The last, smaller batch is left out."""
        return self._order.count // self._order.batch_size

    def frozen(self) -> nn.Module:
        """A copy."""
        return copy.deepcopy(self.model)

    def loss(self, model: nn.Module, part: str) -> float:
        """Mean cross-entropy."""
        roles = self.problem.roles
        return mean_loss(model, *(roles.test if part == "test" else roles.validation))

    def batch(self) -> Batch:
        """The next one of the training examples."""
        x, y = self.problem.roles.train
        index = self._order.next()
        return x[index], y[index]


class Fixed(Classifier):
    """Ordinary training at fixed values.

    Args:
        problem: what is trained.
        recipe: how.
        seed: of weights, batches and masks.
        values: of the hyperparameters.
    """

    def __init__(
        self, problem: Problem, recipe: Recipe, seed: int, values: Mapping[str, float]
    ) -> None:
        super().__init__(problem, recipe, seed)
        self.model = self._plain
        for layer, rate in problem.dropout.items():
            drop = self.model.get_submodule(layer)
            assert isinstance(drop, nn.Dropout | nn.Dropout2d)
            drop.p = values[rate]
        self._values = {name: torch.tensor([value]) for name, value in values.items()}
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=recipe.lr)

    def step(self) -> None:
        """Ordinary."""
        x, y = self.batch()
        self._optimizer.zero_grad()
        F.cross_entropy(self.model(self.problem.augment(x, self._values)), y).backward()
        self._optimizer.step()


class Replayed(Classifier):
    """Ordinary training by the schedule of a tuned run.

    Args:
        problem: what is trained.
        recipe: how.
        seed: of weights, batches and masks.
        values: of each hyperparameter, before the first epoch and after each.
    """

    def __init__(
        self, problem: Problem, recipe: Recipe, seed: int, values: Mapping[str, list[float]]
    ) -> None:
        super().__init__(problem, recipe, seed)
        schedule = ByEpoch(values, self.steps_an_epoch)
        self.model = self._replay = br.response.Replay(self._plain, schedule, problem.dropout)
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=recipe.lr)
        self._steps = 0

    def step(self) -> None:
        """At the values that the epoch began with."""
        self._replay.set(self._steps)
        x, y = self.batch()
        self._optimizer.zero_grad()
        F.cross_entropy(self.model(self.problem.augment(x, self._replay.values)), y).backward()
        self._optimizer.step()
        self._steps += 1


class Tuned(Classifier):
    """STN: one loss under perturbation.

    Args:
        problem: what is trained.
        recipe: how.
        seed: of weights, batches, masks and perturbations.
        hyper: the hyperparameters at their start.
    """

    net: br.response.SelfTuning
    centred = False

    def __init__(
        self, problem: Problem, recipe: Recipe, seed: int, hyper: br.hyper.Bounded
    ) -> None:
        super().__init__(problem, recipe, seed)
        self.net = self.model = br.response.SelfTuning(
            self._plain, hyper, problem.dropout, centred=self.centred, sigma=recipe.sigma
        )
        self._optimizer = torch.optim.Adam(self._groups())
        tuned = [*hyper.parameters(), *self.net.scales.parameters()]
        self._hypers = torch.optim.Adam(tuned, lr=recipe.hyper_lr)
        held_out = len(problem.roles.validation[1])
        self._held_out = Order(held_out, recipe.hyper_batch, seed, "validation")

    def step(self) -> None:
        """The loss under perturbation, in all weights."""
        x, y = self.batch()
        self._optimizer.zero_grad()
        with self.net.perturbed(len(x)) as drawn:
            F.cross_entropy(self.net(self.problem.augment(x, drawn)), y).backward()
        self._optimizer.step()

    def tune(self) -> None:
        """Follow the response, in hyperparameters and scales."""
        x, y = self.problem.roles.validation
        index = self._held_out.next()
        self._hypers.zero_grad()
        self.net.validation_loss(
            F.cross_entropy, x[index], y[index], entropy=self.recipe.entropy
        ).backward()
        self._hypers.step()

    def frozen(self) -> nn.Module:
        """A plain model at the hyperparameters as they are."""
        return self.net.freeze()

    def _groups(self) -> list[dict[str, object]]:
        return [
            {"params": self.net.elementary(), "lr": self.recipe.lr},
            {"params": self.net.responses(), "lr": self.recipe.response_lr},
        ]


class DeltaTuned(Tuned):
    """Δ-STN: the weights' own loss each step, the response's each few steps."""

    centred = True
    _steps = 0

    def step(self) -> None:
        """Weights at the hyperparameters as they are; then perhaps the response around them."""
        x, y = self.batch()
        self._optimizer.zero_grad()
        F.cross_entropy(self.net(self.problem.augment(x, self.net.values)), y).backward()
        self._steps += 1
        if self._steps % self.recipe.response_interval == 0:
            with self.net.perturbed(len(x)) as drawn:
                outputs = self.net.linearized(self.problem.augment(x, drawn))
                F.cross_entropy(outputs, y).backward()
        self._optimizer.step()


def mean_loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Mean cross-entropy in eval mode."""
    training, total = model.training, 0.0
    model.eval()
    with torch.no_grad():
        for inputs, labels in zip(x.split(_EVALUATED), y.split(_EVALUATED), strict=True):
            total += float(F.cross_entropy(model(inputs), labels, reduction="sum"))
    model.train(training)
    return total / len(y)
