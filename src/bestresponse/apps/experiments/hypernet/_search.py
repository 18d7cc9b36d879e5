"""Searches that train from scratch at one λ after another: random, and Bayesian."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from torch import Tensor

from bestresponse.apps.experiments.hypernet._data import Roles
from bestresponse.apps.experiments.hypernet._problem import Elementary
from bestresponse.apps.experiments.hypernet._retrain import Retraining, timed

Tried = list[tuple[Tensor, float]]
"""Points (h,) and their validation losses."""
Propose = Callable[[Tried, torch.Generator], Tensor]

_AT_FIRST = 5  # random points before the first model of a Bayesian search
_CANDIDATES = 1000  # random ones, and as many beside the best point so far
_BESIDE = 0.1  # of the box


class Box:
    """Points with every coordinate from `low` to `high`."""

    def __init__(self, low: float, high: float, size: int) -> None:
        self.low, self.high, self.size = low, high, size

    def draw(self, count: int, stream: torch.Generator) -> Tensor:
        """Even in the box, (count, h)."""
        return self.low + (self.high - self.low) * torch.rand(count, self.size, generator=stream)

    def beside(self, point: Tensor, count: int, share: float, stream: torch.Generator) -> Tensor:
        """Normal around a point, with a share of the box as deviation, clipped to it."""
        noise = share * (self.high - self.low) * torch.randn(count, self.size, generator=stream)
        return (point + noise).clamp(self.low, self.high)


def at_random(box: Box) -> Propose:
    """The next point is any."""
    return lambda tried, stream: box.draw(1, stream)[0]


def bayesian(box: Box) -> Propose:
    """The next point has the largest expected improvement under a Gaussian process."""

    def propose(tried: Tried, stream: torch.Generator) -> Tensor:
        if len(tried) < _AT_FIRST:
            return box.draw(1, stream)[0]
        points, values = torch.stack([point for point, _ in tried]), [loss for _, loss in tried]
        best = points[int(np.argmin(values))]
        near = box.beside(best, _CANDIDATES, _BESIDE, stream)
        candidates = torch.cat([box.draw(_CANDIDATES, stream), near])
        mean, deviation = process(points, values).predict(candidates.numpy(), return_std=True)
        return candidates[int(expected_improvement(mean, deviation, min(values)).argmax())]

    return propose


def expected_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """Of a normal value below the best one so far."""
    spread = np.maximum(deviation, 1e-12)
    z = (best - mean) / spread
    return (best - mean) * norm.cdf(z) + spread * norm.pdf(z)


def process(points: Tensor, values: list[float]) -> GaussianProcessRegressor:
    """A Gaussian process of losses, its kernel fitted by its likelihood."""
    kernel = ConstantKernel() * RBF(length_scale=3.0) + WhiteKernel(1e-3)
    model = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=1,
                                     random_state=0)  # fmt: skip
    with warnings.catch_warnings():  # a hyperparameter at the end of its range is no mistake
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(points.numpy(), np.asarray(values))


def searched(
    problem: Elementary, propose: Propose, roles: Roles, retraining: Retraining,
    seconds: float, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Points are proposed, trained and judged until the CPU time is spent, at least one.

    Returns:
        Ready for JSON: after each of them `seconds`, and the `validation` and `test` losses of the
        one with the lowest validation loss so far; `steps`, their number; and `best`, that point.
    """
    stream, tried = torch.Generator().manual_seed(seed), Tried()
    found: dict[str, Any] = {"seconds": [], "validation": [], "test": []}
    least, spent, best = math.inf, 0.0, list[float]()
    for point, loss, test, own in _trials(problem, propose, roles, retraining, stream, tried):
        spent += own
        if loss < least:
            least, best_test, best = loss, test, point.tolist()
        found["seconds"].append(spent)
        found["validation"].append(least)
        found["test"].append(best_test)
        if spent >= seconds:
            break
    return found | {"steps": len(tried), "best": best}


def _trials(
    problem: Elementary, propose: Propose, roles: Roles, retraining: Retraining,
    stream: torch.Generator, tried: Tried,
) -> Iterator[tuple[Tensor, float, float, float]]:  # fmt: skip
    """Point, validation loss, test loss and CPU seconds of one training after another."""
    train, held, unseen = roles

    def trial() -> tuple[Elementary, float]:
        own = copy.deepcopy(problem)
        own.move(propose(tried, stream))
        retraining.plainly(own, train)
        with torch.no_grad():
            return own, float(own.outer(*held))

    while True:
        (own, loss), seconds = timed(trial)
        tried.append((own.log_decays, loss))
        with torch.no_grad():
            yield own.log_decays, loss, float(own.outer(*unseen)), seconds
