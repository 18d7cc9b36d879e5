"""A linear hypernetwork that follows λ while λ follows it: three spreads of the samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from bestresponse import response
from bestresponse.apps import _figures
from bestresponse.apps.experiments.hypernet._data import Roles, Rows, in_turns
from bestresponse.apps.experiments.hypernet._problem import Elementary
from bestresponse.apps.experiments.hypernet._retrain import Retraining, losses, timed
from bestresponse.apps.experiments.hypernet._settings import hypernetwork

KEPT = 100  # values of λ along a run


@dataclass(frozen=True)
class Variant:
    """How samples spread around λ.

    Attributes:
        label: for people.
        color: of its line.
        settings: of the hypernetwork.
    """

    label: str
    color: str
    settings: dict[str, Any]


VARIANTS = {
    "default": Variant(
        "σ = 0.5, centred", _figures.BLUE,
        {"form": response.Affine(), "sampling": response.Local(0.5), "samples": 4},
    ),
    "paper": Variant(
        "σ = 0.003, the paper's", _figures.ORANGE,
        {**response.PAPER_LOCAL.settings, "sampling": response.Local(math.sqrt(1e-5))},
    ),
    "code": Variant("σ = 0, the released code's", _figures.RED, response.CODE_LOCAL.settings),
}  # fmt: skip


@dataclass(frozen=True)
class Pace:
    """How a run goes.

    Attributes:
        steps: on the hypernetwork and on λ, in turns.
        lr: of Adam on the hypernetwork.
        hyper_lr: of Adam on λ.
        batch: validation images in a step on λ.
    """

    steps: int
    lr: float
    hyper_lr: float
    batch: int


def followed(
    problem: Elementary, variant: Variant, pace: Pace, retraining: Retraining, roles: Roles,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Where λ goes from where the problem has it.

    Returns:
        Ready for JSON: `path`, λ along the run; `best`, at its end; the `validation` and `test`
        losses of the hypernetwork's weights there, and of weights trained from scratch there as
        `retrained` and `retrained_test`; CPU `seconds`, without those.
    """
    train, held, unseen = roles
    path = list[float]()
    net = hypernetwork(problem, seed, **variant.settings)
    _, seconds = timed(lambda: path.extend(_joint(problem, net, pace, train, held)))
    weights = retraining.weights(problem, problem.log_decays[None], train)
    point = problem.log_decays[None]
    return {
        "path": path,
        "best": path[-1],
        "validation": float(net.outer_losses(point, *held)),
        "test": float(net.outer_losses(point, *unseen)),
        "retrained": float(losses(problem, weights, held)),
        "retrained_test": float(losses(problem, weights, unseen)),
        "seconds": seconds,
    }


def _joint(
    problem: Elementary, net: response.HyperNetwork, pace: Pace, train: Rows, held: Rows
) -> Iterator[float]:
    """Algorithm 3: a step on the hypernetwork, a step on λ."""
    learner = torch.optim.Adam(net.parameters(), lr=pace.lr)
    tuner = torch.optim.Adam(problem.decays.parameters(), lr=pace.hyper_lr)
    batches = in_turns(held, pace.batch)
    for step in range(pace.steps):
        if step % max(pace.steps // KEPT, 1) == 0:
            yield float(problem.log_decays)
        learner.zero_grad()
        net.inner_loss(*train).backward()
        learner.step()
        tuner.zero_grad()
        net.outer_loss(*next(batches)).backward()
        tuner.step()
    yield float(problem.log_decays)
