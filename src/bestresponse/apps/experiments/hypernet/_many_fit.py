"""Many decays tuned by a hypernetwork around them, and by hypergradients, in the same time."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import bestresponse as br
from bestresponse.apps import _figures
from bestresponse.apps.experiments.hypernet._data import Roles, in_turns
from bestresponse.apps.experiments.hypernet._problem import Elementary
from bestresponse.apps.experiments.hypernet._retrain import Retraining, Weights, losses, timed
from bestresponse.apps.experiments.hypernet._settings import hypernetwork

_INTERVAL = 10  # training steps between two hypergradients
_PRODUCTS = 10  # in each; as many steps are unrolled
_APART, _FIRST = 1.7, 0.02  # times between what is kept; share of the time before the first
_HYPERGRADIENT_LR = 0.1  # of Adam on λ with hypergradients


@dataclass(frozen=True)
class Course:
    """How decays are tuned.

    Attributes:
        seconds: of CPU time, for each way.
        form: of the hypernetwork.
        sigma: spread of its samples.
        samples: of λ a step.
        lr: of Adam on its last bias, the weights at λ.
        response_lr: of Adam on what else it has. Every step of Adam has the size of its rate,
            however little is known of the slope yet.
        hyper_lr: of Adam on λ, with it.
        batch: training images in a step, in turns.
        hyper_batch: validation images in a step on λ.
        seed: of samples.
    """

    seconds: float
    form: br.response.Affine | br.response.Factorized
    sigma: float
    samples: int
    lr: float
    response_lr: float
    hyper_lr: float
    batch: int
    hyper_batch: int
    seed: int


class Tuner(ABC):
    """Training and tuning in turns, from where the problem is."""

    def __init__(
        self, problem: Elementary, roles: Roles, course: Course, retraining: Retraining
    ) -> None:
        self.problem, self.course, self.retraining = problem, course, retraining
        self.train = in_turns(roles[0], course.batch)
        self.held = in_turns(roles[1], course.hyper_batch)

    @abstractmethod
    def step(self) -> None:
        """One step on λ, and what comes before it."""

    @abstractmethod
    def weights(self) -> Weights:
        """As they are."""


class Learned(Tuner):
    """A hypernetwork around λ."""

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        self.net = hypernetwork(
            self.problem, self.course.seed, form=self.course.form, samples=self.course.samples,
            sampling=br.response.Local(self.course.sigma),
        )  # fmt: skip
        at_point = self.net.network[-1].bias
        slope = [leaf for leaf in self.net.parameters() if leaf is not at_point]
        self._learner = torch.optim.Adam(
            [{"params": [at_point], "lr": self.course.lr},
             {"params": slope, "lr": self.course.response_lr}]
        )  # fmt: skip
        self._tuner = torch.optim.Adam(self.problem.decays.parameters(), lr=self.course.hyper_lr)

    def step(self) -> None:
        """One on the hypernetwork, one on λ."""
        self._learner.zero_grad()
        self.net.inner_loss(*next(self.train)).backward()
        self._learner.step()
        self._tuner.zero_grad()
        self.net.outer_loss(*next(self.held)).backward()
        self._tuner.step()

    @torch.no_grad()
    def weights(self) -> Weights:
        """The hypernetwork's, at λ."""
        return self.net.best_response()


class Differentiated(Tuner):
    """The live weights, and hypergradients at them; `method` makes the method."""

    def __init__(self, method: Callable[[torch.optim.Adam], Any], *settings: Any) -> None:
        super().__init__(*settings)
        weights = self.problem.model.parameters()
        self._trainer = torch.optim.Adam(weights, lr=self.retraining.lr)
        self._tuner = torch.optim.Adam(self.problem.decays.parameters(), lr=_HYPERGRADIENT_LR)
        self._nested = br.Nested(
            self.problem.model, self.problem.decays, self.problem.inner, self.problem.outer,
            method(self._trainer), throw=False,
        )  # fmt: skip

    def step(self) -> None:
        """Training steps, and a hypergradient."""
        for _ in range(_INTERVAL):
            batch = next(self.train)
            self._trainer.zero_grad()
            self._nested.inner_loss(*batch).backward()
            self._trainer.step()
        self._tuner.zero_grad()
        loss, _ = self._nested(batch, next(self.held))
        loss.backward()
        self._tuner.step()

    def weights(self) -> Weights:
        """The live ones."""
        return {name: w.detach() for name, w in self.problem.model.named_parameters()}


@dataclass(frozen=True)
class Way:
    """How decays are found.

    Attributes:
        label: for people.
        color: of its line.
        start: makes the tuner, from the problem, the roles, the course and the retraining.
    """

    label: str
    color: str
    start: Callable[..., Tuner]


def _implicit(adam: torch.optim.Adam) -> br.Implicit:
    return br.Implicit(br.CG(max_steps=_PRODUCTS))


def _unroll(adam: torch.optim.Adam) -> br.Unroll:
    return br.Unroll(br.optim.from_torch(adam), steps=_PRODUCTS)


WAYS = {
    "hypernetwork": Way("hypernetwork", _figures.BLUE, Learned),
    "implicit": Way(
        f"implicit, CG, {_PRODUCTS} products", _figures.RED,
        partial(Differentiated, _implicit),
    ),
    "unroll": Way(
        f"{_PRODUCTS} unrolled steps", _figures.GREEN,
        partial(Differentiated, _unroll),
    ),
}  # fmt: skip


def tuned(
    problem: Elementary, way: str, roles: Roles, course: Course, retraining: Retraining
) -> dict[str, Any]:
    """Decays tuned for the course's seconds of CPU time.

    Returns:
        Ready for JSON: of what was kept along the way `seconds`, the `validation` and `test` losses
        of the weights as they were, and of weights trained from scratch at the decays as
        `retrained` and `retrained_test`; the number of `steps`, of `hyperparameters`, and of the
        hypernetwork's own weights, `phi`; λ's `mean` and `deviation` at the end.
    """
    fresh = copy.deepcopy(problem)
    tuner = WAYS[way].start(problem, roles, course, retraining)
    seconds, steps, spent, threshold = list[float](), 0, 0.0, _FIRST * course.seconds
    points, weights = list[Tensor](), list[Weights]()
    while spent < course.seconds:
        _, own = timed(tuner.step)
        spent, steps = spent + own, steps + 1
        if spent >= min(threshold, course.seconds):
            threshold = _APART * spent
            seconds.append(spent)
            points.append(problem.log_decays)
            weights.append({name: weight.clone() for name, weight in tuner.weights().items()})
    stacked = {name: torch.stack([own[name] for own in weights]) for name in weights[0]}
    again = retraining.weights(fresh, torch.stack(points), roles[0])
    return {
        "seconds": seconds,
        "steps": steps,
        "validation": losses(problem, stacked, roles[1]).tolist(),
        "test": losses(problem, stacked, roles[2]).tolist(),
        "retrained": losses(problem, again, roles[1]).tolist(),
        "retrained_test": losses(problem, again, roles[2]).tolist(),
        "mean": float(points[-1].mean()),
        "deviation": float(points[-1].std()),
        "hyperparameters": problem.hyperparameters,
        "phi": sum(p.numel() for p in tuner.net.parameters()) if isinstance(tuner, Learned) else 0,
    }
