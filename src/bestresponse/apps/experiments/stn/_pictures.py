"""Pictures of self-tuned runs: where hyperparameters go, how far they are perturbed, the losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bestresponse.apps import _figures, _html

Run = Mapping[str, Any]
Groups = Mapping[str, Sequence[Run]]
"""Runs by the words for their kind; each kind has a colour."""

_PER_ROW = 4


def schedules(groups: Groups, text: str, heading: str = "The schedules") -> str:
    """A panel for each hyperparameter, a line for each run."""
    names = list(next(iter(groups.values()))[0]["values"])
    pictures = []
    for start in range(0, len(names), _PER_ROW):
        row = names[start : start + _PER_ROW]
        figure, panels = _figures.panels(len(row), height=3.0)
        for axes, name in zip(panels, row, strict=True):
            _lines(axes, groups, lambda run, name=name: run["values"][name], first=0)
            _figures.finish(axes, name, "epoch", "value", legend=name == names[0])
        words = f"values over the epochs of {', '.join(row)}"
        pictures.append(_html.picture(_figures.to_uri(figure), words))
    return _html.section(heading, text, *pictures)


def spread(groups: Groups) -> str:
    """σ, and the size of the response, over the epochs."""
    figure, (sigma, response) = _figures.panels(2)
    _lines(sigma, groups, lambda run: _mean(run["sigma"]), first=0)
    _lines(response, groups, lambda run: _mean(run["response"]), first=0)
    _figures.finish(sigma, "Deviation of the perturbation", "epoch", "mean σ")
    _figures.finish(response, "Size of the response", "epoch", "‖σV ⊙ W'‖ / ‖W‖", legend=False)
    text = (
        "Left the learned deviation σ of the perturbations, in the unconstrained space, the mean "
        "over the hyperparameters. Right how much one σ of each hyperparameter moves the weights, "
        "the mean over the layers: near zero a validation step follows noise."
    )
    picture = _html.picture(_figures.to_uri(figure), "deviations and responses over the epochs")
    return _html.section("Perturbation and response", text, picture)


def curves(groups: Groups, what: str, text: str) -> str:
    """Validation losses over the epochs; a dot where each is lowest."""
    figure, (axes,) = _figures.panels(1, height=3.8)
    _lines(axes, groups, lambda run: run["validation"], first=1, dots=True)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.tick_params(which="minor", labelsize=8)
    _figures.finish(axes, f"validation {what}", "epoch", what)
    picture = _html.picture(_figures.to_uri(figure), f"validation {what} over the epochs")
    return _html.section("Validation curves", text, picture)


def beside_grid(
    values: Sequence[float],
    losses: Mapping[str, Sequence[float]],
    levels: Mapping[str, Mapping[str, float]],
    what: str,
    text: str,
) -> str:
    """A panel for each part: its losses over fixed values, those of others as level lines."""
    figure, panels = _figures.panels(len(losses))
    for axes, (part, own) in zip(panels, losses.items(), strict=True):
        axes.plot(values, own, "o-", color=_figures.GREY, label="fixed")
        for (words, level), color in zip(levels.items(), _figures.COLORS, strict=False):
            axes.axhline(level[part], color=color, linewidth=1.4, label=words)
        _figures.finish(axes, f"{part} {what}", "fixed value", what, legend=axes is panels[0])
    picture = _html.picture(_figures.to_uri(figure), f"{what} over fixed values")
    return _html.section("Beside fixed values", text, picture)


def _lines(axes: Any, groups: Groups, of: Any, *, first: int, dots: bool = False) -> None:
    for (words, runs), color in zip(groups.items(), _figures.COLORS, strict=False):
        for i, run in enumerate(runs):
            own = of(run)
            label = words if i == 0 else None
            epochs = range(first, first + len(own))
            axes.plot(epochs, own, color=color, linewidth=1.1, alpha=0.8, label=label)
            if dots:
                best = run["best"]
                axes.plot(first + best, own[best], "o", color=color, markersize=4)


def _mean(by_name: Mapping[str, Sequence[float]]) -> list[float]:
    return [sum(each) / len(each) for each in zip(*by_name.values(), strict=True)]
