"""Three predictions of the validation loss at any λ, from losses or from weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bestresponse import response
from bestresponse.apps._examples import stream_seed
from bestresponse.apps.experiments.hypernet._data import Roles
from bestresponse.apps.experiments.hypernet._global_fit import learn
from bestresponse.apps.experiments.hypernet._problem import Elementary
from bestresponse.apps.experiments.hypernet._retrain import Retraining, losses, timed
from bestresponse.apps.experiments.hypernet._search import Box, process
from bestresponse.apps.experiments.hypernet._settings import hypernetwork

Predict = Callable[[Tensor], Tensor]
"""Validation losses (n,) at points (n, h)."""

_CANDIDATES = 512  # random points where a prediction is looked for its minimum
_NEARER = (64, 8)  # points beside the best one, and how often, with half the spread each time
_END = 0.01  # of the learning rate, as a share: what is left of it is noise of the predictions


@dataclass(frozen=True, eq=False)
class Given(response.Sampling):
    """One of some points, all as likely.

    Attributes:
        values: the points, (n, h).
    """

    values: Tensor

    def points(self, live: Tensor, count: int, stream: torch.Generator) -> Tensor:
        """Any of them, (count, h)."""
        return self.values[torch.randint(len(self.values), (count,), generator=stream)]


@dataclass(frozen=True)
class Learning:
    """How hypernetworks are trained.

    Attributes:
        lr: of Adam, to begin with; it falls to nothing.
        steps: how many.
        samples: of λ in each.
    """

    lr: float
    steps: int
    samples: int


def pairs(
    problem: Elementary, points: Tensor, roles: Roles, retraining: Retraining
) -> dict[str, Any]:
    """Validation and test losses of weights trained from scratch at points (n, h)."""
    weights = retraining.weights(problem, points, roles[0])
    return {
        "points": points.tolist(),
        "validation": losses(problem, weights, roles[1]).tolist(),
        "test": losses(problem, weights, roles[2]).tolist(),
    }


def gaussian(known: dict[str, Any], count: int) -> Predict:
    """A Gaussian process with an RBF kernel, of the first losses."""
    model = process(torch.tensor(known["points"][:count]), known["validation"][:count])
    return lambda points: torch.from_numpy(model.predict(points.numpy())).float()


def hypernetted(
    problem: Elementary, sampling: response.Sampling, learning: Learning, roles: Roles, seed: int
) -> Predict:
    """The losses of an affine hypernetwork's weights."""
    net = hypernetwork(
        problem, seed, form=response.Affine(), sampling=sampling, samples=learning.samples
    )
    learn(net, roles[0], learning.lr, learning.steps, end=_END)
    return lambda points: net.outer_losses(points, *roles[1])


def minimum(predict: Predict, box: Box, seed: int) -> Tensor:
    """Where a prediction is lowest, (h,): of random points, then beside the best ones."""
    stream = torch.Generator().manual_seed(stream_seed(seed, "minimum"))
    points = box.draw(_CANDIDATES, stream)
    best, share = points[predict(points).argmin()], 0.1
    for _ in range(_NEARER[1]):
        points = torch.cat([best[None], box.beside(best, _NEARER[0], share, stream)])
        best, share = points[predict(points).argmin()], share / 2
    return best


def judged(
    make: Callable[[], Predict], problem: Elementary, held: dict[str, Any], box: Box,
    roles: Roles, retraining: Retraining, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """What a prediction is worth.

    Returns:
        Ready for JSON: `predicted` losses at the held-out points; `best`, where it is lowest, with
        the `validation` and `test` losses of weights trained there, and the loss `promised`; the
        CPU `seconds` of making it.
    """
    predict, seconds = timed(make)
    best = minimum(predict, box, seed)
    retrained = pairs(problem, best[None], roles, retraining)
    return {
        "predicted": predict(torch.tensor(held["points"])).tolist(),
        "best": best.tolist(),
        "promised": float(predict(best[None])),
        "validation": retrained["validation"][0],
        "test": retrained["test"][0],
        "seconds": seconds,
    }
