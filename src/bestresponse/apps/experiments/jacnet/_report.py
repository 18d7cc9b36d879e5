"""Figures and tables of the JacNet experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from bestresponse.apps import _figures, _html
from bestresponse.apps._figures import BLUE, GREEN, GREY, ORANGE, PINK, RED
from bestresponse.apps.experiments.jacnet._paper import GRID, Contender, Target, Trained, points

_COLORS = (BLUE, GREEN, ORANGE, RED, PINK)

Runs = Mapping[str, Sequence[Trained]]
"""All seeds of each contender, by key."""


def functions(
    runs: Runs, contenders: Sequence[Contender], target: Target, seed: int, *, inverse: bool
) -> str:
    """What the target looks like and what was learned, on one seed; and the inverses beside."""
    figure, axes = _figures.panels(2 if inverse else 1, height=3.8)
    x = GRID[:, 0].numpy()
    axes[0].plot(x, target(GRID)[:, 0].numpy(), color=GREY, linewidth=4, alpha=0.5, label="target")
    first = runs[contenders[0].key][seed]
    axes[0].plot(x, first.before.numpy(), ":", color=BLUE, label="before training")
    for contender, color in zip(contenders, _COLORS, strict=False):
        _curve(axes[0], x, runs[contender.key][seed].after.numpy(), color, contender.label)
    axes[0].axvspan(-1, 1, color=GREY, alpha=0.12, linewidth=0)
    _figures.finish(axes[0], "The functions (shaded: where the data lies)", "x", "y")
    if inverse:
        axes[1].plot(target(GRID)[:, 0].numpy(), x, color=GREY, linewidth=4, alpha=0.5,
                     label="inverse of the target")  # fmt: skip
        for contender, color in zip(contenders, _COLORS, strict=False):
            _curve(axes[1], runs[contender.key][seed].after.numpy(), x, color, contender.label)
        _figures.finish(axes[1], "Their inverses: what turns back is none", "y", "x")
    text = "The seed is chosen before anything is seen: the first one."
    picture = _html.picture(_figures.to_uri(figure), "target and learned functions")
    return _html.section("What is learned", text, picture)


def _curve(axes: Axes, x: np.ndarray, y: np.ndarray, color: str, label: str) -> None:
    axes.plot(x, y, color=color, linewidth=1.6, label=label)


def risks(runs: Runs, contenders: Sequence[Contender], annealed: str) -> str:
    """Training risk over the iterations, and the schedule of the tolerance."""
    figure, (left, right) = _figures.panels(2, height=3.4)
    for contender, color in zip(contenders, _COLORS, strict=False):
        every = np.array([one.risks for one in runs[contender.key]])
        steps = np.arange(1, every.shape[1] + 1)
        left.semilogy(steps, np.median(every, axis=0), color=color, label=contender.label)
        left.fill_between(steps, *np.quantile(every, [0.1, 0.9], axis=0), color=color, alpha=0.12,
                          linewidth=0)  # fmt: skip
    _figures.finish(left, "Training risk (median, 10 to 90 %)", "iteration", "mean |error|")
    for one in runs[annealed]:
        right.semilogy(one.tolerances, color=GREY, alpha=0.35, linewidth=0.8)
    schedule = np.median([one.tolerances for one in runs[annealed]], axis=0)
    right.semilogy(schedule, color=BLUE, label="tolerance (median)")
    risk = np.median([one.risks for one in runs[annealed]], axis=0)
    right.semilogy(risk, color=ORANGE, label="training risk (median)")
    _figures.finish(right, "The tolerance is halved when the risk is below it", "iteration", "")
    nodes = sorted({n for one in runs[annealed] for n in one.nodes})
    text = (
        f"The adaptive rule took {' or '.join(map(str, nodes))} evaluations a sample: on a known "
        "path, in one dimension, the first 15 nodes are already more accurate than any tolerance "
        "of the schedule asks for, so that annealing saves nothing here."
        if nodes == [15]
        else f"The adaptive rule took between {nodes[0]} and {nodes[-1]} evaluations a sample."
    )
    picture = _html.picture(_figures.to_uri(figure), "risk and tolerance over iterations")
    return _html.section("Training", text, picture)


def failures(runs: Runs, contender: Contender, target: Target, *, worst: int = 4) -> str:
    """The seeds that went wrong most, with their five points."""
    order = np.argsort([-one.test_risk for one in runs[contender.key]])[:worst]
    figure, axes = _figures.panels(worst, height=2.6)
    x = GRID[:, 0].numpy()
    for each, seed in zip(axes, order, strict=True):
        one = runs[contender.key][int(seed)]
        train = points(int(seed))[0]
        each.plot(x, target(GRID)[:, 0].numpy(), color=GREY, linewidth=3, alpha=0.5)
        each.plot(x, one.after.numpy(), color=BLUE)
        each.plot(train[:, 0].numpy(), target(train)[:, 0].numpy(), "o", color=RED, markersize=4)
        _figures.finish(each, f"seed {seed}: {one.test_risk:.3g}", "x", "", legend=False)
    text = (
        f"{contender.label}, the {worst} of {len(runs[contender.key])} seeds with the highest test "
        "risk. Five points need not determine a function, and the median hides these."
    )
    picture = _html.picture(_figures.to_uri(figure), "the worst seeds")
    return _html.section("Where it fails", text, picture)


def table(rows: Sequence[Sequence[str]], headings: Sequence[str], text: str) -> str:
    """The figures of all contenders."""
    return _html.section("The numbers", text, _html.table(headings, rows))


def quantiles(values: Sequence[float]) -> str:
    """The median, and what 10 and 90 % are below."""
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return f"{middle:.4f} [{low:.3f}, {high:.3f}]"


def numbers(runs: Runs) -> dict[str, Any]:
    """What is behind the pictures."""
    return {
        key: {
            name: [getattr(one, name) for one in some]
            for name in ("train_risk", "test_risk", "risks", "tolerances")
        }
        for key, some in runs.items()
    }
