"""`bestresponse experiment stn-language`: a language model that tunes what regularizes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch

import bestresponse as br
from bestresponse._errors import InputError
from bestresponse.apps import _options
from bestresponse.apps._examples import stream_seed
from bestresponse.apps.experiments._experiment import (
    Experiment,
    Findings,
    Pulse,
    check_distinct,
    check_seeds,
)
from bestresponse.apps.experiments._threads import one_thread
from bestresponse.apps.experiments.language._parts import check_words
from bestresponse.apps.experiments.stn import _language_report as report
from bestresponse.apps.experiments.stn._course import ByEpoch, Learner, Pace, measured
from bestresponse.apps.experiments.stn._runs import at_best
from bestresponse.apps.experiments.stn._search import searched
from bestresponse.apps.experiments.stn._word_learners import (
    FixedWords,
    ReplayedWords,
    Timetable,
    TunedWords,
    WordRecipe,
)
from bestresponse.apps.experiments.stn._word_model import PENALTIES, RATES
from bestresponse.data import Text, load_text

_NOISE, _WAVE, _PERIOD = 0.05, 0.1, 1200  # of MacKay et al.: deviation, amplitude, training steps
_PENALTY_RANGE = (1e-3, 10.0)  # of the random search, even in the logarithm
_RATE_RANGE = (0.02, 0.8)  # even in the logit
Runs = list[dict[str, Any]]


@dataclass(frozen=True)
class SelfTuningLanguage(Experiment):
    """Output dropout of an LSTM tuned while it trains, beside a grid; then seven strengths at once.

    The schedule of the tuned rate is replayed in an ordinary model, and told from its last value
    and from mere noise. Then dropout of outputs, inputs, hidden units, words and recurrent weights
    and two penalties on activations are tuned together in a model of two layers, beside random
    search in the same time. The validation part tunes, chooses the epoch and the fixed value; the
    test part decides nothing.
    """

    data: str = "pydoc"
    """Text: `pydoc` (comes with Python), or a folder with train.txt, valid.txt and test.txt."""
    tokens: int = 30_000
    """Words of the training part that are used, from its beginning."""
    held_out: int = 16_000
    """Likewise of the validation part and of the test part, each."""
    min_count: int = 2
    """Words that are rarer in the training part become <unk>."""
    width: int = 128
    """Units of the embedding and of each LSTM layer."""
    start: float = 0.05
    """Every rate to begin with, and both penalties."""
    grid: tuple[float, ...] = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75)
    """Fixed rates of output dropout."""
    seeds: tuple[int, ...] = (0,)
    """Of initial weights, masks, perturbations and random search."""
    epochs: int = 12
    """Passes over the training part, the same for all."""
    warmup: int = 1
    """Epochs before the first validation step."""
    interval: int = 2
    """Training steps to a validation step."""
    batch: int = 20
    """Columns of text that are read side by side."""
    window: int = 35
    """Words a step, through which gradients are propagated."""
    lr: float = 0.005
    """Of Adam on the weights."""
    hyper_batch: int = 20
    """Columns in a validation step."""
    hyper_lr: float = 0.03
    """Of Adam on the hyperparameters and the deviations of their perturbations."""
    entropy: float = 0.001
    """Weight of the perturbations' entropy."""
    sigma: float = 0.5
    """Initial deviation of the perturbations."""
    response_lr: float = 0.005
    """Of Adam on the response."""

    verb: ClassVar[str] = "stn-language"
    title: ClassVar[str] = "A language model that tunes its regularization"

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        _options.check_positive(
            self, "tokens", "held_out", "min_count", "width", "epochs", "interval", "batch",
            "window", "lr", "hyper_batch", "hyper_lr", "sigma", "response_lr",
        )  # fmt: skip
        _options.check_not_negative(self, "warmup", "entropy")
        check_seeds(self.seeds)
        check_distinct("--grid", self.grid, "rate")
        if not all(0 <= rate < 1 for rate in self.grid):
            raise InputError("--grid has a rate out of range; give rates between 0 and 1.")
        if not 0 < self.start < 1:
            raise InputError("--start has a rate out of range; give one between 0 and 1.")
        check_words(self.tokens, self.held_out, self.batch)

    @property
    def steps(self) -> int:
        """For each seed the grid, the tuned run and what follows it, all seven, and the search."""
        return len(self.seeds) * (len(self.grid) + 1 + len(report.TIMETABLES) + 2)

    def measure(self, pulse: Pulse) -> Findings:
        """All runs, on one thread."""
        text = load_text(
            self.data, min_count=self.min_count, tokens=self.tokens, held_out=self.held_out
        )
        kinds = ("fixed", "tuned", *report.TIMETABLES, "seven", "search")
        found: dict[str, Runs] = {kind: [] for kind in kinds}
        with one_thread():
            for seed in self.seeds:
                self._output_alone(text, seed, pulse, found)
                self._all_seven(text, seed, pulse, found)
        headline = report.headline(found)
        html = report.sections(found, text.record())
        return Findings(report.verdict(headline), headline, html, {"text": text.record(), **found})

    def _output_alone(self, text: Text, seed: int, pulse: Pulse, found: dict[str, Runs]) -> None:
        run = partial(self._run, seed, pulse, found)
        for rate in self.grid:
            run("fixed", f"fixed {rate:g}", partial(self._fixed, text, seed, rate), rate=rate)
        best = min(found["fixed"][-len(self.grid) :], key=lambda own: at_best(own, "validation"))
        make = partial(self._tuned, text, self._recipe, seed, ("output",))
        tuned = run("tuned", "output dropout tuned", make)
        for kind, timetable in self._timetables(tuned, best["rate"], text, seed).items():
            again = partial(ReplayedWords, text, self._recipe, seed, timetable)
            run(kind, report.TIMETABLES[kind], again)

    def _all_seven(self, text: Text, seed: int, pulse: Pulse, found: dict[str, Runs]) -> None:
        recipe = replace(self._recipe, layers=2)
        make = partial(self._tuned, text, recipe, seed, (*RATES, *PENALTIES))
        seven = self._run(seed, pulse, found, "seven", "seven tuned", make)

        def trial(values: dict[str, float]) -> Learner:
            return ReplayedWords(text, recipe, seed, Timetable(lambda step: values))

        title, seconds = f"seed {seed}, random search", seven["seconds"]
        best = searched(pulse, title, trial, partial(draw, seed), self._pace, seconds)
        found["search"].append({"seed": seed, **best})

    def _run(
        self,
        seed: int,
        pulse: Pulse,
        found: dict[str, Runs],
        kind: str,
        note: str,
        make: Callable[[], Learner],
        **where: Any,
    ) -> dict[str, Any]:
        part = measured(pulse, f"seed {seed}, {note}", self._pace, make)
        found[kind].append({"seed": seed, **where, **part})
        return part

    def _fixed(self, text: Text, seed: int, rate: float) -> Learner:
        return FixedWords(text, self._recipe, seed, rate)

    def _tuned(self, text: Text, recipe: WordRecipe, seed: int, names: tuple[str, ...]) -> Learner:
        ends = {name: math.inf if name in PENALTIES else 1.0 for name in names}
        hyper = br.hyper.Bounded(**{name: (0.0, end, self.start) for name, end in ends.items()})
        return TunedWords(text, recipe, seed, hyper, centred=len(names) > 1)

    def _timetables(
        self, tuned: dict[str, Any], best: float, text: Text, seed: int
    ) -> dict[str, ByEpoch | Timetable]:
        """What tells a schedule's merit from that of its last value, and of noise."""
        steps_an_epoch = self._fixed(text, seed, 0.0).steps_an_epoch
        last = tuned["values"]["output"][-1]
        noise = torch.Generator().manual_seed(stream_seed(seed, "noise"))

        def within(rate: float) -> dict[str, float]:
            return {"output": min(max(rate, 0.0), 0.99)}

        return {
            "replayed": ByEpoch(tuned["values"], steps_an_epoch),
            "last": Timetable(lambda step: within(last)),
            "noisy": Timetable(
                lambda step: within(best + _NOISE * float(torch.randn((), generator=noise)))
            ),
            "wave": Timetable(
                lambda step: within(best + _WAVE * math.sin(2 * math.pi * step / _PERIOD))
            ),
        }

    @property
    def _pace(self) -> Pace:
        return Pace(self.epochs, self.warmup, self.interval)

    @property
    def _recipe(self) -> WordRecipe:
        return WordRecipe(
            self.width, 1, self.batch, self.window, self.lr, self.hyper_batch, self.hyper_lr,
            self.entropy, self.sigma, self.response_lr,
        )  # fmt: skip


def draw(seed: int, trial: int) -> dict[str, float]:
    """Seven strengths at random; the same ones for the same numbers."""
    stream = torch.Generator().manual_seed(stream_seed(seed, f"trial {trial}"))

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=stream))

    low, high = (math.log(end / (1 - end)) for end in _RATE_RANGE)
    rates = {name: 1 / (1 + math.exp(-between(low, high))) for name in RATES}
    lowest, highest = map(math.log, _PENALTY_RANGE)
    return rates | {name: math.exp(between(lowest, highest)) for name in PENALTIES}
