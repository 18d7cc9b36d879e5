"""Figures, tables and sentences of `stn-language`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bestresponse.apps import _html
from bestresponse.apps.experiments.stn import _pictures as pictures
from bestresponse.apps.experiments.stn._runs import (
    PARTS,
    Runs,
    best_of_each_seed,
    mean_loss,
    of,
    time_ratio,
)

TIMETABLES = {
    "replayed": "schedule replayed",
    "last": "fixed at the last tuned rate",
    "noisy": "best fixed rate with noise",
    "wave": "best fixed rate with a sine wave",
}
# MacKay et al. (2019), Penn Treebank, 2 layers of 650; from memory, not checked
_PUBLISHED = {
    "fixed": "85.83 / 83.19", "tuned": "82.58 / 79.02", "replayed": "82.87 / 79.93",
    "last": "89.65 / 86.90", "noisy": "within about 1 of fixed", "wave": "within about 1 of fixed",
    "seven": "70.30 / 67.68", "search": "84.81 / 81.46",
}  # fmt: skip
_WORDS = {
    "tuned": "output dropout tuned (STN)", **TIMETABLES,
    "seven": "all seven tuned (STN), two layers",
    "search": "random search over all seven in that time",
}  # fmt: skip

Found = Mapping[str, Runs]


def headline(found: Found) -> dict[str, float | None]:
    """Losses in nats a word, perplexities of the means, and what tuning costs."""
    runs = {**found, "best_grid": best_of_each_seed(found["fixed"])}
    figures: dict[str, float | None] = {
        "test_loss": mean_loss(runs["tuned"], "test"),
        "best_grid_test_loss": mean_loss(runs["best_grid"], "test"),
        "time_ratio": time_ratio(found["tuned"], found["fixed"]),
    }
    names = {"tuned": "tuned", "best_grid": "best_grid", "replayed": "replay", "last": "last_value",
             "noisy": "noisy", "wave": "wave", "seven": "seven", "search": "search"}  # fmt: skip
    for kind, name in names.items():
        figures[f"{name}_test_perplexity"] = math.exp(mean_loss(runs[kind], "test"))
    figures["tuned_validation_perplexity"] = math.exp(mean_loss(runs["tuned"], "validation"))
    figures["best_grid_validation_perplexity"] = math.exp(
        mean_loss(runs["best_grid"], "validation")
    )
    figures["search_trials"] = sum(len(run["trials"]) for run in found["search"])
    return figures


def verdict(figures: Mapping[str, float | None]) -> str:
    """The sentence."""
    own, grid = figures["tuned_test_perplexity"], figures["best_grid_test_perplexity"]
    assert own is not None and grid is not None
    place = "below" if own < grid else "above"
    return (
        f"Test perplexity {own:.1f} with output dropout tuned in one run, {place} the {grid:.1f} "
        f"of the best fixed rate, in {figures['time_ratio']:.2f} times the time of one fixed run; "
        f"{figures['replay_test_perplexity']:.1f} when its schedule is replayed. All seven "
        f"strengths tuned together: {figures['seven_test_perplexity']:.1f}, random search in the "
        f"same time {figures['search_test_perplexity']:.1f}."
    )


def sections(found: Found, text: Mapping[str, Any]) -> tuple[str, ...]:
    """The report's body."""
    one, seven = {"output dropout tuned": found["tuned"]}, {"all seven tuned": found["seven"]}
    words = (
        f"{text['name']}: {text['tokens']['train']:,} words for training, a vocabulary of "
        f"{text['vocabulary']:,}. A line for each seed; values at the beginning of each epoch."
    )
    both = (
        "In a model of two layers, so that there are hidden units between them. Dropout of words "
        "and of recurrent weights, and the penalties α and β on activations and their changes, "
        "have one perturbation for the batch."
    )
    return (
        _perplexities(found),
        pictures.schedules(one, words),
        _grid(found),
        _curves(found),
        pictures.schedules(seven, both, heading="All seven"),
        pictures.spread({**one, **seven}),
        _trials(found["search"]),
    )


def _perplexities(found: Found) -> str:
    best = best_of_each_seed(found["fixed"])
    rows = [_row(f"best of {_count(found)} fixed rates", best, found, "fixed")]
    rows += [_row(words, found[kind], found, kind) for kind, words in _WORDS.items()]
    text = (
        "Perplexities after the epoch with the lowest validation loss; means over the seeds. "
        "Times are CPU seconds beside those of one run with fixed output dropout. Published "
        "(validation / test): Penn Treebank, 650 units, another text and size, digits from memory "
        "[unverified]."
    )
    headings = ["training", "validation", "test", "time", "published [unverified]"]
    return _html.section("Perplexities", text, _html.table(headings, rows, strong=1))


def _row(words: str, runs: Runs, found: Found, kind: str) -> list[str]:
    losses = [f"{math.exp(mean_loss(runs, part)):.1f}" for part in PARTS]
    ratio = time_ratio(runs, found["fixed"])
    return [words, *losses, f"{ratio:.2f}", _PUBLISHED[kind]]


def _grid(found: Found) -> str:
    rates = list(dict.fromkeys(run["rate"] for run in found["fixed"]))
    losses = {
        part: [math.exp(mean_loss(of(found["fixed"], rate=rate), part)) for rate in rates]
        for part in PARTS
    }
    levels = {
        _WORDS[kind]: {part: math.exp(mean_loss(found[kind], part)) for part in PARTS}
        for kind in ("tuned", "replayed", "last")
    }
    text = "Perplexities over the fixed rate of output dropout; means over the seeds."
    return pictures.beside_grid(rates, losses, levels, "perplexity", text)


def _curves(found: Found) -> str:
    kinds = {"best fixed rate": best_of_each_seed(found["fixed"])}
    kinds |= {_WORDS[kind]: found[kind] for kind in ("tuned", "replayed", "seven", "search")}
    text = "Mean cross-entropy a word; a line for each run, the dot is the epoch that counts."
    return pictures.curves(kinds, "loss", text)


def _trials(searches: Runs) -> str:
    rows = [
        [
            f"{run['seed']}, {i}",
            " / ".join(f"{value:.2g}" for value in trial["drawn"].values()),
            *(f"{math.exp(trial[part]):.1f}" for part in PARTS),
            f"{trial['seconds']:.0f}" + ("" if trial["whole"] else ", cut"),
        ]
        for run in searches
        for i, trial in enumerate(run["trials"], 1)
    ]
    names = " / ".join(searches[0]["trials"][0]["drawn"])
    text = (
        "The CPU time of the run that tunes all seven, with the same seed: one draw after another, "
        "and what the last has reached when the time is up counts (cut). Rates are even in the "
        "logit, penalties in the logarithm."
    )
    headings = ["seed, trial", names, *PARTS, "seconds"]
    return _html.section("Random search", text, _html.table(headings, rows))


def _count(found: Found) -> int:
    return len({run["rate"] for run in found["fixed"]})
