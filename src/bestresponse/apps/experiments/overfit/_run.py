"""One network, fifty examples to fit, fifty to tune by: until both are predicted without error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bestresponse as br
from bestresponse.apps import _models
from bestresponse.apps._examples import Examples, stream_seed
from bestresponse.apps._networks import Shape, alexnet, resnet18, resnet44, wide_mlp
from bestresponse.apps._training import Training, score
from bestresponse.apps.tune._tuning import Schedule, Tuner
from bestresponse.data import Dataset, split

ENOUGH = 0.999
"""The accuracy to reach on training and validation examples."""
LEAST, MOST = 1e-8, 1e3
"""Decays stay in between: one beyond does nothing, or holds its weight at zero all the same."""

_BINS = 44


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        make: the network, from the shape of an input and the number of classes.
        lr: of Adam.
        decay: of every weight, to begin with.
        warmup: training steps before the first hyperparameter step.
    """

    make: Callable[[Shape, int], nn.Module]
    lr: float
    decay: float
    warmup: int


RECIPES: dict[str, Recipe] = {
    "linear": Recipe(_models.linear, 1e-2, 0.03, 20),
    "mlp": Recipe(wide_mlp, 1e-3, 0.03, 20),
    "alexnet": Recipe(alexnet, 5e-4, 1e-3, 60),
    "resnet44": Recipe(resnet44, 1e-3, 1e-3, 20),
    "resnet18": Recipe(resnet18, 1e-3, 1e-3, 10),
}


@dataclass(frozen=True)
class Pace:
    """When and how far hyperparameters move.

    Attributes:
        interval: training steps between two hyperparameter steps.
        lr: of RMSprop on the logarithms of the decays.
        most: training steps after which a run ends wherever it is.
    """

    interval: int
    lr: float
    most: int


@dataclass(frozen=True)
class Roles:
    """The examples of one seed, none of which has two roles."""

    train: Examples
    validation: Examples
    test: Examples
    shape: Shape
    classes: int

    @classmethod
    def of(cls, data: Dataset, images: int, test: int, seed: int) -> Roles:
        """So many images for each of two roles, so many for the test, without replacement."""
        parts = split(data, validation=images, train=images, test=test, seed=seed)
        train, validation, held_out = (
            Examples(part, part.labels, torch.device("cpu"))
            for part in (parts.train, parts.validation, parts.test)
        )
        return cls(train, validation, held_out, data.shape, len(data.class_names))


def plain(recipe: Recipe, roles: Roles, seed: int) -> Training:
    """Training as without this library: one decay for all weights, which stays."""
    model = model_of(recipe, roles, seed)
    decay = br.hyper.WeightDecay(model, per="model", init=recipe.decay, biases=True)
    decay.requires_grad_(False)
    return _training(recipe, roles, seed, model, _inner_loss(model, decay))


def tuned(
    recipe: Recipe, roles: Roles, pace: Pace, seed: int
) -> tuple[Training, br.hyper.WeightDecay]:
    """Training with one decay per weight, tuned on the validation examples beside it.

    The inverse Hessian is taken as the identity, which is the papers' choice here and costs least.
    """
    model = model_of(recipe, roles, seed)
    decay = br.hyper.WeightDecay(model, per="weight", init=recipe.decay, biases=True)
    nested = br.Nested(
        model,
        decay,
        _inner_loss(model, decay),
        lambda x, y: F.cross_entropy(model(x), y),
        br.Implicit(br.Scale()),
        seed=seed,
    )
    optimizer = torch.optim.RMSprop(decay.parameters(), lr=pace.lr)
    optimizer.register_step_post_hook(lambda *_: _keep_in_range(decay))
    tuner = Tuner(
        nested, optimizer, Schedule(recipe.warmup, pace.interval, patience=0),
        roles.train, roles.validation,
        inner_batch=len(roles.train), outer_batch=len(roles.validation), inner_batches=1,
        seed=seed, record=lambda **_: None,
    )  # fmt: skip
    return _training(recipe, roles, seed, model, nested.inner_loss, tuner), decay


def _inner_loss(
    model: nn.Module, decay: br.hyper.WeightDecay
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda x, y, _: F.cross_entropy(model(x), y) + decay(model)


def overfit(
    recipe: Recipe, roles: Roles, pace: Pace, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train and tune until both accuracies are enough.

    Returns:
        Ready for JSON: `hyperparameters`, `steps`, `reached`, the accuracies `train`,
        `validation` and `test` at the end and, as `before`, at the first hyperparameter step;
        `curve`, a list of such points with their `step`; `decays`, see `_decays`.
    """
    training, decay = tuned(recipe, roles, pace, seed)
    training.advance(recipe.warmup, lambda: True)
    point = _point(training, roles)
    curve, next_point = [point], 1
    while not _is_enough(point) and training.step + pace.interval <= pace.most:
        training.advance(training.step + pace.interval, lambda: True)
        point = _point(training, roles, test=False)
        say(f"step {training.step}: train {point['train']:.2f}, "
            f"validation {point['validation']:.2f}")  # fmt: skip
        if (training.step - recipe.warmup) // pace.interval == next_point:
            curve.append(_point(training, roles))
            next_point *= 2
    if curve[-1]["step"] < training.step:
        curve.append(_point(training, roles))
    return {
        "hyperparameters": sum(leaf.numel() for leaf in decay.parameters()),
        "reached": _is_enough(curve[-1]),
        **curve[-1],
        "before": curve[0],
        "curve": curve,
        "decays": _decays(decay),
    }


def model_of(recipe: Recipe, roles: Roles, seed: int) -> nn.Module:
    """Freshly initialised; same seed, same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "weights"))
        model = recipe.make(roles.shape, roles.classes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # every batch is the whole training set: its statistics need no average over steps
            module.momentum = 1.0
    return model


def _training(
    recipe: Recipe,
    roles: Roles,
    seed: int,
    model: nn.Module,
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    tuner: Tuner | None = None,
) -> Training:
    adam = torch.optim.Adam(model.parameters(), lr=recipe.lr, fused=True)
    return Training(
        "tuned" if tuner else "plain", roles.train, model, adam, loss,
        batch_size=len(roles.train), seed=seed, companion=tuner,
    )  # fmt: skip


def _keep_in_range(decay: br.hyper.WeightDecay) -> None:
    with torch.no_grad():
        for leaf in decay.parameters():
            leaf.clamp_(math.log(LEAST), math.log(MOST))


def _point(training: Training, roles: Roles, *, test: bool = True) -> dict[str, Any]:
    """Accuracies in eval mode."""
    roles_shown = {"train": roles.train, "validation": roles.validation}
    if test:
        roles_shown["test"] = roles.test
    accuracies = {
        name: score(training.model, examples).accuracy for name, examples in roles_shown.items()
    }
    return {"step": training.step, **accuracies}


def _is_enough(point: dict[str, Any]) -> bool:
    return min(point["train"], point["validation"]) >= ENOUGH


def _decays(decay: br.hyper.WeightDecay) -> dict[str, Any]:
    """The share of each bin, and the bins' edges as decimal logarithms."""
    low, high = math.log10(LEAST), math.log10(MOST)
    counts = sum(
        torch.histc((leaf.detach() / math.log(10)).clamp(low, high), _BINS, low, high)
        for leaf in decay.parameters()
    )
    assert isinstance(counts, Tensor)
    edges = torch.linspace(low, high, _BINS + 1)
    return {"shares": (counts / counts.sum()).tolist(), "edges": edges.tolist()}
