"""Training from scratch at fixed hyperparameters: cross-validation, and what a point is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from time import process_time
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from bestresponse.apps.experiments.hypernet._data import Roles, Rows, in_turns
from bestresponse.apps.experiments.hypernet._problem import Elementary

Weights = dict[str, Tensor]
_CHUNK = 16  # points at once
Made = TypeVar("Made")


@dataclass(frozen=True)
class Retraining:
    """Adam from the initial weights.

    Attributes:
        lr: its learning rate.
        steps: how many.
        batch: training images in a step, in turns.
    """

    lr: float = 1e-3
    steps: int = 2000
    batch: int = 1000

    def weights(self, problem: Elementary, points: Tensor, train: Rows) -> Weights:
        """Best responses to λ at the points (S, h), by name, each (S, …).

        The points are trained side by side; Adam moves each number by itself, so that every one
        gets what it would get alone.
        """
        chunks = [self._train(problem, chunk, train) for chunk in points.split(_CHUNK)]
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def plainly(self, problem: Elementary, train: Rows) -> None:
        """Train the problem's own weights at its own λ, as without this library."""
        adam = torch.optim.Adam(problem.model.parameters(), lr=self.lr)
        for batch in islice(in_turns(train, self.batch), self.steps):
            adam.zero_grad()
            problem(*batch).backward()
            adam.step()

    def _train(self, problem: Elementary, points: Tensor, train: Rows) -> Weights:
        weights = {
            name: weight.detach().expand(len(points), *weight.shape).clone().requires_grad_()
            for name, weight in problem.model.named_parameters()
        }
        hyper = _split(problem, points)
        adam = torch.optim.Adam(weights.values(), lr=self.lr)
        for batch in islice(in_turns(train, self.batch), self.steps):
            adam.zero_grad()
            loss = partial(_inner, problem, batch)
            vmap(loss)(weights, hyper).sum().backward()
            adam.step()
        return {name: weight.detach() for name, weight in weights.items()}


@torch.no_grad()
def losses(problem: Elementary, weights: Weights, held: Rows) -> Tensor:
    """Of the predictions of weights (S, …), on held-out rows, (S,)."""

    def one(own: Weights) -> Tensor:
        return functional_call(problem, _named(own, {}), held, {"penalized": False})

    found: Tensor = vmap(one, chunk_size=_CHUNK)(weights)
    return found


def timed(work: Callable[[], Made]) -> tuple[Made, float]:
    """What it makes, and the CPU time of the process in seconds."""
    start = process_time()
    made = work()
    return made, process_time() - start


def cross_validated(
    problem: Elementary, grid: Tensor, retraining: Retraining, roles: Roles
) -> dict[str, Any]:
    """Every λ of the grid (S,), the same for all decays, trained from scratch.

    Returns:
        Ready for JSON: `validation` and `test` losses of each, `best`, the λ with the lowest
        validation loss, its losses `best_validation` and `best_test`, and the CPU `seconds` of
        one such training, alone.
    """
    train, held, unseen = roles
    points = grid[:, None].expand(-1, problem.hyperparameters)
    weights = retraining.weights(problem, points, train)
    validation, test = (losses(problem, weights, part) for part in (held, unseen))
    best = int(validation.argmin())
    problem.move(points[best])
    _, seconds = timed(lambda: retraining.plainly(problem, train))
    return {
        "validation": validation.tolist(),
        "test": test.tolist(),
        "best": float(grid[best]),
        "best_validation": float(validation[best]),
        "best_test": float(test[best]),
        "seconds": seconds,
    }


def _split(problem: Elementary, points: Tensor) -> Weights:
    """λ at the points (S, h) by name, each (S, …)."""
    leaves = dict(problem.decays.named_parameters())
    parts = points.split([leaf.numel() for leaf in leaves.values()], dim=1)
    return {
        name: part.reshape(len(points), *leaf.shape)
        for (name, leaf), part in zip(leaves.items(), parts, strict=True)
    }


def _inner(problem: Elementary, batch: Rows, weights: Weights, hyper: Weights) -> Tensor:
    loss: Tensor = functional_call(problem, _named(weights, hyper), batch)
    return loss


def _named(weights: Weights, hyper: Weights) -> Weights:
    """Both by the names they have in the problem."""
    return {f"model.{name}": weight for name, weight in weights.items()} | {
        f"decays.{name}": leaf for name, leaf in hyper.items()
    }
