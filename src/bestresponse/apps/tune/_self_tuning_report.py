"""What the report of a self-tuning run shows: schedules, perturbations, responses, the grid."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes

from bestresponse.apps import _figures, _html
from bestresponse.apps._figures import BLUE, GREEN, GREY, ORANGE
from bestresponse.apps.tune._outcome import Outcome
from bestresponse.apps.tune._self_tuning import SelfTuner
from bestresponse.apps.tune._self_tuning_outcome import best_fixed

_DRAWN = 12  # curves in a panel
_SIGMA, _RESPONSE = "sigma:", "response:"


def self_tuning_sections(
    steps: SelfTuner, result: Outcome, metrics: list[dict[str, Any]]
) -> list[str]:
    """Sections on how a network tuned itself."""
    return [
        _found(steps),
        _perturbations(steps),
        _validation(steps, metrics),
        _grid(result),
        _layers(result.tuning["layers"], result.tuning["response_size"]),
    ]


def _found(steps: SelfTuner) -> str:
    """Every hyperparameter in the beginning and in the end."""
    first, *_, last = steps.schedule.rows
    rows = [
        [name, f"{first[name]:.3g}", f"{last[name]:.3g}", f"{last[_SIGMA + name]:.3g}"]
        for name in steps.net.hyper.values()
    ]
    text = (
        "Where each hyperparameter began and where it ended, and the deviation σ of its draws, "
        "before its range is applied. schedule.csv has them over time, for "
        "br.response.Schedule.load and br.response.Replay."
    )
    return _html.section("What was found", text, _html.table(["", "start", "end", "σ"], rows))


def _perturbations(steps: SelfTuner) -> str:
    figure, (left, right) = _figures.panels(2)
    _curves(left, steps, _SIGMA)
    _figures.finish(left, "How far draws reach: σ", "training step", "deviation")
    _curves(right, steps, _RESPONSE)
    _figures.finish(right, "How far the layers respond", "training step", "share of the weights")
    text = (
        "Left: draws with a small σ teach little of the response, with a large one a coarse one. "
        "Right: how much one σ of each hyperparameter moves the weights of a layer; near zero the "
        "validation steps follow noise."
    )
    if max(len(steps.net.hyper.values()), len(steps.net.converted)) > _DRAWN:
        text += f" The first {_DRAWN} are drawn."
    return _html.section("Perturbations and responses", text, _picture(figure, "σ and responses"))


def _validation(steps: SelfTuner, metrics: list[dict[str, Any]]) -> str:
    figure, (left, right) = _figures.panels(2)
    left.plot(*_columns(metrics, "outer_loss"), color=GREY, linewidth=0.6, label="a batch")
    at = steps.schedule.column("step")[1:]
    left.plot(at, steps.schedule.column("validation_loss"), color=GREEN, label="validation")
    left.plot(at, steps.schedule.column("train_loss"), color=BLUE, label="training")
    _figures.finish(left, "Losses", "training step", "cross-entropy")
    right.plot(*_columns(metrics, "entropy"), color=ORANGE)
    _figures.finish(right, "Entropy of the draws", "training step", "Σ log(σ√(2πe))", legend=False)
    text = (
        "Left: what validation steps made smaller, at drawn hyperparameters, and the losses "
        "without draws. Right: what the weight --entropy holds up."
    )
    return _html.section("Validation steps", text, _picture(figure, "losses and entropy"))


def _grid(result: Outcome) -> str:
    grid, tuned = result.tuning["grid"], result.headline["tuned_test_loss"]
    heading = "Fixed values beside"
    if not grid:
        return _html.section(heading, "None was trained; --grid 4 trains four.")
    figure, (left, right) = _figures.panels(2)
    names = [row["name"] for row in grid]
    ended = result.tuning["validation_loss"]
    for panel, key, level in ((left, "validation_loss", ended), (right, "test_loss", tuned)):
        panel.plot(names, [row[key] for row in grid], color=GREY, marker="o", label="fixed")
        panel.axhline(level, color=BLUE, linewidth=1.8, label="self-tuned")
        panel.tick_params(axis="x", labelrotation=30)
    _figures.finish(left, "Validation loss", "", "cross-entropy")
    _figures.finish(right, "Test loss", "", "cross-entropy")
    text = (
        "The same training at fixed values of what is named first in --tune, the others at their "
        f"start. The validation set prefers {best_fixed(result.tuning)}."
    )
    return _html.section(heading, text, _picture(figure, "losses at fixed values"))


def _layers(layers: Mapping[str, list[str]], sizes: Mapping[str, float]) -> str:
    rows = [[name or "the model", "yes", f"{sizes[name]:.3g}"] for name in sizes]
    rows += [[name, "no", "–"] for name in layers["do_not"]]
    text = "Layers with weights, and how far one σ of each hyperparameter moves them in the end."
    table = _html.table(["layer", "responds", "share of the weights"], rows)
    return _html.section("Layers", text, table)


def _curves(panel: Axes, steps: SelfTuner, prefix: str) -> None:
    """The columns of the schedule that start with `prefix`."""
    columns = [name for name in steps.schedule.columns if name.startswith(prefix)]
    at = steps.schedule.column("step")
    for name, color in zip(columns[:_DRAWN], cycle(_figures.COLORS), strict=False):
        values = steps.schedule.column(name)
        panel.plot(at[-len(values) :], values, color=color, label=name.removeprefix(prefix))
    panel.set_ylim(bottom=0)


def _columns(lines: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    return [line["step"] for line in lines], [line[key] for line in lines]


def _picture(figure: Any, description: str) -> str:
    return _html.picture(_figures.to_uri(figure), description)
