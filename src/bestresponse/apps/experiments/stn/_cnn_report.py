"""Figures, tables and sentences of `stn-cnn`."""

from __future__ import annotations

from collections.abc import Mapping

from bestresponse.apps import _html
from bestresponse.apps.experiments.stn import _pictures as pictures
from bestresponse.apps.experiments.stn._runs import (
    PARTS,
    Runs,
    at_best,
    mean_loss,
    plateau,
    shown,
    time_ratio,
)

KINDS = {
    "tuned": "tuned in one run (STN)",
    "start": "fixed at the initial values",
    "search": "best of random search in the time of tuning",
}
# MacKay et al. (2019), CIFAR-10, AlexNet, 15 hyperparameters; from memory, not checked
_PUBLISHED = {"tuned": "0.575 / 0.576", "start": "none", "search": "0.921 / 0.752"}

Found = Mapping[str, Runs]


def headline(found: Found) -> dict[str, float | None]:
    """Losses, and CPU time beside one run at fixed values."""
    figures: dict[str, float | None] = {
        "test_loss": mean_loss(found["tuned"], "test"),
        "best_grid_test_loss": mean_loss(found["search"], "test"),
        "time_ratio": time_ratio(found["tuned"], found["start"]),
        "search_time_ratio": time_ratio(found["search"], found["start"]),
    }
    for kind in KINDS:
        figures[f"{kind}_validation_loss"] = mean_loss(found[kind], "validation")
        figures[f"{kind}_test_loss"] = mean_loss(found[kind], "test")
    figures["search_trials"] = sum(len(run["trials"]) for run in found["search"])
    return figures


def verdict(figures: Mapping[str, float | None]) -> str:
    """The sentence, which says who is better."""
    own, other = figures["tuned_test_loss"], figures["search_test_loss"]
    assert own is not None and other is not None
    better = "better" if own < other else "worse"
    return (
        f"The self-tuned network has a test loss of {own:.3f}, {better} than the {other:.3f} of "
        f"random search, {figures['search_trials']:.0f} trials in the same CPU time; "
        f"{figures['start_test_loss']:.3f} at the initial values, in 1/{figures['time_ratio']:.2f} "
        "of the time."
    )


def sections(found: Found, data: str) -> tuple[str, ...]:
    """The report's body."""
    tuned = {KINDS["tuned"]: found["tuned"]}
    text = (
        f"{data}. A line for each seed; values at the beginning of each epoch. Side and number of "
        "the squares that are cut out are whole numbers, which have no derivative; the gates are "
        "fed the numbers that they are the floor of."
    )
    curves = "Mean cross-entropy; a line for each run, the dot is the epoch that counts."
    return (
        _losses(found),
        pictures.schedules(tuned, text),
        pictures.curves({words: found[kind] for kind, words in KINDS.items()}, "loss", curves),
        pictures.spread(tuned),
        _values(found),
    )


def _losses(found: Found) -> str:
    rows = [
        [
            words, *(shown(found[kind], part) for part in PARTS),
            f"{time_ratio(found[kind], found['start']):.2f}", _PUBLISHED[kind],
        ]
        for kind, words in KINDS.items()
    ]  # fmt: skip
    text = (
        "Mean cross-entropies after the epoch with the lowest validation loss; CPU seconds beside "
        "those of one run at fixed values. A trial of the search that is under way when the time "
        "is up counts with what it has reached. Published (validation / test): CIFAR-10 as "
        "distributed, AlexNet, 15 hyperparameters, digits from memory [unverified]."
    )
    headings = ["training", *PARTS, "time", "published [unverified]"]
    return _html.section("Losses", text, _html.table(headings, rows, strong=0))


def _values(found: Found) -> str:
    names = list(found["tuned"][0]["values"])
    rows = [
        [f"tuned, seed {run['seed']}", *(f"{value:.2g}" for value in plateau(run).values()),
         *(f"{at_best(run, part):.3f}" for part in PARTS), f"{run['seconds']:.0f}"]
        for run in found["tuned"]
    ]  # fmt: skip
    rows += [
        [f"trial {i}, seed {run['seed']}", *(f"{trial['drawn'][name]:.2g}" for name in names),
         *(f"{trial[part]:.3f}" for part in PARTS),
         f"{trial['seconds']:.0f}" + ("" if trial["whole"] else ", cut")]
        for run in found["search"]
        for i, trial in enumerate(run["trials"], 1)
    ]  # fmt: skip
    text = "Tuned ones are means over the last fifth of the epochs; trials are drawn evenly."
    headings = ["", *names, *PARTS, "seconds"]
    return _html.section("Values", text, _html.table(headings, rows))
