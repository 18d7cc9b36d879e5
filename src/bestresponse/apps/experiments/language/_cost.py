"""What tuning costs beside the same training without it: time a step, and peak memory."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch

import bestresponse as br
from bestresponse.apps._fresh_process import in_fresh_process
from bestresponse.apps.experiments.language._model import Strengths
from bestresponse.apps.experiments.language._parts import Parts
from bestresponse.apps.experiments.language._training import LanguageTraining, Recipe

_MEMORY_STEPS = 3  # hyperparameter steps while memory is watched


def seconds_a_step(
    parts: Parts, recipe: Recipe, strengths: Strengths, rounds: int
) -> dict[str, float]:
    """CPU seconds a training step, untuned and tuned, by turns of one interval each."""
    recipe = replace(recipe, warmup=0)
    pair = {
        name: LanguageTraining(parts, recipe, strengths, 0, tuned=tuned)
        for name, tuned in (("untuned", False), ("tuned", True))
    }
    for training in pair.values():  # first calls look for what cannot be differentiated
        training.advance(recipe.interval)
        training.history.spent = 0.0
    for _ in range(rounds):
        for training in pair.values():
            training.advance(recipe.interval)
    steps = rounds * recipe.interval
    return {name: training.history.spent / steps for name, training in pair.items()}


def peak_bytes(parts: Parts, recipe: Recipe, strengths: Strengths, *, tuned: bool) -> int | None:
    """Peak memory of a training beyond its data, in a process of its own; None if unknown."""
    request = {
        "recipe": asdict(recipe),
        "strengths": asdict(strengths),
        "parts": {name: value.tolist() if isinstance(value, torch.Tensor) else value
                  for name, value in vars(parts).items()},
        "tuned": tuned,
    }  # fmt: skip
    peak: int | None = in_fresh_process(_measure, request)
    return peak


def _measure(request: dict[str, Any]) -> int | None:
    """In the child: weights, optimizers, hyperparameters and graphs all count."""
    tensors: dict[str, Any] = {name: torch.tensor(value) if isinstance(value, list) else value
               for name, value in request["parts"].items()}  # fmt: skip
    parts = Parts(**tensors)
    recipe = replace(Recipe(**request["recipe"]), warmup=0)
    strengths = Strengths(**request["strengths"])
    # a tiny one first: the libraries' own work space is not what is asked for
    small = replace(recipe, width=2, batch=2, window=2)
    LanguageTraining(parts, small, strengths, 0, tuned=request["tuned"]).advance(recipe.interval)
    peak = br.diagnostics.PeakMemory()
    training = LanguageTraining(parts, recipe, strengths, 0, tuned=request["tuned"])
    training.advance(_MEMORY_STEPS * recipe.interval)
    return peak.read()
