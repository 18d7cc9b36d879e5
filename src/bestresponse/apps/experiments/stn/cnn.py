"""`bestresponse experiment stn-cnn`: dropout, cutout and colours tuned beside random search."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch

import bestresponse as br
from bestresponse.apps import _options
from bestresponse.apps._examples import stream_seed
from bestresponse.apps.experiments._experiment import Experiment, Findings, Pulse, check_seeds
from bestresponse.apps.experiments._threads import one_thread
from bestresponse.apps.experiments.stn import _cnn_report as report
from bestresponse.apps.experiments.stn._classifier import (
    Fixed,
    Problem,
    Recipe,
    Roles,
    Tuned,
)
from bestresponse.apps.experiments.stn._course import Learner, Pace, measured
from bestresponse.apps.experiments.stn._image_net import Span, draw, problem, spans
from bestresponse.apps.experiments.stn._search import searched


@dataclass(frozen=True)
class SelfTuningCNN(Experiment):
    """Dropout, cutout and colour jitter of a convolutional network, tuned beside random search.

    Four dropout rates, side and number of squares that are cut out (whole numbers), and how far
    brightness, contrast, saturation and hue are changed, all by one self-tuned run (STN).
    Random search over the same ranges has the same CPU time. Validation images tune, and choose
    the epoch and the trial; the test decides nothing.
    """

    data: str = "digits"
    """Images: `digits` (bundled), or a file or folder as in `bestresponse tune`."""
    train: int = 800
    """Training images."""
    validation: int = 400
    """Validation images."""
    width: int = 16
    """Channels of the first convolution; the next ones have twice and four times as many."""
    seeds: tuple[int, ...] = (0,)
    """Of roles, initial weights, masks, perturbations and random search."""
    epochs: int = 40
    """Passes over the training images, the same for all."""
    warmup: int = 2
    """Epochs before the first validation step."""
    interval: int = 3
    """Training steps to a validation step."""
    batch: int = 100
    """Images a training step."""
    lr: float = 0.002
    """Of Adam on the weights."""
    hyper_batch: int = 100
    """Images a validation step."""
    hyper_lr: float = 0.05
    """Of Adam on the hyperparameters and the deviations of their perturbations."""
    entropy: float = 0.001
    """Weight of the perturbations' entropy."""
    sigma: float = 0.5
    """Initial deviation of the perturbations."""
    response_lr: float = 0.005
    """Of Adam on the response."""

    verb: ClassVar[str] = "stn-cnn"
    title: ClassVar[str] = "A convolutional network that tunes its augmentation"

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        _options.check_positive(
            self, "train", "validation", "width", "epochs", "interval", "batch", "lr",
            "hyper_batch", "hyper_lr", "sigma", "response_lr",
        )  # fmt: skip
        _options.check_not_negative(self, "warmup", "entropy")
        check_seeds(self.seeds)

    @property
    def steps(self) -> int:
        """A tuned run, one at its initial values, and a search, for each seed."""
        return 3 * len(self.seeds)

    def measure(self, pulse: Pulse) -> Findings:
        """All runs, on one thread."""
        found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in report.KINDS}
        with one_thread():
            for seed in self.seeds:
                roles = Roles.of(self.data, self.train, self.validation, seed)
                within = spans(roles.shape)
                runs = self._one_seed(problem(roles, self.width), within, seed, pulse)
                for kind, run in runs.items():
                    found[kind].append({"seed": seed, **run})
        headline = report.headline(found)
        html = report.sections(found, roles.name)
        return Findings(report.verdict(headline), headline, html, found)

    def _one_seed(
        self, task: Problem, within: dict[str, Span], seed: int, pulse: Pulse
    ) -> dict[str, dict[str, Any]]:
        def fixed(values: dict[str, float]) -> Learner:
            return Fixed(task, self._recipe, seed, values)

        def tuned() -> Learner:
            hyper = br.hyper.Bounded(**{name: span.spec() for name, span in within.items()})
            return Tuned(task, self._recipe, seed, hyper)

        def drawn(trial: int) -> dict[str, float]:
            return draw(within, torch.Generator().manual_seed(stream_seed(seed, f"trial {trial}")))

        starts = {name: float(span.start) for name, span in within.items()}
        own = measured(pulse, f"seed {seed}, tuned", self._pace, tuned)
        start = measured(pulse, f"seed {seed}, initial values", self._pace, partial(fixed, starts))
        title, seconds = f"seed {seed}, random search", own["seconds"]
        best = searched(pulse, title, fixed, drawn, self._pace, seconds)
        return {"tuned": own, "start": start, "search": best}

    @property
    def _pace(self) -> Pace:
        return Pace(self.epochs, self.warmup, self.interval)

    @property
    def _recipe(self) -> Recipe:
        return Recipe(
            self.batch, self.lr, self.hyper_batch, self.hyper_lr, self.entropy, self.sigma,
            self.response_lr, response_interval=1,
        )  # fmt: skip
