"""Figures and tables of `cleaning`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from bestresponse.apps import _figures, _html
from bestresponse.apps.experiments.cleaning._contenders import CONTENDERS
from bestresponse.apps.experiments.cleaning._memory import PLAIN

Spread = tuple[float, float]
"""Mean and standard deviation over seeds."""

_FLOOR = 1e-6  # of the limit: nearer than float32 tells
_PUBLISHED = {
    (0.5, "exact_lbfgs"): 0.7478,
    (0.5, "single_loop"): 0.754,
    (0.9, "exact_lbfgs"): 1.0514,
    (0.9, "exact_adam"): 1.0485,
    (0.9, "single_loop"): 1.080,
}
"""Outer losses on the benchmark's own draw."""

_SIMPLE = {
    "none": "no cleaning",
    "validation_only": "validation set alone",
    "both": "training and validation set",
    "filtered": "filtered (validation model)",
    "clean": "clean part only (knows the truth)",
}


@dataclass(frozen=True)
class Standing:
    """One contender at one noise.

    Attributes:
        loss: the outer loss at the end.
        near: mean seconds to 2 % above the lowest of all; None if some seed never gets there.
        there: mean seconds to a thousandth above it.
        steps: mean number of outer steps.
        test_error: share of the test rows.
        auroc: of finding the wrong labels.
        cost: `there` in times of plain training to the end.
        memory: peak in bytes above the data, at the first seed; None where the system is silent.
    """

    loss: Spread
    near: float | None
    there: float | None
    steps: float
    test_error: Spread
    auroc: Spread
    cost: float | None
    memory: int | None


@dataclass(frozen=True)
class Level:
    """All seeds of one noise."""

    noise: float
    cases: Sequence[Mapping[str, Any]]
    memory: Mapping[str, int | None]
    contenders: Mapping[str, Standing]

    @classmethod
    def of(cls, cases: Sequence[Mapping[str, Any]], memory: Mapping[str, int | None]) -> Level:
        """Means and deviations."""
        standings = {c.key: _standing(c.key, cases, memory[c.key]) for c in CONTENDERS}
        return cls(cases[0]["noise"], cases, memory, standings)


def spread(values: Iterable[float]) -> Spread:
    """Mean and deviation; of one value, 0."""
    values = list(values)
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _standing(key: str, cases: Sequence[Mapping[str, Any]], memory: int | None) -> Standing:
    curves = [case["curves"][key] for case in cases]
    plain = statistics.fmean(case["plain_seconds"] for case in cases)
    there = _mean(curve["there"] for curve in curves)
    return Standing(
        loss=spread(curve["losses"][-1] for curve in curves),
        near=_mean(curve["near"] for curve in curves),
        there=there,
        steps=statistics.fmean(curve["steps"] for curve in curves),
        test_error=spread(curve["test_error"] for curve in curves),
        auroc=spread(curve["auroc"] for curve in curves),
        cost=None if there is None else there / plain,
        memory=memory,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = list(values)
    numbers = [value for value in known if value is not None]
    return statistics.fmean(numbers) if len(numbers) == len(known) else None


def sections(levels: Sequence[Level], *, published: bool) -> tuple[str, ...]:
    """The report's body."""
    return _race(levels), _standings(levels, published), _simple(levels)


def _race(levels: Sequence[Level]) -> str:
    figure, panels = _figures.panels(len(levels), height=3.8)
    for axes, level in zip(panels, levels, strict=True):
        _draw(axes, level)
        _figures.finish(axes, f"{level.noise:.0%} random labels", "CPU seconds", "above the limit",
                        legend=axes is panels[0])  # fmt: skip
    text = (
        "The outer loss at the inner optimum, solved anew outside of the clock, above the lowest "
        "that any contender reached; a line for each seed. All start with weights ½, take turns, "
        "and use one thread. Below the dotted lines, 2 % and a thousandth."
    )
    picture = _html.picture(_figures.to_uri(figure), "outer loss above the limit over time")
    return _html.section("Outer loss over time", text, picture)


def _draw(axes: Axes, level: Level) -> None:
    for each in CONTENDERS:
        for number, case in enumerate(level.cases):
            curve, limit = case["curves"][each.key], case["limit"]
            above = [max(loss / limit - 1, _FLOOR) for loss in curve["losses"]]
            axes.loglog(curve["seconds"], above, color=each.color, linewidth=1.4, alpha=0.8,
                        label=None if number else each.label)  # fmt: skip
    axes.set_ylim(bottom=_FLOOR / 50)  # room for the legend
    for share in (0.02, 0.001):
        axes.axhline(share, color=_figures.GREY, linestyle=":", linewidth=1)


def _standings(levels: Sequence[Level], published: bool) -> str:
    headings = ["", "outer loss", *(["published"] * published), "s to 2 %", "s to 0.1 %",
                "in plain trainings", "peak memory", "steps", "test error", "AUROC"]  # fmt: skip
    rows = []
    for level in levels:
        for each in CONTENDERS:
            found = level.contenders[each.key]
            known = _PUBLISHED.get((level.noise, each.key))
            rows.append(
                [
                    f"{level.noise:.0%}: {each.label}",
                    _pair(found.loss, ".4f"),
                    *(["–" if known is None else f"{known:g}"] * published),
                    _number(found.near, ".2f"),
                    _number(found.there, ".2f"),
                    _number(found.cost, ".1f", " ×"),
                    _number(found.memory and found.memory / 1e6, ".0f", " MB"),
                    f"{found.steps:.0f}",
                    _pair(found.test_error, ".2%"),
                    f"{found.auroc[0]:.4f}",
                ]
            )
    text = (
        "Means and deviations over the seeds. Seconds are those until the outer loss is 2 % and a "
        "thousandth above the lowest of all; – where some seed never gets there. Plain training "
        "solves the inner problem once, with all weights 1; the seconds to a thousandth are also "
        f"given in units of its own. Peak memory is what comes on top of the data; {_plain(levels)}"
        "AUROC: wrong labels found by low weights; equal ones, such as many zeros, do not rank "
        "each other."
    )
    if published:
        text += " Published figures are of one draw, which is that of seed 32."
    return _html.section("Contenders", text, _html.table(headings, rows))


def _plain(levels: Sequence[Level]) -> str:
    """The memory of plain training as a part of a sentence."""
    plain = levels[0].memory[PLAIN]
    return "" if plain is None else f"plain training takes {plain / 1e6:.0f} MB. "


def _simple(levels: Sequence[Level]) -> str:
    headings = ["test error (validation loss)", *(f"{level.noise:.0%}" for level in levels)]
    rows = [
        [label, *(_simple_cell([case["rows"][key] for case in level.cases]) for level in levels)]
        for key, label in _SIMPLE.items()
    ]
    for each in CONTENDERS:
        found = [level.contenders[each.key] for level in levels]
        cells = [f"{_pair(f.test_error, '.2%')} ({f.loss[0]:.4f})" for f in found]
        rows.append([f"tuned: {each.label}", *cells])
    text = (
        "What a sensible person would do instead, with the same model, decay and data, each "
        "trained to the end on the mean loss of its rows. The validation loss is left out where "
        "its rows were trained on. That mean counts more beside the decay than one over all "
        "training rows of which most have weight zero, so that rows can go below the limit that "
        "weights up to 1 have."
    )
    return _html.section("Instead", text, _html.table(headings, rows))


def _simple_cell(cases: Sequence[Mapping[str, Any]]) -> str:
    error = _pair(spread(case["test_error"] for case in cases), ".2%")
    if cases[0]["loss"] is None:
        return error
    return f"{error} ({statistics.fmean(case['loss'] for case in cases):.4f})"


def _pair(value: Spread, form: str) -> str:
    return f"{value[0]:{form}} ± {value[1]:{form}}"


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"
