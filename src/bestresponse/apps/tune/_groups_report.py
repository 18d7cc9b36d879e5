"""A group of hyperparameters in the report: over time, and at the end."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from bestresponse.apps import _figures, _html
from bestresponse.apps._figures import BLUE, GREY, RED
from bestresponse.apps.tune._groups import EXAMPLE_GROUPS, Tuned, Values
from bestresponse.apps.tune._rows import Data

Lines = list[dict[str, Any]]


def over_time(name: str, lines: Lines, hyper: Tuned, data: Data) -> str:
    """A section: the group by its recorded `lines`, and as it is now."""
    values = hyper.values()[name]
    figure, (left, right) = _figures.panels(2)
    steps, levels = [line["step"] for line in lines], [line["levels"] for line in lines]
    if values.names:
        for each, color, heights in zip(
            values.names, cycle(_figures.COLORS), zip(*levels, strict=True), strict=False
        ):
            left.plot(steps, heights, color=color, label=each)
        _reach(left, lines)
        _bars(right, values)
    else:
        _figures.band(left, steps, levels, BLUE)
        groups, colors, unit = _distribution(name, values, data)
        _figures.histogram(right, groups, colors)
        _figures.finish(right, "At the end", unit, "count", legend=len(groups) > 1)
    _figures.finish(left, "Over time", "training step", values.unit)
    if values.logarithmic:
        left.set_yscale("log")
    text = f"{_counted(hyper.count(name), 'hyperparameter')}, tuned while the model was trained."
    if values.reach is not None and values.names:
        text += " Shaded, and as lines on the bars: one deviation σ of the draws to either side."
    heading = name.replace("-", " ").capitalize()
    return _html.section(heading, text, _html.picture(_figures.to_uri(figure), f"{name} over time"))


def _reach(axes: Axes, lines: Lines) -> None:
    """One deviation of the draws to either side of each curve, if there are draws."""
    if "reach" not in lines[0]:
        return
    low, high = (np.array([line["reach"][end] for line in lines]).T for end in (0, 1))
    for color, below, above in zip(cycle(_figures.COLORS), low, high, strict=False):
        axes.fill_between(
            [line["step"] for line in lines], below, above, color=color, alpha=0.12, lw=0
        )


def _bars(axes: Axes, values: Values) -> None:
    """A bar with its number for each value, the first one on top."""
    found = values.values.cpu()
    reach = None
    if values.reach is not None:
        reach = (values.reach.cpu() - found).abs().numpy()
    bars = axes.barh(values.names, found.numpy(), height=0.6, color=BLUE, alpha=0.85, xerr=reach,
                     ecolor=GREY)  # fmt: skip
    axes.bar_label(bars, fmt="%.3g", padding=3, fontsize=8)
    axes.margins(x=0.15)
    if values.logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())  # they would run into each other
    else:
        axes.locator_params(axis="x", nbins=6)
    room = max(0.0, 3 - len(values.names)) / 2  # a single bar does not fill the panel
    axes.set_ylim(len(values.names) - 0.5 + room, -0.5 - room)
    _figures.finish(axes, "At the end", values.unit, "", legend=False)


def _distribution(
    name: str, values: Values, data: Data
) -> tuple[dict[str, np.ndarray], list[str], str]:
    """Final values as histograms: groups of them, their colours, the unit."""
    final = values.values.cpu().numpy()
    if values.logarithmic:
        return {"all": np.log10(final)}, [BLUE], f"log10 of the {values.unit}"
    if name in EXAMPLE_GROUPS and bool(data.flipped.any()):
        wrong = data.flipped.numpy()
        groups = {"right label": final[~wrong], "flipped label": final[wrong]}
        return groups, [BLUE, RED], values.unit
    return {"all": final}, [BLUE], values.unit


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
