"""Figures of several training runs together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Runs = Sequence[dict[str, Any]]
"""What `course` gave, with where it was: `seed` and the like."""
PARTS = ("validation", "test")


def at_best(run: Mapping[str, Any], part: str) -> float:
    """The loss of the model from the epoch with the lowest validation loss."""
    loss: float = run["test"] if part == "test" else run["validation"][run["best"]]
    return loss


def mean_loss(runs: Runs, part: str) -> float:
    """At each run's best epoch."""
    return statistics.fmean(at_best(run, part) for run in runs)


def mean_seconds(runs: Runs) -> float:
    """Of CPU time; of a search, its trials' together."""
    return statistics.fmean(
        sum(trial["seconds"] for trial in run.get("trials", [run])) for run in runs
    )


def time_ratio(runs: Runs, fixed: Runs) -> float:
    """CPU seconds of a run over those of one fixed run, means."""
    return mean_seconds(runs) / mean_seconds(fixed)


def of(runs: Runs, **where: Any) -> Runs:
    """Those that were there."""
    return [run for run in runs if all(run[name] == value for name, value in where.items())]


def best_of_each_seed(fixed: Runs) -> Runs:
    """The run with the lowest validation loss."""
    seeds = dict.fromkeys(run["seed"] for run in fixed)
    return [min(of(fixed, seed=seed), key=lambda run: at_best(run, "validation")) for seed in seeds]


def plateau(run: Mapping[str, Any]) -> dict[str, float]:
    """The mean of each hyperparameter over the last fifth of the epochs."""
    return {name: _mean_of_end(values) for name, values in run["values"].items()}


def shown(runs: Runs, part: str) -> str:
    """Mean and deviation of the losses at the best epochs."""
    losses = [at_best(run, part) for run in runs]
    deviation = f" ± {statistics.stdev(losses):.4f}" if len(losses) > 1 else ""
    return f"{statistics.fmean(losses):.4f}{deviation}"


def _mean_of_end(values: list[float]) -> float:
    end = values[-max(len(values) // 5, 1) :]
    return sum(end) / len(end)
