"""Each method drives its own outer steps from the same start: validation loss over time."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import bestresponse as br
from bestresponse.apps import _figures as colors
from bestresponse.apps.experiments._roles import Batch
from bestresponse.apps.experiments.inverse._accuracy_problems import AccuracyProblem
from bestresponse.apps.experiments.inverse._contenders import (
    IDENTITY,
    NEUMANN,
    PLAIN_CG,
    RECOMMENDED,
)
from bestresponse.apps.experiments.inverse._explicit import Network, newton

_INNER_STEPS = 10  # training steps between two hyperparameter steps
_LR, _HYPER_LR = 2e-3, 0.05  # of Adam
_GRID = (-4.0, 0.0, 9)  # decimal logarithms of one decay for all weights, and how many
_ENOUGH = 1e-5  # inner gradient of a fit in the grid


@dataclass(frozen=True)
class Racer:
    """A method, and how it is drawn."""

    key: str
    label: str
    color: str
    method: Callable[[br.GaussNewton, torch.optim.Optimizer], Any]


RACERS = (
    Racer("recommended", f"{RECOMMENDED.label}, 2 products", RECOMMENDED.color,
          lambda curvature, adam: RECOMMENDED.method(2, curvature, warm=True)),
    Racer("cg", f"{PLAIN_CG.label}, 10 products", PLAIN_CG.color,
          lambda curvature, adam: PLAIN_CG.method(10, curvature)),
    Racer("neumann", f"{NEUMANN.label}, 10 products", NEUMANN.color,
          lambda curvature, adam: NEUMANN.method(10, curvature)),
    Racer("unroll", "10 unrolled steps", colors.GREEN,
          lambda curvature, adam: br.Unroll(br.optim.from_torch(adam), steps=10)),
    Racer("identity", IDENTITY.label, IDENTITY.color,
          lambda curvature, adam: IDENTITY.method(0, curvature)),
)  # fmt: skip


@dataclass(frozen=True)
class Lap:
    """How one method went.

    Attributes:
        key: whose.
        label: for people.
        color: of its line.
        seconds: of process CPU time, after each step.
        losses: on the validation examples, at the weights as they were.
        validation_loss: at the end, with the weights fitted to the end.
        test_loss: there.
        test_accuracy: there.
    """

    key: str
    label: str
    color: str
    seconds: list[float]
    losses: list[float]
    validation_loss: float
    test_loss: float
    test_accuracy: float


def race(
    racer: Racer, problem: AccuracyProblem, test: Batch, steps: int, say: Callable[[str], None]
) -> Lap:
    """Training steps and hyperparameter steps in turns, from the problem's point.

    A step that ends in an error ends the race; what was reached counts.
    """
    own = copy.deepcopy(problem)
    own.move_to(own.point)
    adam = torch.optim.Adam(own.model.parameters(), lr=_LR)
    outer = torch.optim.Adam(own.decay.parameters(), lr=_HYPER_LR)
    nested = br.Nested(
        own.model, own.decay, own.inner, own.outer, racer.method(own.gauss_newton(), adam)
    )
    seconds, losses, spent = list[float](), list[float](), 0.0
    for step in range(steps):
        start = time.process_time()
        for _ in range(_INNER_STEPS):
            adam.zero_grad()
            nested.inner_loss(*own.inner_batch).backward()
            adam.step()
        try:
            loss, _ = nested(own.inner_batch, own.outer_batch)
        except br.SolveError:
            break
        outer.zero_grad()
        loss.backward()
        outer.step()
        spent += time.process_time() - start
        seconds.append(spent)
        with torch.no_grad():  # `loss` of an unroll is that of weights that are not there yet
            losses.append(float(own.outer(*own.outer_batch)))
        say(f"{racer.label}: step {step + 1}, validation loss {losses[-1]:.4f}")
    leaves = torch.cat([leaf.detach().reshape(-1).double() for leaf in own.decay.parameters()])
    scores = _final(own, own.in_model_order(leaves), test, 1e-8)
    return Lap(racer.key, racer.label, racer.color, seconds, losses, *scores)


def grid(problem: AccuracyProblem, test: Batch, say: Callable[[str], None]) -> Lap:
    """One decay for all weights, the best of a grid, each fitted by Newton's method."""
    seconds, losses, start = list[float](), list[float](), time.process_time()
    best: tuple[float, float, float] = (float("inf"), float("inf"), 0.0)
    for exponent in torch.linspace(*_GRID).tolist():
        log_decays = torch.full_like(problem.point.log_decays, 10**exponent).log()
        scores = _final(problem, log_decays, test, _ENOUGH)
        best = min(best, scores)
        seconds.append(time.process_time() - start)
        losses.append(best[0])
        say(f"one decay of {10**exponent:.1e}: validation loss {scores[0]:.4f}")
    return Lap("grid", "one decay, by grid", "#000000", seconds, losses, *best)


def _final(
    problem: AccuracyProblem, log_decays: Tensor, test: Batch, tolerance: float
) -> tuple[float, float, float]:
    """Validation loss, test loss and test accuracy with weights fitted to these decays."""
    weights = torch.zeros_like(problem.point.weights)
    weights = newton(problem.objective(log_decays), weights, tolerance)
    validation = Network(problem.sizes, weights, problem.outer_batch[0].double(),
                         problem.outer_batch[1])  # fmt: skip
    tested = Network(problem.sizes, weights, test[0].double(), test[1])
    right = (tested.outputs.argmax(1) == test[1]).double().mean()
    return float(validation.loss()), float(tested.loss()), float(right)
