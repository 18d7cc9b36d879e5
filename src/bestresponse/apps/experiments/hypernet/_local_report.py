"""Figures, tables and sentences of `hypernet-local`."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from bestresponse.apps import _figures, _html
from bestresponse.apps.experiments.hypernet._local_fit import VARIANTS

NEAR = 0.3  # of the optimum
Runs = Sequence[dict[str, Any]]


def headline(runs: Runs, grids: Runs) -> dict[str, float | None]:
    """Losses and costs of the default, and how near each spread comes to the optimum."""
    own = _of(runs, "default")
    figures: dict[str, float | None] = {
        "cross_validated_best_lambda": fmean(grid["best"] for grid in grids),
        "validation_loss": fmean(run["retrained"] for run in own),
        "best_grid_validation_loss": fmean(grid["best_validation"] for grid in grids),
        "test_loss": fmean(run["test"] for run in own),
        "retrained_test_loss": fmean(run["retrained_test"] for run in own),
        "best_grid_test_loss": fmean(grid["best_test"] for grid in grids),
        "time_ratio": fmean(run["seconds"] for run in own)
        / fmean(grid["seconds"] for grid in grids),
    }
    for variant in VARIANTS:
        figures[f"mean_lambda_{variant}"] = fmean(run["best"] for run in _of(runs, variant))
        figures[f"largest_distance_{variant}"] = max(map(distance, _of(runs, variant)))
    return figures


def distance(run: dict[str, Any]) -> float:
    """From the λ of cross-validation."""
    return float(abs(run["best"] - run["optimum"]))


def verdict(runs: Runs) -> str:
    """The sentence."""
    parts = []
    for key, variant in VARIANTS.items():
        own = _of(runs, key)
        near = sum(distance(run) <= NEAR for run in own)
        parts.append(f"{near} of {len(own)} runs ({variant.label}, {max(map(distance, own)):.2f})")
    return (
        f"Within {NEAR:g} of the λ of cross-validation end, with the largest distance of each "
        f"spread, {', '.join(parts)}."
    )


def sections(runs: Runs, grids: Runs, grid: Sequence[float]) -> tuple[str, ...]:
    """The report's body."""
    return _paths(runs), _ends(runs, grids, grid), _table(runs, grids)


def _paths(runs: Runs) -> str:
    figure, panels = _figures.panels(len(VARIANTS), height=3.6)
    for axes, (key, variant) in zip(panels, VARIANTS.items(), strict=True):
        for run in _of(runs, key):
            share = [i / (len(run["path"]) - 1) for i in range(len(run["path"]))]
            axes.plot(share, run["path"], color=variant.color, linewidth=1.2, alpha=0.8)
            axes.axhspan(run["optimum"] - NEAR, run["optimum"] + NEAR, color=_figures.GREY,
                         alpha=0.15, linewidth=0)  # fmt: skip
        axes.set_ylim(*_range(runs))
        _figures.finish(axes, variant.label, "share of the run", "λ", legend=False)
    text = (
        "A line for each seed and start; the band is 0.3 to both sides of the λ of "
        "cross-validation. All have the same steps and learning rates; they differ in the spread "
        "of the samples around λ, in centring, and in the initial weights of the hypernetwork."
    )
    picture = _html.picture(_figures.to_uri(figure), "λ over the run, for three spreads")
    return _html.section("Where λ goes", text, picture)


def _range(runs: Runs) -> tuple[float, float]:
    """Of every λ on the way, with some room."""
    everything = [value for run in runs for value in run["path"]]
    return min(everything) - 0.3, max(everything) + 0.3


def _ends(runs: Runs, grids: Runs, grid: Sequence[float]) -> str:
    figure, (axes,) = _figures.panels(1, height=3.4)
    for i, crossed in enumerate(grids):
        axes.plot(grid, crossed["validation"], "x-", color=_figures.GREY, linewidth=0.8,
                  markersize=4, label="cross-validation" if i == 0 else None)  # fmt: skip
    for key, variant in VARIANTS.items():
        own = _of(runs, key)
        axes.plot([run["best"] for run in own], [run["retrained"] for run in own], "o",
                  color=variant.color, label=variant.label)  # fmt: skip
    _figures.finish(axes, "weights trained from scratch", "λ", "validation loss")
    picture = _html.picture(_figures.to_uri(figure), "where runs end on the validation curve")
    return _html.section("What that is worth", "", picture)


def _table(runs: Runs, grids: Runs) -> str:
    headings = [
        "spread", "seed", "start", "λ", "cross-validated", "validation: hypernetwork",
        "retrained", "test: hypernetwork", "retrained", "time ×",
    ]  # fmt: skip
    plain = fmean(grid["seconds"] for grid in grids)
    rows = [
        [
            VARIANTS[run["variant"]].label, str(run["seed"]), f"{run['start']:g}",
            f"{run['best']:.2f}", f"{run['optimum']:.2f}", f"{run['validation']:.4f}",
            f"{run['retrained']:.4f}", f"{run['test']:.4f}", f"{run['retrained_test']:.4f}",
            f"{run['seconds'] / plain:.0f}",
        ]
        for run in runs
    ]  # fmt: skip
    validation = fmean(grid["best_validation"] for grid in grids)
    test = fmean(grid["best_test"] for grid in grids)
    rows.append(["best of the grid", *["–"] * 5, f"{validation:.4f}", "–", f"{test:.4f}",
                 f"{len(grids[0]['validation'])}"])  # fmt: skip
    rows.append(["published", "–", "–", "≈ 1.8", *["–"] * 6])
    text = (
        "Retrained means weights trained from scratch at the λ found. Time is in trainings at one "
        "λ. Published: the minimum that Lorraine and Duvenaud's code has written into it, for "
        "other images and another split; their script runs σ = 0, and their figure shows its end "
        "at the true minimum."
    )
    return _html.section("Every run", text, _html.table(headings, rows))


def _of(runs: Runs, variant: str) -> list[dict[str, Any]]:
    return [run for run in runs if run["variant"] == variant]
