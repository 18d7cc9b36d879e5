"""The report on a regularized language model."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bestresponse.apps import _figures, _html
from bestresponse.apps._figures import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY

Runs = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Arm:
    """A kind of training, and how it is drawn."""

    label: str
    color: str


ARMS = {
    "untuned": Arm("untuned, initial strengths", GREY),
    "fixed": Arm("untuned, strengths of the literature", ORANGE),
    "tuned": Arm("tuned in one run", BLUE),
    "search": Arm("random search in the time of tuning", GREEN),
}
_GROUPS = {
    "embedding": PINK, "input": BLUE, "hidden": GREY, "output": ORANGE, "weight": GREEN,
    "activation": SKY, "temporal": RED, "decay": "#000000",
}  # fmt: skip
_PENALTIES = ("activation", "temporal", "decay")


def sections(
    text: dict[str, Any], runs: Runs, cost: dict[str, Any], headline: dict[str, float | None]
) -> tuple[str, ...]:
    """All of the report but the verdict and the settings."""
    return (
        _results(runs, headline), _curves(runs), _paths(runs["tuned"]), _cost(cost, headline),
        _trials(runs["search"], headline), _text(text),
    )  # fmt: skip


def _spread(values: Sequence[float], digits: int = 1) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def _results(runs: Runs, headline: dict[str, float | None]) -> str:
    headings = ["training", "selection", "test, measured", "test, published", "best epoch",
                "CPU seconds"]  # fmt: skip
    rows = []
    for name, arm in ARMS.items():
        at_best = {key: [run[key][run["best"]] for run in runs[name]]
                   for key in ("selection", "test", "epochs")}  # fmt: skip
        spent = [sum(trial["seconds"] for trial in run["trials"]) if name == "search"
                 else run["spent"] for run in runs[name]]  # fmt: skip
        rows.append(
            [arm.label, _spread(at_best["selection"]), _spread(at_best["test"]), "none",
             _spread(at_best["epochs"], 0), _spread(spent, 0)]
        )  # fmt: skip
    text = (
        f"Perplexities, mean ± standard deviation over {len(runs['tuned'])} seeds, in eval mode, "
        "with the weights of the best selection perplexity. Half of the validation part tuned the "
        "hyperparameters, the other half selected weights and trials; the test part decided "
        "nothing. No published figure is of this text at this size."
    )
    return _html.section("Perplexities", text, _html.table(headings, rows, strong=2))


def _curves(runs: Runs) -> str:
    figure, axes = _figures.panels(3, height=4.2)
    for axis, part in zip(axes, ("train", "selection", "test"), strict=True):
        for name, arm in ARMS.items():
            for i, run in enumerate(runs[name]):
                label = arm.label if i == 0 else None
                axis.plot(run["epochs"], run[part], color=arm.color, linewidth=1.2, label=label)
                best = run["best"]
                axis.plot(run["epochs"][best], run[part][best], "o", color=arm.color, markersize=4)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:.0f}")
        axis.yaxis.set_minor_formatter("{x:.0f}")
        axis.tick_params(which="minor", labelsize=8)
        _figures.finish(axis, part, "epoch", "perplexity", legend=part == "selection")
    text = (
        "A line for each seed; the dot is the best selection perplexity, where the weights are "
        "taken from. Of a random search the best trial is shown. The training perplexity is "
        "without dropout, on the first words of the training part."
    )
    picture = _html.picture(_figures.to_uri(figure), "perplexities over epochs")
    return _html.section("Training, selection, test", text, picture)


def _paths(tuned: list[dict[str, Any]]) -> str:
    figure, (rates, penalties) = _figures.panels(2)
    for run_number, run in enumerate(tuned):
        for name, values in run["values"].items():
            axis = penalties if name in _PENALTIES else rates
            label = name if run_number == 0 else None
            axis.plot(run["epochs"], values, color=_GROUPS[name], linewidth=1.2, label=label)
    penalties.set_yscale("log")
    _figures.finish(rates, "Dropout rates (means)", "epoch", "rate")
    _figures.finish(penalties, "α, β and weight decay (geometric mean)", "epoch", "strength")
    text = "How each group of hyperparameters went while the model trained; a line for each seed."
    picture = _html.picture(_figures.to_uri(figure), "hyperparameters over epochs")
    return _html.section("The hyperparameters", text, picture)


def _cost(cost: dict[str, Any], headline: dict[str, float | None]) -> str:
    seconds, peak = cost["seconds_a_step"], cost["peak_bytes"]

    def megabytes(number: int | None) -> str:
        return "unknown" if number is None else f"{number / 1e6:.0f} MB"

    def ratio(name: str) -> str:
        value = headline[name]
        return "unknown" if value is None else f"{value:.2f}"

    rows = [
        ["CPU time a training step", f"{1e3 * seconds['untuned']:.1f} ms",
         f"{1e3 * seconds['tuned']:.1f} ms", ratio("time_ratio"), "1.5"],
        ["peak memory beyond program and data", megabytes(peak["untuned"]),
         megabytes(peak["tuned"]), ratio("memory_ratio"), "2"],
    ]  # fmt: skip
    text = (
        "Steps with and without tuning took turns in one process; memory is that of a process for "
        "each. Hyperparameter steps are spread over the training steps between them."
    )
    headings = ["", "untuned", "tuned", "ratio", "aim, at most"]
    return _html.section("What tuning costs", text, _html.table(headings, rows))


def _trials(searches: list[dict[str, Any]], headline: dict[str, float | None]) -> str:
    def strengths(trial: dict[str, Any], *names: str) -> str:
        return " / ".join(f"{trial['strengths'][name]:.2g}" for name in names)

    rates = [name for name in _GROUPS if name not in _PENALTIES]
    rows = [
        [f"{i}, {j}", strengths(trial, *rates), strengths(trial, *_PENALTIES),
         f"{trial['selection']:.1f}", f"{trial['test']:.1f}",
         f"{trial['seconds']:.0f}" + ("" if trial["whole"] else ", cut")]
        for i, run in enumerate(searches, 1)
        for j, trial in enumerate(run["trials"], 1)
    ]  # fmt: skip
    text = (
        "A search has the CPU time of the tuned run with the same seed: it trains one draw after "
        "another, and what the last one has reached when the time is up counts (cut). The best "
        f"of all {len(rows)} trials, in the time of {len(searches)} tuned runs, has the test "
        f"perplexity {headline['search_all_seeds_test_perplexity']:.1f}."
    )
    headings = ["search, trial", " / ".join(rates), " / ".join(_PENALTIES), "selection", "test",
                "seconds"]  # fmt: skip
    return _html.section("Random search", text, _html.table(headings, rows))


def _text(text: dict[str, Any]) -> str:
    rows = [
        [role, f"{text['tokens'][role]:,}", f"{100 * text['unknown'][role]:.1f} %"]
        for role in text["tokens"]
    ]
    words = (
        f"{text['name']}, by {text['unit']}, {text['vocabulary']:,} different ones. {text['how']} "
        "Each part is used from its beginning. The vocabulary is that of the training part, and "
        "what is not in it counts as <unk>, so that perplexities of other vocabularies do not "
        "compare."
    )
    return _html.section("The text", words, _html.table(["part", "tokens", "<unk>"], rows))
