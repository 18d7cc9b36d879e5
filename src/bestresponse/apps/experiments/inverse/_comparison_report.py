"""Figures and tables of `inverse-comparison`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bestresponse.apps import _figures, _html
from bestresponse.apps.experiments.inverse._contenders import RECOMMENDED, Contender
from bestresponse.apps.experiments.inverse._race import Lap
from bestresponse.apps.experiments.inverse._work import Reading


@dataclass(frozen=True)
class Track:
    """A contender's single calls.

    Attributes:
        contender: whose.
        readings: at each seed, with more and more steps.
        reached: at each seed, the first reading of each cosine that was looked for.
    """

    contender: Contender
    readings: list[list[Reading]]
    reached: list[list[Reading | None]]

    def work(self, level: int) -> float | None:
        """The mean work for a cosine; None if it was missed at a seed."""
        found = [seed[level] for seed in self.reached]
        return _mean([reading.work if reading else None for reading in found])

    def mean(self, of: Callable[[Reading], float]) -> list[float]:
        """Means over the seeds, for each number of steps."""
        return [statistics.mean(map(of, seeds)) for seeds in zip(*self.readings, strict=True)]


@dataclass(frozen=True)
class Walked:
    """A contender along outer steps: at each seed, steps and mean work; None if it fell short."""

    contender: Contender
    reached: list[tuple[int, float] | None]

    @property
    def work(self) -> float | None:
        """The mean work a call."""
        return _mean([found[1] if found else None for found in self.reached])

    @property
    def steps(self) -> float | None:
        """The mean number of steps a call."""
        return _mean([found[0] if found else None for found in self.reached])


def accuracy(tracks: Sequence[Track], levels: Sequence[float], rows: int) -> str:
    """Cosine and distance, against products and work, and what each cosine costs."""
    figure = Figure(figsize=(9.4, 6.6), layout="constrained")
    panels = [
        ("Cosine against products", "products", lambda r: r.products, lambda r: 1 - r.cosine),
        ("Cosine against work", "plain gradients", lambda r: r.work, lambda r: 1 - r.cosine),
        ("Distance against products", "products", lambda r: r.products, lambda r: r.distance),
        ("Distance against work", "plain gradients", lambda r: r.work, lambda r: r.distance),
    ]
    for i, (title, x, abscissa, ordinate) in enumerate(panels):
        axes = _tidy(figure.add_subplot(2, 2, i + 1))
        for track in tracks:
            _line(axes, track.contender, track.mean(abscissa), track.mean(ordinate))
        name = "1 − cosine" if i < 2 else "relative distance"
        _figures.finish(axes, title, x, name, legend=False)
    _legend(figure)
    headings = ["Method", *(f"Work for {level}" for level in levels), "Products for these"]
    cells = [
        [
            track.contender.label,
            *(_shown(track.work(i)) for i in range(len(levels))),
            " / ".join(_products(track, i) for i in range(len(levels))),
        ]
        for track in tracks
    ]
    text = (
        f"Logistic regression on {rows:,} examples with one decay for each weight, converged; the "
        "exact hypergradient is solved for in float64 by explicit formulas. Work is the process "
        "CPU time of a whole call, in plain training gradients timed beside it, on one thread. "
        "Means over the seeds."
    )
    strong = _place([track.contender for track in tracks])
    return _html.section(
        "Accuracy and work", text, _picture(figure, "accuracy against products and work"),
        _html.table(headings, cells, strong),
    )  # fmt: skip


def along(walks: Sequence[Walked], level: float, steps: int) -> str:
    """What a call costs that takes on what the last one left."""
    cells = [
        [walk.contender.label, _shown(walk.work), _shown(walk.steps)]
        for walk in walks
    ]  # fmt: skip
    headings = ["Method", f"Work a call for {level}", "Steps a call"]
    text = (
        f"{steps} steps of Adam(0.05) on λ by the exact hypergradient, the weights re-fitted after "
        f"each, after one call that starts from nothing: the smallest fixed number of steps with "
        f"which every call has a cosine of at least {level}."
    )
    strong = _place([walk.contender for walk in walks])
    return _html.section("Along outer steps", text, _html.table(headings, cells, strong))


def few_weights(found: Sequence[tuple[Contender, list[Reading]]], name: str) -> list[str]:
    """A regression with its answer in closed form."""
    if not found:
        return []
    figure, (left, right) = _figures.panels(2)
    for contender, readings in found:
        steps = [reading.steps for reading in readings]
        for axes, values in (
            (left, [1 - reading.cosine for reading in readings]),
            (right, [reading.distance for reading in readings]),
        ):
            _line(axes, contender, steps, values)
    _figures.finish(left, "Cosine", "steps of the solver", "1 − cosine", legend=False)
    _figures.finish(right, "Distance", "steps of the solver", "relative distance", legend=False)
    left.set_xscale("linear")
    right.set_xscale("linear")
    _legend(figure)
    text = (
        f"Linear regression on {name}, standardised, with one decay for each weight; the exact "
        "hypergradient is in closed form, all in float64. CG ends after as many steps as there "
        "are weights; with one output the Gauss-Newton matrix is a Kronecker product, so KFAC "
        "only errs in the decays."
    )
    return [_html.section("A dozen weights", text, _picture(figure, "accuracy on the table"))]


def race(laps: Sequence[Lap], rows: int) -> str:
    """Validation loss over time, and the test set at the end."""
    figure, (axes,) = _figures.panels(1, height=3.8)
    for lap in laps:
        if lap.key == "grid":
            axes.step(lap.seconds, lap.losses, where="post", color=lap.color, linestyle="--",
                      marker=".", label=lap.label)  # fmt: skip
        else:
            axes.plot(lap.seconds, lap.losses, color=lap.color, label=lap.label)
    axes.set_xscale("log")
    _figures.finish(axes, "Each method drives its own steps", "CPU seconds", "validation loss")
    headings = ["Method", "Hyperparameter steps", "CPU seconds", "Validation loss", "Test loss",
                "Test accuracy"]  # fmt: skip
    cells = [
        [
            lap.label,
            f"{len(lap.losses):,}",
            f"{lap.seconds[-1] if lap.seconds else 0:.1f}",
            f"{lap.validation_loss:.4f}",
            f"{lap.test_loss:.4f}",
            f"{lap.test_accuracy:.4f}",
        ]
        for lap in laps
    ]
    strong = [lap.key for lap in laps].index(RECOMMENDED.key)
    text = (
        f"{rows:,} training examples; ten training steps, then one step on every weight's decay, "
        "from the same start. In the table the weights are fitted to the last decays. The dashed "
        "line is the simple thing to do: one decay for all weights, the best of a grid. A decay "
        "for each weight can fit the validation examples themselves; the test set tells."
    )
    return _html.section("Validation loss over time", text, _picture(figure, "validation losses"),
                         _html.table(headings, cells, strong))  # fmt: skip


def _line(axes: Axes, contender: Contender, x: Sequence[float], y: Sequence[float]) -> None:
    y = [max(value, 1e-16) for value in y]
    style = "--" if contender.dashed else "-"
    if not contender.budget:  # one point, wherever the products are none
        axes.plot([max(x[0], 1.0)], y[:1], "o", color=contender.color, label=contender.label,
                  markerfacecolor="none", markersize=6)  # fmt: skip
    else:
        width = 2.2 if contender is RECOMMENDED else 1.3
        axes.plot(x, y, style, color=contender.color, label=contender.label, linewidth=width)
    axes.set_xscale("log")
    axes.set_yscale("log")


def _tidy(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.tick_params(labelsize=8)
    return axes


def _legend(figure: Figure) -> None:
    """One for all panels."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)


def _products(track: Track, level: int) -> str:
    found = [seed[level] for seed in track.reached]
    mean = _mean([reading.products if reading else None for reading in found])
    return "–" if mean is None else f"{mean:.0f}"


def _shown(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.1f}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if len(known) == len(values) else None


def _place(contenders: Sequence[Contender]) -> int:
    return [contender.key for contender in contenders].index(RECOMMENDED.key)


def _picture(figure: Figure, description: str) -> str:
    return _html.picture(_figures.to_uri(figure), description)
