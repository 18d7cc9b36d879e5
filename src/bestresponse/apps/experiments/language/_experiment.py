"""`bestresponse experiment language`: regularizing a recurrent language model."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from bestresponse.apps import _options
from bestresponse.apps.experiments._experiment import Experiment, Findings, Pulse, check_seeds
from bestresponse.apps.experiments.language._cost import peak_bytes, seconds_a_step
from bestresponse.apps.experiments.language._model import Strengths, check_vocabulary
from bestresponse.apps.experiments.language._parts import Parts, check_words
from bestresponse.apps.experiments.language._report import ARMS, sections
from bestresponse.apps.experiments.language._search import search
from bestresponse.apps.experiments.language._training import LanguageTraining, Recipe
from bestresponse.data import Text, load_text

# weak, but not so weak that a logit or a logarithm has no slope
UNTUNED = Strengths(
    embedding=0.05, input=0.05, hidden=0.05, output=0.05, weight=0.05,
    activation=0.01, temporal=0.01, decay=1e-6,
)  # fmt: skip
# what Merity, Keskar and Socher (2017), https://arxiv.org/abs/1708.02182, use for Penn Treebank
FIXED = Strengths(
    embedding=0.1, input=0.4, hidden=0.25, output=0.4, weight=0.5,
    activation=2.0, temporal=1.0, decay=1.2e-6,
)  # fmt: skip
_COST_ROUNDS = 4


@dataclass(frozen=True)
class Language(Experiment):
    """All that regularizes a recurrent language model is tuned while it trains.

    Dropout of inputs, hidden units, outputs and words, dropout of recurrent weights, penalties on
    activations and their changes, and weight decay, beside the same training without tuning, with
    strengths from the literature, and beside random search in the same time. Half of the
    validation part tunes, the other half stops training and selects; the test part decides
    nothing.
    """

    data: str = "pydoc"
    """Text: `pydoc` (comes with Python), a folder with train.txt, valid.txt and test.txt, or a
    file by character."""
    unit: Literal["word", "character"] = "word"
    """What is predicted, one after the other."""
    tokens: int = 30_000
    """Words or characters of the training part that are used, from its beginning."""
    held_out: int = 8_000
    """Likewise of the validation part and of the test part, each."""
    min_count: int = 2
    """Words that are rarer in the training part become <unk>."""
    vocabulary: int = 10_000
    """Words that the model has at the most; a text with more is refused."""
    width: int = 200
    """Units of the embedding and of each LSTM layer."""
    layers: int = 1
    """LSTM layers."""
    batch: int = 20
    """Columns of text that are read side by side."""
    window: int = 35
    """Words a training step, through which gradients are propagated."""
    epochs: int = 30
    """Passes over the training part, at the most."""
    patience: int = 20
    """Epochs without a better selection perplexity before training stops."""
    lr: float = 0.005
    """Of Adam on the weights."""
    warmup: int = 3
    """Epochs before the first hyperparameter step."""
    interval: int = 7
    """Training steps between two hyperparameter steps."""
    hyper_batch: int = 8
    """Columns in a hyperparameter step, other ones each time; memory grows with them."""
    hyper_lr: float = 0.1
    """Of Adam on the hyperparameters."""
    rates: Literal["one", "unit"] = "one"
    """One rate for each kind of dropout, or one for each unit, word and recurrent weight."""
    decay: Literal["model", "tensor", "weight"] = "tensor"
    """One weight decay for the whole model, for each tensor, or for each weight."""
    temperature: float = 0.5
    """Of the relaxed dropout masks."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of initial weights, masks and random search; each gives one result of each kind."""

    verb: ClassVar[str] = "language"
    title: ClassVar[str] = "Regularizing a recurrent language model"

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        _options.check_positive(
            self, "tokens", "held_out", "min_count", "vocabulary", "width", "layers", "batch",
            "window", "epochs", "patience", "lr", "interval", "hyper_batch", "hyper_lr",
            "temperature",
        )  # fmt: skip
        _options.check_not_negative(self, "warmup")
        _options.check_choice(self, "unit", ("word", "character"))
        _options.check_choice(self, "rates", ("one", "unit"))
        _options.check_choice(self, "decay", ("model", "tensor", "weight"))
        check_seeds(self.seeds)
        check_words(self.tokens, self.held_out, self.batch)

    @property
    def steps(self) -> int:
        """Each kind of training with each seed, and the cost."""
        return len(ARMS) * len(self.seeds) + 1

    def measure(self, pulse: Pulse) -> Findings:
        """All trainings, then the cost."""
        text = self._text()
        parts, recipe = Parts.of(text), self._recipe()
        runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
        for seed in self.seeds:
            for arm in ARMS:
                budget = runs["tuned"][-1]["spent"] if arm == "search" else None
                train = _training(arm, parts, recipe, seed, budget, pulse.say)
                runs[arm].append(pulse.once(f"{arm}, seed {seed}", train))
        cost = pulse.once("cost", lambda: _cost(parts, recipe))
        headline = _headline(runs, cost)
        curves = {"text": text.record(), "runs": runs, "cost": cost}
        html = sections(text.record(), runs, cost, headline)
        return Findings(_verdict(headline), headline, html, curves)

    def _text(self) -> Text:
        text = load_text(
            self.data,
            unit=self.unit,
            min_count=self.min_count if self.unit == "word" else 1,
            tokens=self.tokens,
            held_out=self.held_out,
        )
        check_vocabulary(len(text.vocabulary), self.vocabulary)
        return text

    def _recipe(self) -> Recipe:
        return Recipe(
            self.width, self.layers, self.batch, self.window, self.epochs, self.patience, self.lr,
            self.warmup, self.interval, self.hyper_batch, self.hyper_lr, self.rates, self.decay,
            self.temperature,
        )  # fmt: skip


def _training(
    arm: str,
    parts: Parts,
    recipe: Recipe,
    seed: int,
    budget: float | None,
    say: Callable[[str], None],
) -> Callable[[], dict[str, Any]]:
    """What measures one kind of training with one seed."""

    def note(words: str) -> None:
        say(f"{ARMS[arm].label}, seed {seed}: {words}")

    def train() -> dict[str, Any]:
        if budget is not None:
            return search(parts, recipe, seed, budget, note)
        strengths = FIXED if arm == "fixed" else UNTUNED
        training = LanguageTraining(parts, recipe, strengths, seed, tuned=arm == "tuned")
        return asdict(training.run(note))

    return train


def _cost(parts: Parts, recipe: Recipe) -> dict[str, Any]:
    return {
        "seconds_a_step": seconds_a_step(parts, recipe, UNTUNED, _COST_ROUNDS),
        "peak_bytes": {
            name: peak_bytes(parts, recipe, UNTUNED, tuned=tuned)
            for name, tuned in (("untuned", False), ("tuned", True))
        },
    }


def _headline(
    runs: dict[str, list[dict[str, Any]]], cost: dict[str, Any]
) -> dict[str, float | None]:
    """Test perplexities at the best selection perplexity, and what tuning costs."""
    tests = {arm: [run["test"][run["best"]] for run in each] for arm, each in runs.items()}
    headline: dict[str, float | None] = {}
    for arm, values in tests.items():
        headline[f"{arm}_test_perplexity"] = statistics.mean(values)
        headline[f"{arm}_deviation"] = statistics.stdev(values) if len(values) > 1 else None
    trials = [trial for run in runs["search"] for trial in run["trials"]]
    headline["search_trials"] = len(trials)
    headline["search_all_seeds_test_perplexity"] = min(
        trials, key=lambda trial: trial["selection"]
    )["test"]
    seconds, peak = cost["seconds_a_step"], cost["peak_bytes"]
    headline["time_ratio"] = seconds["tuned"] / seconds["untuned"]
    known = peak["tuned"] and peak["untuned"]
    headline["memory_ratio"] = peak["tuned"] / peak["untuned"] if known else None
    return headline


def _verdict(headline: dict[str, float | None]) -> str:
    def shown(arm: str) -> str:
        mean, deviation = headline[f"{arm}_test_perplexity"], headline[f"{arm}_deviation"]
        return f"{mean:.1f}" + (f" ± {deviation:.1f}" if deviation is not None else "")

    memory = headline["memory_ratio"]
    peak = f" and {memory:.2f} times its memory" if memory is not None else ""
    return (
        f"Test perplexity {shown('tuned')} when tuned, {shown('untuned')} with the initial "
        f"strengths, {shown('fixed')} with those of the literature, and {shown('search')} by "
        f"random search in the time of tuning; a tuned training step takes "
        f"{headline['time_ratio']:.2f} times the time of one without tuning{peak}."
    )
