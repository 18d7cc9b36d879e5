"""Figures and tables of `overfit`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes

from bestresponse.apps import _figures, _html

_ROLES = {"train": _figures.GREY, "validation": _figures.BLUE, "test": _figures.RED}
_COLUMNS = 3  # panels side by side


@dataclass
class Model:
    """What was measured of a network.

    Attributes:
        name: as on the command line.
        runs: of each seed, what `overfit` returns.
        cost: what `cost` returns.
    """

    name: str
    runs: list[dict[str, Any]]
    cost: dict[str, Any] = field(default_factory=dict)

    def mean(self, figure: str) -> float:
        """Over the seeds."""
        return statistics.mean(run[figure] for run in self.runs)

    def percent(self, figure: str, of: Callable[[dict[str, Any]], Any] = dict) -> str:
        """Mean and deviation over the seeds, of `of(run)`."""
        values = [100 * of(run)[figure] for run in self.runs]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.1f}{spread}"


def accuracies(models: Sequence[Model], images: int, data: str) -> str:
    """Accuracy along training steps, and at its end."""

    def draw(axes: Axes, model: Model) -> None:
        for role, color in _ROLES.items():
            for i, run in enumerate(model.runs):
                points = run["curve"]
                axes.plot(
                    [point["step"] for point in points],
                    [100 * point[role] for point in points],
                    color=color, linewidth=1.4, label=role if i == 0 else None,
                )  # fmt: skip
        _figures.log_counts(axes)
        axes.set_ylim(0, 103)
        _figures.finish(axes, model.name, "training steps", "accuracy, %")

    headings = (
        "Model", "Decays", "Training, %", "Validation, %", "published (both)", "Test, %",
        "Validation before tuning", "Test before tuning", "Steps",
    )  # fmt: skip
    cells = [
        [
            model.name,
            f"{model.runs[0]['hyperparameters']:,}",
            model.percent("train"),
            model.percent("validation"),
            "100",
            model.percent("test"),
            model.percent("validation", _before),
            model.percent("test", _before),
            " / ".join(f"{run['step']:,}" for run in model.runs),
        ]
        for model in models
    ]
    text = (
        f"{images} training and {images} validation images of {data}, drawn without replacement, "
        "and test images that choose nothing; accuracies in eval mode. A line for each seed, from "
        "the first hyperparameter step on; before it, all weights have the same decay. Means and "
        "deviations over the seeds. Published: Lorraine, Xu, Vicol, Grosse, Duvenaud (2019) report "
        "100 % training and validation accuracy in all their examples, and a test accuracy that is "
        "“significantly lower”, without a number."
    )
    return _html.section(
        "Accuracies", text, *_pictures(models, draw, "accuracies over training steps"),
        _html.table(headings, cells),
    )  # fmt: skip


def decays(models: Sequence[Model]) -> str:
    """Where the decays went."""

    def draw(axes: Axes, model: Model) -> None:
        for i, run in enumerate(model.runs):
            axes.stairs(
                [100 * share for share in run["decays"]["shares"]],
                run["decays"]["edges"],
                color=_figures.BLUE, fill=i == 0, alpha=0.35 if i == 0 else 1.0,
            )  # fmt: skip
        _figures.finish(
            axes, model.name, "decimal logarithm of the decay", "% of the weights", legend=False
        )

    text = (
        "The decays at the end, filled for the first seed. Large ones hold their weight at zero, "
        "small ones let it go."
    )
    return _html.section("Decays", text, *_pictures(models, draw, "histograms of decays"))


def costs(models: Sequence[Model], interval: int) -> str:
    """Time and memory beside plain training."""
    headings = (
        "Model", "Time ×", "plain, s", "tuned, s", "Memory ×", "plain, MB", "tuned, MB",
    )  # fmt: skip
    cells = [
        [
            model.name,
            f"{model.cost['time']:.2f}",
            *(f"{seconds:.3g}" for seconds in model.cost["seconds"]),
            "–" if model.cost["memory"] is None else f"{model.cost['memory']:.2f}",
            *("–" if size is None else f"{size / 1e6:.1f}" for size in model.cost["bytes"]),
        ]
        for model in models
    ]
    text = (
        f"Process CPU time on one thread of {interval} training steps and a hyperparameter step, "
        "beside as many training steps with one fixed decay, in turns; medians. Peak memory is "
        "that of the resident pages of a process that does nothing else, from before the network "
        "is made, with the optimizers; where it is a few pages only, it is not compared."
    )
    return _html.section("Cost", text, _html.table(headings, cells))


def _before(run: dict[str, Any]) -> dict[str, Any]:
    before: dict[str, Any] = run["before"]
    return before


def _pictures(
    models: Sequence[Model], draw: Callable[[Axes, Model], None], description: str
) -> list[str]:
    """A panel for each model."""
    pictures = []
    for start in range(0, len(models), _COLUMNS):
        row = models[start : start + _COLUMNS]
        figure, panels = _figures.panels(len(row))
        for axes, model in zip(panels, row, strict=True):
            draw(axes, model)
        pictures.append(_html.picture(_figures.to_uri(figure), description))
    return pictures
