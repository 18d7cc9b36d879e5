"""Figures as inline images."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Okabe and Ito's colours, which people with colour blindness can tell apart
BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#8a97a5",
)
COLORS = (BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY)
_DOTS_PER_INCH = 130


def to_uri(figure: Figure) -> str:
    """A figure as a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def panels(count: int, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """Axes side by side over the page's width."""
    figure = Figure(figsize=(9.4, height), layout="constrained")
    axes = [figure.add_subplot(1, count, i + 1) for i in range(count)]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(alpha=0.25, linewidth=0.6)
        each.tick_params(labelsize=8)
    return figure, axes


def finish(axes: Axes, title: str, x: str, y: str, *, legend: bool = True) -> None:
    """Words on a panel."""
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    if legend:
        axes.legend(fontsize=8, frameon=False)


def log_counts(axes: Axes) -> None:
    """A logarithmic x axis of counts: 1, 2, 5, 10, … in plain numbers, few enough to read."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def band(axes: Axes, x: Sequence[float], levels: Sequence[Sequence[float]], color: str) -> None:
    """Five quantiles over time: two bands and the median."""
    low, lower, middle, upper, high = np.asarray(levels, dtype=float).T
    axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0, label="5 to 95 %")
    axes.fill_between(x, lower, upper, color=color, alpha=0.35, linewidth=0, label="25 to 75 %")
    axes.plot(x, middle, color=color, linewidth=1.8, label="median")


def histogram(axes: Axes, groups: Mapping[str, np.ndarray], colors: Sequence[str]) -> None:
    """Overlaid histograms on common bins."""
    everything = np.concatenate(list(groups.values()))
    low, high = float(everything.min()), float(everything.max())
    if low == high:
        low, high = low - 0.5 * abs(low) - 1e-12, high + 0.5 * abs(high) + 1e-12
    bins = np.linspace(low, high, 41)
    for (name, values), color in zip(groups.items(), colors, strict=False):
        axes.hist(values, bins=list(bins), color=color, alpha=0.6, label=name)


def gallery(images: np.ndarray, captions: Sequence[str], columns: int = 12) -> Figure:
    """Images (n, H, W) or (n, H, W, 3) in [0, 1], each with a caption."""
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(9.4, 1.12 * rows), layout="constrained")
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(caption, fontsize=6.5, pad=2, parse_math=False)
        axes.set_axis_off()
    return figure
