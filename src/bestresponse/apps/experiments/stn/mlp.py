"""`bestresponse experiment stn-mlp`: three dropout rates tuned in the run that trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any, ClassVar

from torch import nn

import bestresponse as br
from bestresponse._errors import InputError
from bestresponse.apps import _options
from bestresponse.apps.experiments._experiment import (
    Experiment,
    Findings,
    Pulse,
    check_distinct,
    check_seeds,
)
from bestresponse.apps.experiments._threads import one_thread
from bestresponse.apps.experiments.stn import _mlp_report as report
from bestresponse.apps.experiments.stn._classifier import (
    DeltaTuned,
    Fixed,
    Problem,
    Recipe,
    Replayed,
    Roles,
    Tuned,
)
from bestresponse.apps.experiments.stn._course import Learner, Pace, measured

TOP = 0.9  # of the range of rates
RATES = ("input", "first", "second")
_LAYERS = {"1": "input", "4": "first", "7": "second"}
_KINDS = {"stn": Tuned, "delta": DeltaTuned}


@dataclass(frozen=True)
class SelfTuningMLP(Experiment):
    """Three dropout rates of a small network, tuned while it trains, beside a grid.

    STN and Δ-STN start from a weak and from a strong dropout of the inputs and of two hidden
    layers. Beside them the same training with one fixed rate for all three, on a grid, and an
    ordinary network that follows the schedule of the tuned one. Validation examples tune, choose
    the epoch and the fixed rate; the test decides nothing.
    """

    data: str = "digits"
    """Labelled data: `digits` (bundled), or a file or folder as in `bestresponse tune`."""
    train: int = 800
    """Training examples."""
    validation: int = 400
    """Validation examples."""
    width: int = 256
    """Units of each of the two hidden layers."""
    starts: tuple[float, ...] = (0.05, 0.5)
    """Rates to begin with."""
    grid: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    """Fixed rates."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of roles, initial weights, masks and perturbations."""
    epochs: int = 100
    """Passes over the training examples, the same for all."""
    warmup: int = 5
    """Epochs before the first validation step."""
    interval: int = 3
    """Training steps to a validation step."""
    batch: int = 64
    """Examples a training step."""
    lr: float = 0.001
    """Of Adam on the weights."""
    response_lr: float = 0.005
    """Of Adam on the response."""
    hyper_batch: int = 250
    """Examples a validation step."""
    hyper_lr: float = 0.04
    """Of Adam on the rates and the deviations of their perturbations."""
    entropy: float = 0.001
    """Weight of the perturbations' entropy."""
    sigma: float = 0.5
    """Initial deviation of the perturbations."""
    delta_interval: int = 4
    """Likewise for Δ-STN, whose response starts at nothing and learns more slowly."""
    delta_response_lr: float = 0.001
    """Likewise for Δ-STN."""
    delta_hyper_lr: float = 0.03
    """Likewise for Δ-STN."""
    delta_entropy: float = 0.01
    """Likewise for Δ-STN."""
    delta_sigma: float = 1.0
    """Likewise for Δ-STN."""
    response_interval: int = 2
    """Training steps to a step of Δ-STN's response."""

    verb: ClassVar[str] = "stn-mlp"
    title: ClassVar[str] = "Self-tuned dropout of a small network"

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        _options.check_positive(
            self, "train", "validation", "width", "epochs", "interval", "batch", "lr",
            "response_lr", "hyper_batch", "hyper_lr", "sigma", "delta_interval",
            "delta_response_lr", "delta_hyper_lr", "delta_sigma", "response_interval",
        )  # fmt: skip
        _options.check_not_negative(self, "warmup", "entropy", "delta_entropy")
        check_seeds(self.seeds)
        check_rates("--starts", self.starts, least=1e-6)
        check_rates("--grid", self.grid)

    @property
    def steps(self) -> int:
        """The tuned runs, the grid and a replay of each method, for each seed."""
        return len(self.seeds) * (len(_KINDS) * (len(self.starts) + 1) + len(self.grid))

    def measure(self, pulse: Pulse) -> Findings:
        """All runs, on one thread."""
        found: dict[str, list[dict[str, Any]]] = {"tuned": [], "fixed": [], "replayed": []}
        with one_thread():
            for seed in self.seeds:
                roles = Roles.of(self.data, self.train, self.validation, seed)
                self._one_seed(problem(roles, self.width), seed, pulse, found)
        headline = report.headline(found)
        html = report.sections(found, roles.name)
        return Findings(report.verdict(found, headline), headline, html, found)

    def _one_seed(
        self, task: Problem, seed: int, pulse: Pulse, found: dict[str, list[dict[str, Any]]]
    ) -> None:
        def run(
            kind: str, note: str, make: Callable[[], Learner], pace: Pace, **where: Any
        ) -> dict[str, Any]:
            part = measured(pulse, f"seed {seed}, {note}", pace, make)
            found[kind].append({"seed": seed, **where, **part})
            return part

        def replay(values: dict[str, list[float]]) -> Learner:
            return Replayed(task, self._recipe("stn"), seed, values)

        for method, words in report.METHODS.items():
            pace = self._pace(method)
            for start in self.starts:
                make = partial(self._tuned, task, method, start, seed)
                part = run(
                    "tuned", f"{words} from {start:g}", make, pace, method=method, start=start
                )
                if start == self.starts[0]:
                    again = partial(replay, part["values"])
                    run("replayed", f"replay of {words}", again, pace, method=method)
        for rate in self.grid:
            fixed = partial(Fixed, task, self._recipe("stn"), seed, dict.fromkeys(RATES, rate))
            run("fixed", f"fixed {rate:g}", fixed, self._pace("stn"), rate=rate)

    def _tuned(self, task: Problem, method: str, start: float, seed: int) -> Learner:
        hyper = br.hyper.Bounded(**{name: (0.0, TOP, start) for name in RATES})
        return _KINDS[method](task, self._recipe(method), seed, hyper)

    def _pace(self, method: str) -> Pace:
        interval = self.delta_interval if method == "delta" else self.interval
        return Pace(self.epochs, self.warmup, interval)

    def _recipe(self, method: str) -> Recipe:
        """Alike in all that the weights see."""
        recipe = Recipe(
            self.batch, self.lr, self.hyper_batch, self.hyper_lr, self.entropy, self.sigma,
            self.response_lr, self.response_interval,
        )  # fmt: skip
        if method == "stn":
            return recipe
        return replace(
            recipe, hyper_lr=self.delta_hyper_lr, entropy=self.delta_entropy,
            sigma=self.delta_sigma, response_lr=self.delta_response_lr,
        )  # fmt: skip


def problem(roles: Roles, width: int) -> Problem:
    """Two hidden layers, dropout before each layer."""

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(),
            nn.Dropout(), nn.Linear(prod(roles.shape), width), nn.ReLU(),
            nn.Dropout(), nn.Linear(width, width), nn.ReLU(),
            nn.Dropout(), nn.Linear(width, roles.classes),
        )  # fmt: skip

    return Problem(roles, make, _LAYERS)


def check_rates(flag: str, rates: tuple[float, ...], least: float = 0.0) -> None:
    """Refuse no rate, one twice, and one out of range."""
    check_distinct(flag, rates, "rate")
    for rate in rates:
        if not least <= rate < TOP:
            raise InputError(f"{flag} has {rate:g}; give rates between 0 and {TOP:g}.")
