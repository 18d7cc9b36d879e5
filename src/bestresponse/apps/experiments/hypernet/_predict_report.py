"""Figures, tables and sentences of `hypernet-predict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

import numpy as np

from bestresponse.apps import _figures, _html

WAYS = {
    "gaussian": ("Gaussian process", _figures.ORANGE),
    "fixed": ("hypernetwork, the same points", _figures.GREEN),
    "fresh": ("hypernetwork, fresh points", _figures.BLUE),
}
PUBLISHED: dict[str, dict[int, str]] = {
    "gaussian": {10: "0.90", 25: "0.67", 100: "0.60", 250: "0.60", 1000: "0.62"},
    "fixed": {10: "0.65", 25: "0.60", 100: "0.59", 250: "0.59", 1000: "0.59"},
    "fresh": {10: "0.60", 25: "0.61", 100: "0.59", 250: "0.59", 1000: "0.59"},
}
_FOUND_BIAS = {"gaussian": "too low", "fixed": "too high", "fresh": "around 0"}
Found = Mapping[str, Sequence[dict[str, Any]]]


def headline(found: Found) -> dict[str, float | None]:
    """Of the largest number of points: errors, and what the best point is worth."""
    last, grids = found["runs"][-1]["count"], found["grids"]
    own = _of(found, "fresh", last)
    figures: dict[str, float | None] = {
        "test_loss": _mean(own, "test"),
        "best_grid_test_loss": _mean(grids, "best_test"),
        "best_grid_validation_loss": _mean(grids, "best_validation"),
        "time_ratio": _mean(own, "seconds") / _mean(grids, "seconds"),
        "best_seen_validation_loss": best_seen(found),
    }
    for way in WAYS:
        differences = errors(found, way, last)
        figures[f"{way}_mean_error"] = fmean(differences)
        figures[f"{way}_error_deviation"] = pstdev(differences)
        figures[f"{way}_validation_loss"] = _mean(_of(found, way, last), "validation")
    return figures


def errors(found: Found, way: str, count: int) -> list[float]:
    """Predicted less actual losses at the held-out points, all seeds."""
    return [
        predicted - actual
        for run, held in zip(_of(found, way, count), found["held"], strict=True)
        for predicted, actual in zip(run["predicted"], held["validation"], strict=True)
    ]


def best_seen(found: Found) -> float:
    """The lowest validation loss at any point that was trained, mean over the seeds."""
    lowest = []
    for i, held in enumerate(found["held"]):
        tried = [*held["validation"], *found["known"][i]["validation"]]
        share = len(found["runs"]) // len(found["held"])
        ends = [run["validation"] for run in found["runs"][i * share : (i + 1) * share]]
        lowest.append(min([*tried, *ends, found["grids"][i]["best_validation"]]))
    return fmean(lowest)


def verdict(figures: Mapping[str, float | None]) -> str:
    """The sentence."""
    parts = [
        f"{figures[f'{way}_mean_error']:+.3f} ± {figures[f'{way}_error_deviation']:.3f}, "
        f"{figures[f'{way}_validation_loss']:.4f} ({label})"
        for way, (label, _) in WAYS.items()
    ]
    return (
        "Errors of the predicted losses, and the actual validation loss at the point predicted "
        f"best: {'; '.join(parts)}; the lowest loss seen anywhere is "
        f"{figures['best_seen_validation_loss']:.4f}."
    )


def sections(found: Found) -> tuple[str, ...]:
    """The report's body."""
    return _histograms(found), _errors(found), _bests(found)


def _histograms(found: Found) -> str:
    last = found["runs"][-1]["count"]
    figure, (shapes, scatter) = _figures.panels(2, height=3.6)
    groups = {label: np.array(errors(found, way, last)) for way, (label, _) in WAYS.items()}
    _figures.histogram(shapes, groups, [color for _, color in WAYS.values()])
    shapes.axvline(0, color=_figures.GREY, linewidth=0.9)
    actual = [loss for held in found["held"] for loss in held["validation"]]
    for way, (_, color) in WAYS.items():
        predicted = [loss for run in _of(found, way, last) for loss in run["predicted"]]
        scatter.plot(actual, predicted, ".", color=color, markersize=3, alpha=0.6)
    ends = [min(actual), max(actual)]
    scatter.plot(ends, ends, color=_figures.GREY, linewidth=0.9)
    _figures.finish(shapes, "errors", "predicted less actual loss", "points")
    _figures.finish(scatter, "held-out points", "actual loss", "predicted loss", legend=False)
    text = (
        f"Validation losses at {len(found['held'][0]['validation'])} held-out points, predicted "
        f"from {last}."
    )
    picture = _html.picture(_figures.to_uri(figure), "errors of three predictions")
    return _html.section("Errors", text, picture)


def _errors(found: Found) -> str:
    headings = ["prediction", "points", "mean error", "deviation", "mean size", "published"]
    rows = []
    for count in _counts(found):
        for way, (label, _) in WAYS.items():
            own = errors(found, way, count)
            rows.append([label, str(count), f"{fmean(own):+.4f}", f"{pstdev(own):.4f}",
                         f"{fmean(map(abs, own)):.4f}", _FOUND_BIAS[way]])  # fmt: skip
    text = (
        "Predicted less actual losses. Published: Lorraine and Duvenaud, histograms for 25 points "
        "and 10,215 held-out ones, without numbers."
    )
    return _html.section("Errors in numbers", text, _html.table(headings, rows))


def _bests(found: Found) -> str:
    headings = ["prediction", "points", "promised", "validation", "test", "time ×", "published"]
    plain = _mean(found["grids"], "seconds")
    rows = []
    for count in _counts(found):
        for way, (label, _) in WAYS.items():
            runs = _of(found, way, count)
            values = [f"{_mean(runs, name):.4f}" for name in ("promised", "validation", "test")]
            time = _mean(runs, "seconds") / plain + (0 if way == "fresh" else count)
            rows.append([label, str(count), *values, f"{time:.0f}",
                         PUBLISHED[way].get(count, "–")])  # fmt: skip
    grids = found["grids"]
    rows.append(
        ["one value for all classes, best of a grid", str(len(grids[0]["validation"])), "–",
         f"{_mean(grids, 'best_validation'):.4f}", f"{_mean(grids, 'best_test'):.4f}",
         str(len(grids[0]["validation"])), "–"]
    )  # fmt: skip
    rows.append(["best seen anywhere", "–", "–", f"{best_seen(found):.4f}", "–", "–", "0.593"])
    text = (
        "Actual losses, of weights trained from scratch, at the point where each prediction is "
        "lowest. Time is in trainings at one point, those of the points included. Published: in a "
        "comment of the paper's LaTeX source only, with a loss and data that are not given there."
    )
    return _html.section("The best point of each", text, _html.table(headings, rows))


def _counts(found: Found) -> list[int]:
    return list(dict.fromkeys(run["count"] for run in found["runs"]))


def _of(found: Found, way: str, count: int) -> list[dict[str, Any]]:
    return [run for run in found["runs"] if run["way"] == way and run["count"] == count]


def _mean(runs: Sequence[dict[str, Any]], name: str) -> float:
    return fmean(run[name] for run in runs)
