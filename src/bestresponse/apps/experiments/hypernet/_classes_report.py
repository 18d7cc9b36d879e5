"""Figures, tables and sentences of `hypernet-classes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from bestresponse.apps import _figures, _html

WAYS = {
    "hypernetwork": ("hypernetwork", _figures.BLUE),
    "random": ("random search", _figures.GREEN),
    "bayesian": ("Bayesian optimisation", _figures.ORANGE),
}
Found = Mapping[str, Sequence[dict[str, Any]]]


def headline(found: Found) -> dict[str, float | None]:
    """Losses at the end of the time, means over the seeds."""
    own, grids = _of(found, "hypernetwork"), found["grids"]
    plain = fmean(grid["seconds"] for grid in grids)
    figures: dict[str, float | None] = {
        "test_loss": _last(own, "test"),
        "best_grid_test_loss": fmean(grid["best_test"] for grid in grids),
        "best_grid_validation_loss": fmean(grid["best_validation"] for grid in grids),
        "time_ratio": _last(own, "seconds") / plain,
        "retrained_validation_loss": _last(own, "retrained"),
        "retrained_test_loss": _last(own, "retrained_test"),
    }
    for way in WAYS:
        runs = _of(found, way)
        figures[f"{way}_validation_loss"] = _last(runs, "validation")
        figures[f"{way}_test_loss"] = _last(runs, "test")
        figures[f"{way}_steps"] = fmean(run["steps"] for run in runs)
    return figures


def verdict(figures: Mapping[str, float | None]) -> str:
    """The sentence."""
    parts = [
        f"{figures[f'{way}_validation_loss']:.4f} and {figures[f'{way}_test_loss']:.4f} ({label})"
        for way, (label, _) in WAYS.items()
    ]
    return (
        f"Validation and test losses in the same time: {', '.join(parts)}; with weights trained "
        f"from scratch at the hypernetwork's decays {figures['retrained_validation_loss']:.4f} and "
        f"{figures['retrained_test_loss']:.4f}; one value for all classes, the best of a grid, "
        f"{figures['best_grid_validation_loss']:.4f} and {figures['best_grid_test_loss']:.4f}."
    )


def sections(found: Found) -> tuple[str, ...]:
    """The report's body."""
    return _curves(found), _table(found), _decays(found)


def _curves(found: Found) -> str:
    figure, panels = _figures.panels(2, height=3.6)
    for axes, names in zip(
        panels, (("validation", "retrained"), ("test", "retrained_test")), strict=True
    ):
        for way, (label, color) in WAYS.items():
            for i, run in enumerate(_of(found, way)):
                axes.plot(run["seconds"], run[names[0]], color=color, linewidth=1.3,
                          label=label if i == 0 else None)  # fmt: skip
                if way == "hypernetwork":
                    axes.plot(run["seconds"], run[names[1]], "--", color=color, linewidth=1.3,
                              label="retrained at its decays" if i == 0 else None)  # fmt: skip
        for grid in found["grids"]:
            axes.axhline(grid[f"best_{names[0]}"], color=_figures.GREY, linewidth=0.9)
        level = max(grid[f"best_{names[0]}"] for grid in found["grids"])
        lowest = min(min(run[names[0]]) for run in found["runs"])
        room = abs(level - lowest) + 0.02 * abs(level)
        axes.set_ylim(lowest - 0.2 * room, level + 2 * room)
        _figures.log_counts(axes)
        _figures.finish(axes, f"{names[0]} loss", "CPU seconds", "loss")
    text = (
        "A line for each seed. Searches show the losses of the point with the lowest validation "
        "loss so far; grey is the best of one value for all classes, without its time."
    )
    picture = _html.picture(_figures.to_uri(figure), "losses over time")
    return _html.section("Losses over time", text, picture)


def _table(found: Found) -> str:
    headings = ["way", "validation", "test", "gap", "trainings or steps", "time ×", "published"]
    plain = fmean(grid["seconds"] for grid in found["grids"])
    rows = []
    for way, (label, _) in WAYS.items():
        runs = _of(found, way)
        steps, time = fmean(run["steps"] for run in runs), _last(runs, "seconds") / plain
        rows.append(_row(label, _last(runs, "validation"), _last(runs, "test"),
                         f"{steps:.0f}", f"{time:.0f}"))  # fmt: skip
        if way == "hypernetwork":
            rows.append(_row("retrained at its decays", _last(runs, "retrained"),
                             _last(runs, "retrained_test"), "–", "–"))  # fmt: skip
    grids = found["grids"]
    count = str(len(grids[0]["validation"]))
    validation, test = (fmean(g[f"best_{name}"] for g in grids) for name in ("validation", "test"))
    rows.append(_row("one value, best of a grid", validation, test, count, count))
    text = (
        "Means over the seeds, at the end of the time, which is in trainings at one point. "
        "Published: Lorraine and Duvenaud show a figure only, in which the hypernetwork is faster "
        "and better than both searches and overfits the validation set."
    )
    return _html.section("At the end", text, _html.table(headings, rows))


def _row(label: str, validation: float, test: float, steps: str, time: str) -> list[str]:
    gap = test - validation
    return [label, f"{validation:.4f}", f"{test:.4f}", f"{gap:.4f}", steps, time, "figure only"]


def _decays(found: Found) -> str:
    classes = range(len(found["runs"][0]["best"]))
    headings = ["way", "seed", *map(str, classes)]
    rows = [
        [WAYS[run["way"]][0], str(run["seed"]), *(f"{value:.1f}" for value in run["best"])]
        for run in found["runs"]
    ]
    text = "Logarithms of the decay of each class that each way ends with."
    return _html.section("Decays", text, _html.table(headings, rows))


def _of(found: Found, way: str) -> list[dict[str, Any]]:
    return [run for run in found["runs"] if run["way"] == way]


def _last(runs: Sequence[dict[str, Any]], name: str) -> float:
    return fmean(run[name][-1] for run in runs)
