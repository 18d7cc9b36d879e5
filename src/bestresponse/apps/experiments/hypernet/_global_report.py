"""Figures, tables and sentences of `hypernet-global`."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from bestresponse.apps import _figures, _html

Runs = Sequence[dict[str, Any]]


def headline(runs: Runs, grids: Runs) -> dict[str, float | None]:
    """Means over the seeds, and the worst of them."""
    plain = fmean(grid["seconds"] for grid in grids)
    spent = fmean(run["seconds"] for run in runs)
    pairs = list(zip(runs, grids, strict=True))
    return {
        "best_lambda": fmean(run["best"] for run in runs),
        "cross_validated_best_lambda": fmean(grid["best"] for grid in grids),
        "largest_distance": max(abs(run["best"] - grid["best"]) for run, grid in pairs),
        "prediction_error": max(map(prediction_error, runs)),
        "validation_loss": fmean(run["best_retrained"] for run in runs),
        "best_grid_validation_loss": fmean(grid["best_validation"] for grid in grids),
        "test_loss": fmean(run["test"] for run in runs),
        "best_grid_test_loss": fmean(grid["best_test"] for grid in grids),
        "time_ratio": spent / plain,
        "time_ratio_grid": spent / (plain * len(grids[0]["validation"])),
    }


def prediction_error(run: dict[str, Any]) -> float:
    """Of the predicted validation loss at the best λ, beside that of weights trained there."""
    return abs(run["best_predicted"] - run["best_retrained"])


def verdict(figures: dict[str, float | None]) -> str:
    """The sentence."""
    return (
        f"The hypernetwork's best λ is {figures['best_lambda']:.2f}, that of cross-validation "
        f"{figures['cross_validated_best_lambda']:.2f}; its predicted validation loss there is "
        f"off by at most {figures['prediction_error']:.4f}, for "
        f"{figures['time_ratio']:.0f} times the time of one training "
        f"({figures['time_ratio_grid']:.1f} times that of the grid)."
    )


def sections(
    runs: Runs, grids: Runs, grid: Sequence[float], seeds: Sequence[int], objective: str
) -> tuple[str, ...]:
    """The report's body."""
    return _curves(runs, grids, grid, objective), _table(runs, grids, seeds)


def _curves(runs: Runs, grids: Runs, grid: Sequence[float], objective: str) -> str:
    figure, (curves, errors) = _figures.panels(2, height=3.6)
    for i, (run, crossed) in enumerate(zip(runs, grids, strict=True)):
        first = i == 0
        curves.plot(run["points"], run["predicted"], color=_figures.BLUE, linewidth=1.6,
                    label="hypernetwork" if first else None)  # fmt: skip
        curves.plot(grid, crossed["validation"], "x", color=_figures.RED, markersize=5,
                    label="cross-validation" if first else None)  # fmt: skip
        curves.axvline(run["best"], color=_figures.BLUE, linewidth=0.8, linestyle=":")
        curves.axvline(crossed["best"], color=_figures.RED, linewidth=0.8, linestyle=":")
        differences = [a - b for a, b in zip(run["at_grid"], crossed["validation"], strict=True)]
        errors.plot(grid, differences, "o-", color=_figures.BLUE, markersize=3, linewidth=1.0)
    errors.axhline(0, color=_figures.GREY, linewidth=0.8)
    _figures.finish(curves, "validation loss", "λ, logarithm of the decay", "loss")
    _figures.finish(
        errors, "predicted less cross-validated", "λ, logarithm of the decay", "loss", legend=False
    )
    text = (
        f"A line for each seed, losses as in the {_SOURCES[objective]}. Dotted lines are the "
        "minima. Where decays are weak, cross-validation depends on when training stops, which the "
        "hypernetwork does not know of."
    )
    picture = _html.picture(_figures.to_uri(figure), "predicted and cross-validated losses over λ")
    return _html.section("Curves", text, picture)


_SOURCES = {"code": "released code", "paper": "paper"}


def _table(runs: Runs, grids: Runs, seeds: Sequence[int]) -> str:
    headings = [
        "seed", "best λ", "by descent", "cross-validated", "predicted loss", "retrained there",
        "best of the grid", "test: hypernetwork", "retrained", "best of the grid",
    ]  # fmt: skip
    rows = [
        [
            str(seed), f"{run['best']:.2f}", f"{run['descended']:.2f}", f"{grid['best']:.2f}",
            f"{run['best_predicted']:.4f}", f"{run['best_retrained']:.4f}",
            f"{grid['best_validation']:.4f}", f"{run['test']:.4f}", f"{run['retrained_test']:.4f}",
            f"{grid['best_test']:.4f}",
        ]
        for seed, run, grid in zip(seeds, runs, grids, strict=True)
    ]  # fmt: skip
    rows.append(["published", "≈ 1.8", *["–"] * (len(headings) - 2)])
    text = (
        "The best λ is the minimum of the predicted curve; by descent, where Adam on λ through the "
        "hypernetwork ends, from 0. Retrained means weights trained from scratch at the "
        "hypernetwork's best λ. Published: the minimum that Lorraine and Duvenaud's code has "
        "written into it, for other images and another split."
    )
    return _html.section("Every seed", text, _html.table(headings, rows))
