"""The nested problems whose hypergradients are timed."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bestresponse as br
from benchmarks import models
from bestresponse.apps.experiments.inverse._accuracy_problems import AccuracyProblem
from bestresponse.data import load

Batch = tuple[Tensor, Tensor]
DECAYS, WEIGHTS = "decays", "weights"
HYPERS = {DECAYS: "one decay per weight and bias", WEIGHTS: "one weight per example"}

DATA = Path(__file__).parents[2] / "shared" / "data"
_DECAY = 1e-4
_CLASSES = 10
_load = functools.cache(load)  # decoding takes longer than many a timing


@dataclass(frozen=True)
class Problem:
    """A model and the batches it is trained on.

    Attributes:
        title: the heading of its column.
        build: the model.
        data: the folder of its data set, and the shape that the model wants an example in.
        shape: of one example.
        rows: the size of the batch.
        damping: keeps CG away from negative curvature.
        targets: upper limits from the issue, by method.
    """

    title: str
    build: Callable[[], nn.Module]
    data: str
    shape: tuple[int, ...]
    rows: int
    damping: float
    targets: dict[str, float]


PROBLEMS = {
    "logistic": Problem(
        "logistic 784→10, 2,000 rows",
        models.logistic_regression,
        "mnist",
        (784,),
        2000,
        0.1,
        {"scale": 2.4, "Neumann 20": 20},
    ),
    "mlp": Problem(
        "MLP 784-512-512-10, batch 256",
        models.perceptron,
        "mnist",
        (784,),
        256,
        1.0,
        {"scale": 2.4, "Neumann 20": 29},
    ),
    "conv": Problem(
        "conv net 3×32×32, batch 64",
        models.convolutional,
        "cifar10",
        (3, 32, 32),
        64,
        1.0,
        {"scale": 2.4, "Neumann 20": 43},
    ),
}
ALEXNET = Problem("AlexNet 3×32×32, batch 50", models.alexnet, "cifar10", (3, 32, 32), 50, 1.0, {})


@dataclass(frozen=True)
class Case:
    """A problem with its hyperparameters: live modules and a batch for each level.

    Where only the cost matters both levels see the same tensors, so that a hypergradient and the
    plain gradient that it is counted in find them in the same state of the processor's cache.

    Attributes:
        kind: `DECAYS` or `WEIGHTS`.
        model: the module that holds w.
        hyper: the module that holds λ.
        batch: inputs and labels of the inner loss.
        outer_batch: those of the outer loss.
        damping: for CG.
    """

    kind: str
    model: nn.Module
    hyper: nn.Module
    batch: Batch
    outer_batch: Batch
    damping: float

    def inner(self, x: Tensor, y: Tensor) -> Tensor:
        """The training loss over the live modules, decay included."""
        return self.inner_with(self.hyper, x, y)

    def inner_with(self, hyper: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The training loss with other hyperparameters."""
        if self.kind == DECAYS:
            return F.cross_entropy(self.model(x), y) + hyper(self.model)
        losses = F.cross_entropy(self.model(x), y, reduction="none")
        weights = hyper(torch.arange(len(y)))
        return (weights * losses).mean() + _constant_decay(list(self.model.parameters()))

    def outer(self, x: Tensor, y: Tensor) -> Tensor:
        """The validation loss over the live modules."""
        return F.cross_entropy(self.model(x), y)

    def gauss_newton(self) -> br.GaussNewton:
        """The curvature of the loss of the outputs, with the decay's own; for decays only."""
        return br.GaussNewton(
            lambda x, y: self.model(x),
            lambda outputs, x, y: F.cross_entropy(outputs, y),
            lambda: self.hyper(self.model),
        )

    def nested(self, method: br.Implicit | br.Unroll) -> br.Nested:
        """The live nested problem under a method."""
        return br.Nested(self.model, self.hyper, self.inner, self.outer, method)

    def inner_of(
        self, logits: Tensor, y: Tensor, params: Sequence[Tensor], hyper: Sequence[Tensor]
    ) -> Tensor:
        """The training loss from its parts, for libraries that want functions of tensors."""
        if self.kind == DECAYS:
            pairs = zip(params, hyper, strict=True)
            penalty = 0.5 * torch.stack([(h.exp() * w.square()).sum() for w, h in pairs]).sum()
            return F.cross_entropy(logits, y) + penalty
        losses = F.cross_entropy(logits, y, reduction="none")
        return (torch.sigmoid(hyper[0]) * losses).mean() + _constant_decay(params)

    def hyper_tensors(self) -> list[Tensor]:
        """λ as `inner_of` wants it: for decays in the order of the weights."""
        if self.kind == WEIGHTS:
            return list(self.hyper.parameters())
        decays = dict(self.hyper.get_submodule("log_decay").named_parameters())
        return [decays[name.replace(".", "|")] for name, _ in self.model.named_parameters()]

    def gradients(self) -> list[Tensor]:
        """What `backward()` left on λ, in the same order."""
        return [torch.zeros_like(h) if h.grad is None else h.grad for h in self.hyper_tensors()]

    def plain_gradient(self) -> Callable[[], None]:
        """The unit: one training gradient with respect to the weights only."""
        hyper = copy.deepcopy(self.hyper).requires_grad_(False)

        def gradient() -> None:
            self.model.zero_grad()
            self.inner_with(hyper, *self.batch).backward()

        return gradient


def case_of(problem: AccuracyProblem) -> Case:
    """A problem whose hypergradient is known, as the peers' wrappers take it."""
    return Case(DECAYS, problem.model, problem.decay, problem.inner_batch, problem.outer_batch, 0.0)


def make_case(problem: Problem, kind: str, notice: Callable[[str], None]) -> Case:
    """The problem at seeded initial weights; says so through `notice` if data is missing."""
    torch.manual_seed(0)
    model = problem.build()
    hyper = (
        br.hyper.WeightDecay(model, per="weight", init=_DECAY, biases=True)
        if kind == DECAYS
        else br.hyper.ExampleWeights(problem.rows)
    )
    batch = _examples(problem, notice)
    return Case(kind, model, hyper, batch, batch, problem.damping)


def _examples(problem: Problem, notice: Callable[[str], None]) -> Batch:
    count = problem.rows
    folder = DATA / problem.data
    if folder.is_dir():
        data = _load(folder)
        rows = torch.randperm(len(data))[:count]
        return data.inputs[rows].reshape(-1, *problem.shape) / data.max_value, data.labels[rows]
    notice(f"No {problem.data} here: random data of the same shape (the cost is the same).")
    return torch.rand(count, *problem.shape), torch.randint(_CLASSES, (count,))


def _constant_decay(params: Sequence[Tensor]) -> Tensor:
    return 0.5 * _DECAY * torch.stack([w.square().sum() for w in params]).sum()
