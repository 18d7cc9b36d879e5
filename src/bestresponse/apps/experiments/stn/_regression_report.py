"""Figures, tables and sentences of `stn-regression`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bestresponse.apps import _figures, _html
from bestresponse.apps.experiments.stn._regression_fit import GRID, METHODS, TOP

NEAR, CLOSE = 0.05, 0.005  # of the best rate; of its loss, relative
_COLORS = {"stn": _figures.BLUE, "delta": _figures.RED}


def headline(
    runs: Sequence[dict[str, Any]], grids: Sequence[dict[str, Any]], cost: Mapping[str, float]
) -> dict[str, float | None]:
    """Losses, costs, and how near the rates come to the best one."""
    figures: dict[str, float | None] = {
        "test_loss": statistics.fmean(run["test_loss"] for run in _of(runs, "delta")),
        "best_grid_test_loss": statistics.fmean(each["test_loss"] for each in grids),
        "time_ratio": cost["delta"] / cost["fixed"],
        "test_loss_stn": statistics.fmean(run["test_loss"] for run in _of(runs, "stn")),
        "time_ratio_stn": cost["stn"] / cost["fixed"],
    }
    for method in METHODS:
        own = _of(runs, method)
        figures[f"mean_distance_{method}"] = statistics.fmean(map(distance, own))
        figures[f"largest_distance_{method}"] = max(map(distance, own))
        figures[f"within_{NEAR:g}_{method}"] = _share(own, lambda r: distance(r) <= NEAR)
        figures[f"within_half_percent_{method}"] = _share(own, lambda r: r["excess"] <= CLOSE)
    return figures


def verdict(runs: Sequence[dict[str, Any]]) -> str:
    """The sentence."""
    parts = []
    for method, words in METHODS.items():
        own = _of(runs, method)
        near = sum(distance(run) <= NEAR for run in own)
        close = sum(run["excess"] <= CLOSE for run in own)
        parts.append(
            f"{words} ends within {NEAR:g} of the best rate in {near} of {len(own)} runs and "
            f"within {100 * CLOSE:g} % of its loss in {close}"
        )
    return "; ".join(parts) + "."


def sections(
    runs: Sequence[dict[str, Any]], grids: Sequence[dict[str, Any]], cost: Mapping[str, float]
) -> tuple[str, ...]:
    """The report's body."""
    return _paths(runs), _table(runs), _costs(runs, grids, cost)


def distance(run: Mapping[str, Any]) -> float:
    """From the best rate."""
    return abs(float(run["rate"]) - float(run["best_rate"]))


def _paths(runs: Sequence[dict[str, Any]]) -> str:
    figure, panels = _figures.panels(len(METHODS), height=3.6)
    for axes, (method, words) in zip(panels, METHODS.items(), strict=True):
        for run in _of(runs, method):
            moved = [rate - run["best_rate"] for rate in run["path"]]
            share = [i / (len(moved) - 1) for i in range(len(moved))]
            axes.plot(share, moved, color=_COLORS[method], alpha=0.6, linewidth=1.0)
        axes.axhspan(-NEAR, NEAR, color=_figures.GREY, alpha=0.25, linewidth=0)
        _figures.finish(
            axes, words, "share of the training", "rate less the best one", legend=False
        )
    text = (
        "A line for each seed and start. The best rate comes from the closed form of what "
        "dropout makes of the training loss; the band is 0.05 to both sides."
    )
    picture = _html.picture(_figures.to_uri(figure), "rates over the training, less the best one")
    return _html.section("Where the rates go", text, picture)


def _table(runs: Sequence[dict[str, Any]]) -> str:
    headings = ["method", "seed", "start", "rate", "last rate", "best rate",
                "loss above best, %", "σ"]  # fmt: skip
    rows = [
        [
            METHODS[run["method"]], str(run["seed"]), f"{run['start']:g}", f"{run['rate']:.3f}",
            f"{run['last_rate']:.3f}", f"{run['best_rate']:.3f}", f"{100 * run['excess']:.2f}",
            f"{run['sigma']:.2f}",
        ]
        for run in runs
    ]  # fmt: skip
    text = (
        "The rate is the mean over the last sixth of the training. The loss is that of the closed "
        "form on the validation rows, there and at the best rate. σ is the learned deviation of "
        "the perturbation, in the unconstrained space."
    )
    return _html.section("Every run", text, _html.table(headings, rows))


def _costs(
    runs: Sequence[dict[str, Any]], grids: Sequence[dict[str, Any]], cost: Mapping[str, float]
) -> str:
    rows = [
        [
            words, f"{_mean([run['test_loss'] for run in _of(runs, method)])}",
            f"{cost[method] / cost['fixed']:.2f}",
        ]
        for method, words in METHODS.items()
    ]  # fmt: skip
    rows.append([f"best of {len(GRID)} fixed rates", _mean([g["test_loss"] for g in grids]),
                 f"{len(GRID)}"])  # fmt: skip
    text = (
        "Expected squared error of the trained weights on new rows, exactly; means and deviations. "
        f"Fixed rates are evenly spaced up to {TOP:g}, the best one is chosen on the validation "
        "rows. Times are relative to one training at a fixed rate, medians of rounds in turns; "
        "with 30 weights they measure calls, not arithmetic."
    )
    table = _html.table(["method", "test loss", "time"], rows)
    return _html.section("Beside fixed rates", text, table)


def _of(runs: Sequence[dict[str, Any]], method: str) -> list[dict[str, Any]]:
    return [run for run in runs if run["method"] == method]


def _share(runs: Sequence[dict[str, Any]], holds: Any) -> float:
    return sum(map(holds, runs)) / len(runs)


def _mean(values: Sequence[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.4f} ± {deviation:.4f}"
