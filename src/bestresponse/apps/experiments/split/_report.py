"""Figures, tables and sentences of `split`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bestresponse.apps import _figures, _html
from bestresponse.apps.experiments.split._fit import Per

PERS: dict[Per, str] = {
    "model": "one decay",
    "tensor": "one per layer",
    "weight": "one per weight",
}
_COLORS: dict[Per, str] = {
    "model": _figures.BLUE,
    "tensor": _figures.GREEN,
    "weight": _figures.RED,
}
ENDS = {"test_error": "tuned on a part", "retrained_test_error": "trained again on all"}

_ROWS = {
    **{end: f"test, {words}" for end, words in ENDS.items()},
    "validation_error": "validation part",
}


@dataclass(frozen=True)
class Size:
    """All tunings of one number of examples."""

    size: int
    cells: Sequence[dict[str, Any]]

    def values(self, per: Per, share: float, figure: str) -> list[float]:
        """Of each seed; without those that have none."""
        found = [c[figure] for c in self.cells if (c["per"], c["share"]) == (per, share)]
        return [value for value in found if value is not None]

    def mean(self, per: Per, share: float, figure: str) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values(per, share, figure))

    def best(self, per: Per, shares: Sequence[float], figure: str) -> tuple[float, float]:
        """The share with the lowest mean, and that mean."""
        error, share = min((self.mean(per, share, figure), share) for share in shares)
        return share, error


def sections(sizes: Sequence[Size], shares: Sequence[float], data: str) -> tuple[str, ...]:
    """The report's body."""
    return _panels(sizes, shares, data), _table(sizes, shares)


def _panels(sizes: Sequence[Size], shares: Sequence[float], data: str) -> str:
    figure, panels = _figures.panels(len(sizes), height=3.8)
    for axes, size in zip(panels, sizes, strict=True):
        for per, label in PERS.items():
            for end, style in zip(ENDS, (":x", ".-"), strict=True):
                pairs = [_pair(size.values(per, share, end)) for share in shares]
                mean, deviation = ([100 * pair[i] for pair in pairs] for i in (0, 1))
                low, high = (
                    [m + sign * d for m, d in zip(mean, deviation, strict=True)] for sign in (-1, 1)
                )
                axes.fill_between(shares, low, high, color=_COLORS[per], alpha=0.1, linewidth=0)
                axes.plot(shares, mean, style, color=_COLORS[per], linewidth=1.6,
                          label=f"{label}, {ENDS[end]}")  # fmt: skip
        _figures.finish(
            axes, f"{size.size:,} examples", "share for validation", "test error, %",
            legend=axes is panels[0],
        )  # fmt: skip
    text = (
        f"{data}: means over the seeds, and a deviation to both sides. At 0 nothing is tuned: all "
        "decays are as they began."
    )
    picture = _html.picture(_figures.to_uri(figure), "test error over the share for validation")
    return _html.section("Test error", text, picture)


def _table(sizes: Sequence[Size], shares: Sequence[float]) -> str:
    headings = ["examples, decays", "error, %", *(f"{share:g}" for share in shares)]
    rows = [
        [f"{size.size:,}, {PERS[per]}", words, *(_percent(size, per, s, name) for s in shares)]
        for size in sizes
        for per in PERS
        for name, words in _ROWS.items()
    ]
    text = (
        "A column for each share; means and deviations over the seeds. Where the validation error "
        "falls far below the test error, the decays have learned the validation examples."
    )
    return _html.section("Figures", text, _html.table(headings, rows))


def _percent(size: Size, per: Per, share: float, figure: str) -> str:
    values = size.values(per, share, figure)
    if not values:
        return "–"
    mean, deviation = _pair(values)
    return f"{100 * mean:.1f} ± {100 * deviation:.1f}"


def _pair(values: Sequence[float]) -> tuple[float, float]:
    """Mean and deviation; of one value, 0."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def headline(sizes: Sequence[Size], shares: Sequence[float]) -> dict[str, float | None]:
    """The best share of each kind of decay, and its test error, after training on all again."""
    figures: dict[str, float | None] = {}
    for size in sizes:
        for per, label in PERS.items():
            share, error = size.best(per, shares, "retrained_test_error")
            name = f"{label.replace(' ', '_')}_of_{size.size}"
            figures |= {f"best_share_{name}": share, f"test_error_{name}": error}
    return figures


def verdict(sizes: Sequence[Size], shares: Sequence[float]) -> str:
    """The sentence: how much to give, and what a decay for each weight does with it."""
    parts = []
    for size in sizes:
        found = []
        for per, label in PERS.items():
            share, _ = size.best(per, shares, "retrained_test_error")
            error = _percent(size, per, share, "retrained_test_error")
            found.append(f"{label} {share:g} ({error} %)")
        parts.append(f"of {size.size:,} examples, with {', with '.join(found)}")
    return (
        "The share for validation with the lowest mean test error after training on all again is, "
        + "; ".join(parts)
        + "."
    )
