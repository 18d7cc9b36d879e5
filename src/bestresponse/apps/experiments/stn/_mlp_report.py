"""Figures, tables and sentences of `stn-mlp`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from bestresponse.apps import _html
from bestresponse.apps.experiments.stn import _pictures as pictures
from bestresponse.apps.experiments.stn._runs import (
    PARTS,
    Runs,
    at_best,
    best_of_each_seed,
    mean_loss,
    of,
    plateau,
    shown,
    time_ratio,
)

METHODS = {"stn": "STN", "delta": "Δ-STN"}
NEAR = 0.1  # of each other: the same plateau

Found = Mapping[str, Runs]
"""Runs of the kinds `tuned`, `fixed` and `replayed`."""


def headline(found: Found) -> dict[str, float | None]:
    """Losses, costs, and how far rates from different starts end from each other."""
    figures: dict[str, float | None] = {}
    for method, end in (("stn", ""), ("delta", "_delta")):
        own = of(found["tuned"], method=method)
        figures[f"test_loss{end}"] = mean_loss(own, "test")
        figures[f"validation_loss{end}"] = mean_loss(own, "validation")
        figures[f"time_ratio{end}"] = time_ratio(own, found["fixed"])
        figures[f"largest_gap{end}"] = max(gaps(own).values())
        figures[f"gaps_within_{NEAR:g}{end}"] = statistics.fmean(
            gap <= NEAR for gap in gaps(own).values()
        )
        figures[f"replay_test_loss{end}"] = mean_loss(of(found["replayed"], method=method), "test")
    best = best_of_each_seed(found["fixed"])
    figures["best_grid_test_loss"] = mean_loss(best, "test")
    figures["best_grid_validation_loss"] = mean_loss(best, "validation")
    return figures


def gaps(tuned: Runs) -> dict[tuple[int, str], float]:
    """By seed and rate, how far plateaus from different starts are apart."""
    found = {}
    for seed in dict.fromkeys(run["seed"] for run in tuned):
        ends = [plateau(run) for run in of(tuned, seed=seed)]
        for name in ends[0]:
            values = [end[name] for end in ends]
            found[seed, name] = max(values) - min(values)
    return found


def verdict(found: Found, figures: Mapping[str, float | None]) -> str:
    """The sentence."""
    grid = figures["best_grid_validation_loss"]
    parts = [f"The best of {len(_rates(found))} fixed rates has a validation loss of {grid:.4f}"]
    for words, end in (("STN", ""), ("Δ-STN", "_delta")):
        loss, ratio, gap = (
            figures[f"{name}{end}"] for name in ("validation_loss", "time_ratio", "largest_gap")
        )
        parts.append(
            f"{words} {loss:.4f} in {ratio:.2f} times the time of one fixed run, with rates from "
            f"different starts at most {gap:.2f} apart"
        )
    return "; ".join(parts) + "."


def sections(found: Found, data: str) -> tuple[str, ...]:
    """The report's body."""
    groups = {words: of(found["tuned"], method=m) for m, words in METHODS.items()}
    text = (
        f"{data}. A line for each seed and start; rates at the beginning of each epoch. Where "
        "lines of one colour meet, the start is forgotten."
    )
    return (
        pictures.schedules(groups, text),
        _losses(found),
        _grid(found),
        pictures.spread(groups),
        _curves(groups, found),
        _every_run(found["tuned"]),
    )


def _losses(found: Found) -> str:
    rows = []
    for method, words in METHODS.items():
        own = of(found["tuned"], method=method)
        rows.append([words, *_losses_of(own), f"{time_ratio(own, found['fixed']):.2f}"])
        again = of(found["replayed"], method=method)
        ratio = f"{time_ratio(again, found['fixed']):.2f}"
        rows.append([f"ordinary network, schedule of {words}", *_losses_of(again), ratio])
    best = best_of_each_seed(found["fixed"])
    rows.append([f"best of {len(_rates(found))} fixed rates", *_losses_of(best), "1 each"])
    text = (
        "Mean cross-entropies after the epoch with the lowest validation loss, means and "
        "deviations over seeds and starts. The schedule is that from the first start. Times are "
        "CPU seconds beside those of one fixed run."
    )
    headings = ["training", "validation", "test", "time"]
    return _html.section("Losses", text, _html.table(headings, rows))


def _grid(found: Found) -> str:
    rates = _rates(found)
    losses = {
        part: [mean_loss(of(found["fixed"], rate=rate), part) for rate in rates] for part in PARTS
    }
    levels = {
        words: {part: mean_loss(of(found["tuned"], method=m), part) for part in PARTS}
        for m, words in METHODS.items()
    }
    text = "The same rate for all three dropouts; means over the seeds, at each run's best epoch."
    return pictures.beside_grid(rates, losses, levels, "loss", text)


def _curves(groups: Mapping[str, Runs], found: Found) -> str:
    everyone = {**groups, "best fixed rate": best_of_each_seed(found["fixed"])}
    everyone["replayed schedules"] = found["replayed"]
    text = "A line for each run; the dot is the epoch that counts."
    return pictures.curves(everyone, "loss", text)


def _every_run(tuned: Runs) -> str:
    names = list(tuned[0]["values"])
    rows = [
        [
            METHODS[run["method"]], str(run["seed"]), f"{run['start']:g}",
            *(f"{plateau(run)[name]:.2f}" for name in names),
            *(f"{at_best(run, part):.4f}" for part in PARTS), str(run["best"] + 1),
        ]
        for run in tuned
    ]  # fmt: skip
    text = "Rates are means over the last fifth of the epochs."
    headings = ["method", "seed", "start", *names, *PARTS, "best epoch"]
    return _html.section("Every tuned run", text, _html.table(headings, rows))


def _rates(found: Found) -> list[float]:
    return list(dict.fromkeys(run["rate"] for run in found["fixed"]))


def _losses_of(runs: Runs) -> list[str]:
    return [shown(runs, part) for part in PARTS]
