"""Contenders in turns on the same data; what their weights are worth is found out afterwards."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

import bestresponse as br
from bestresponse.apps.experiments.cleaning._contenders import CONTENDERS
from bestresponse.apps.experiments.cleaning._problem import Cleaning, predicted

_APART = 1.2  # times, between two weights that are kept
_RESOLVED = 1e-5  # inner gradient of what is judged
_WARM_STEPS = 3

Figures = dict[str, Any]


@dataclass
class _Runner:
    """A contender under way."""

    iterator: Iterator[Tensor]
    seconds: float
    kept: list[tuple[float, Tensor]]
    last: Tensor
    steps: int = 0
    done: bool = False

    def advance(self, limit: float) -> None:
        """One outer step, on the clock; the rest is not."""
        start = time.process_time()
        weights = next(self.iterator, None)
        self.seconds += time.process_time() - start
        if weights is not None:
            self.steps, self.last = self.steps + 1, weights
            if not self.kept or self.seconds >= _APART * self.kept[-1][0]:
                self.kept.append((self.seconds, weights.clone()))
        self.done = weights is None or self.seconds >= limit


def race(problem: Cleaning, seed: int, limit: float, say: Callable[[str], None]) -> Figures:
    """For each contender its seconds, outer losses there, and what it ends with.

    The one that has used least time takes the next step. Time is CPU time of the process, on one
    thread. Outer losses are those at the best response to the weights, solved from scratch to a
    tenth of what any contender solves to.
    """
    runners = {
        each.key: _Runner(each.start(problem, seed), 0.0, [], problem.roles.train[0].new_empty(0))
        for each in CONTENDERS
    }
    while going := [(r.seconds, key) for key, r in runners.items() if not r.done]:
        _, key = min(going)
        runners[key].advance(limit)
        say(f"{key} after {runners[key].seconds:.1f} s")
    return {key: _judged(problem, runner, say) for key, runner in runners.items()}


def _judged(problem: Cleaning, runner: _Runner, say: Callable[[str], None]) -> Figures:
    """Curves and end of one contender; a step that never came ends with the weights ½."""
    kept = [*runner.kept, (runner.seconds, runner.last)]
    w, seconds, found = problem.zeros(), list[float](), list[float]()
    for at, weights in kept:
        w = problem.fitted(weights, w, _RESOLVED)
        seconds.append(at)
        found.append(problem.outer(w))
        say(f"judging what was there after {at:.1f} s")
    return {
        "seconds": seconds,
        "losses": found,
        "steps": runner.steps,
        "test_error": problem.test_error(w),
        "auroc": _auroc(problem, runner.last),
    }


def _auroc(problem: Cleaning, weights: Tensor) -> float:
    """How well low weights tell the wrong labels from the others."""
    return float(roc_auc_score(problem.roles.wrong.numpy(), -weights.double().numpy()))


def start_level(problem: Cleaning) -> float:
    """The outer loss at the weights ½ that all start from."""
    half = torch.full((problem.size,), 0.5).to(problem.zeros())
    return problem.outer(problem.fitted(half, problem.zeros(), _RESOLVED))


def simple_rows(problem: Cleaning) -> dict[str, Figures]:
    """What a sensible person would do instead: each trained to the end on some of the rows.

    The outer loss is left out where its rows were trained on.
    """
    roles = problem.roles
    (inputs, labels), (held, truth) = roles.train, roles.validation
    judge = problem.fitted_to(roles.validation, _RESOLVED)
    agreed = predicted(judge, inputs) == labels
    right = ~roles.wrong
    everything = torch.cat([inputs, held]), torch.cat([labels, truth])
    fits = {
        "none": (problem.fitted_to(roles.train, _RESOLVED), True),
        "validation_only": (judge, False),
        "both": (problem.fitted_to(everything, _RESOLVED), False),
        "filtered": (problem.fitted_to((inputs[agreed], labels[agreed]), _RESOLVED), True),
        "clean": (problem.fitted_to((inputs[right], labels[right]), _RESOLVED), True),
    }
    return {
        key: {"test_error": problem.test_error(w), "loss": problem.outer(w) if counts else None}
        for key, (w, counts) in fits.items()
    }


def plain_seconds(problem: Cleaning, seed: int) -> float:
    """CPU time of plain training to the end, the shorter of two.

    Contenders take a few outer steps in between, which spares the race what only first calls cost.
    """
    before = _plain(problem)
    for each in CONTENDERS:
        for _ in islice(each.start(problem, seed), _WARM_STEPS):
            pass
    return min(before, _plain(problem))


def _plain(problem: Cleaning) -> float:
    start = time.process_time()
    problem.fitted_to(problem.roles.train, _RESOLVED)
    return time.process_time() - start


def seconds_to(curve: Figures, level: float) -> float | None:
    """The first time at which the outer loss is at most `level`, of those that were kept."""
    reached = (
        at for at, loss in zip(curve["seconds"], curve["losses"], strict=True) if loss <= level
    )
    found = next(reached, math.inf)
    return None if math.isinf(found) else found


def limit_of(curves: dict[str, Figures]) -> float:
    """The lowest outer loss that any contender has."""
    lowest = min(min(curve["losses"]) for curve in curves.values())
    if not math.isfinite(lowest):
        raise br.SolveError(br.Result.nonfinite, "(outer losses of the race)")
    return lowest
