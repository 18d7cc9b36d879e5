"""Random search over the strengths of the regularizers, in a given time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

import bestresponse as br
from bestresponse.apps.experiments.language._model import DROPOUTS, Strengths
from bestresponse.apps.experiments.language._parts import Parts
from bestresponse.apps.experiments.language._training import History, LanguageTraining, Recipe

RATES = (0.02, 0.8)  # even in the logit
PENALTIES = (1e-3, 10.0)  # even in the logarithm
DECAYS = (1e-7, 1e-2)


def draws(seed: int) -> Iterator[Strengths]:
    """Strengths for ever, every one independent of the others."""
    generator = torch.Generator().manual_seed(seed)

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def log(low: float, high: float) -> float:
        return math.exp(between(math.log(low), math.log(high)))

    def rate() -> float:
        low, high = (math.log(end / (1 - end)) for end in RATES)
        return 1 / (1 + math.exp(-between(low, high)))

    while True:
        yield Strengths(
            **{name: rate() for name in DROPOUTS},
            activation=log(*PENALTIES),
            temporal=log(*PENALTIES),
            decay=log(*DECAYS),
        )


@dataclass(frozen=True)
class Trial:
    """One draw, trained.

    Attributes:
        strengths: what was drawn.
        history: how it went.
        whole: whether training ended by itself; otherwise the time was up.
    """

    strengths: Strengths
    history: History
    whole: bool

    @property
    def selection(self) -> float:
        """The lowest selection perplexity."""
        return self.history.selection[self.history.best]

    @property
    def test(self) -> float:
        """The test perplexity there."""
        return self.history.test[self.history.best]


def random_search(
    seconds: float, train: Callable[[Strengths, float], History], seed: int
) -> list[Trial]:
    """Trainings of one draw after another until the CPU time is spent.

    A training that is under way when the time is up ends there, and what it reached counts, as
    does what one has reached that ends in an error. The winner is the trial with the lowest
    selection perplexity.

    Args:
        seconds: CPU time for all of them together.
        train: trains with these strengths, for so many CPU seconds at the most.
        seed: of the draws.
    """
    trials, left = list[Trial](), seconds
    for strengths in draws(seed):
        history = train(strengths, left)
        if history.selection:
            trials.append(Trial(strengths, history, whole=history.spent < left))
        left -= history.spent
        if left <= 0:
            break
    if not trials:
        raise br.SolveError(br.Result.nonfinite, "(every trial of the random search)")
    return trials


def search(
    parts: Parts, recipe: Recipe, seed: int, seconds: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """The history of the best trial, with a summary of all, ready for JSON."""

    def train(strengths: Strengths, left: float) -> History:
        training = LanguageTraining(parts, recipe, strengths, seed, tuned=False)
        try:
            return training.run(say, left)
        except br.SolveError:
            return training.history

    trials = random_search(seconds, train, seed)
    winner = min(trials, key=lambda trial: trial.selection)
    summary = [
        {"strengths": vars(trial.strengths), "selection": trial.selection, "test": trial.test,
         "seconds": trial.history.spent, "whole": trial.whole}
        for trial in trials
    ]  # fmt: skip
    return {**vars(winner.history), "trials": summary}
