"""The report of a `tune` run: what happened, in pictures."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from bestresponse.apps import _figures, _html, _options
from bestresponse.apps._figures import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY
from bestresponse.apps._run import RunFolder
from bestresponse.apps.tune._augmentation_report import changed_images
from bestresponse.apps.tune._groups import EXAMPLE_GROUPS, Tuned
from bestresponse.apps.tune._groups_report import over_time
from bestresponse.apps.tune._outcome import Outcome, notes
from bestresponse.apps.tune._rows import (
    BOTH,
    FILTERED,
    REFITTED,
    TUNED,
    UNTUNED,
    VALIDATION_ONLY,
    Data,
    label,
)
from bestresponse.apps.tune._self_tuning import SelfTuner
from bestresponse.apps.tune._self_tuning_report import self_tuning_sections
from bestresponse.apps.tune._settings import TuneSettings
from bestresponse.apps.tune._tuning import HyperSteps

Lines = list[dict[str, Any]]

_COLORS = {UNTUNED: GREY, VALIDATION_ONLY: GREEN, BOTH: PINK, FILTERED: ORANGE, TUNED: BLUE,
           REFITTED: SKY}  # fmt: skip
_SHOWN = 36


def write_report(
    folder: RunFolder,
    settings: TuneSettings,
    result: Outcome,
    hyper: Tuned,
    data: Data,
    companion: HyperSteps,
) -> None:
    """`report.html` in the run folder."""
    lines = folder.metrics()
    rows, values = _by(lines, "row", "row"), _by(lines, "values", "name")
    steps = [line for line in lines if line["kind"] == "hyper"]
    sections = [
        _html.verdict(result.verdict),
        _table(result),
        _curves(rows),
        *(over_time(name, values[name], hyper, data) for name in values),
        *changed_images(hyper, data.train),
        *(
            self_tuning_sections(companion, result, steps)
            if isinstance(companion, SelfTuner)
            else _solver(steps)
        ),
        *_least_trusted(settings, hyper, data),
        _html.settings(_options.to_json(settings)),
    ]
    dataset = data.train.split.dataset
    flipped = f", {settings.corrupt:.0%} of the training labels flipped" if settings.corrupt else ""
    subtitle = (
        f"{dataset.source} {len(data.train):,} training, {len(data.validation):,} validation and "
        f"{len(data.test):,} test examples{flipped}; model {settings.model}, {settings.steps:,} "
        f"steps, seed {settings.seed}."
    )
    folder.write_text("report.html", _html.page(f"Tuning on {dataset.name}", subtitle, sections))


def _by(lines: Lines, kind: str, key: str) -> dict[str, Lines]:
    """Lines of a kind, grouped."""
    groups: dict[str, Lines] = defaultdict(list)
    for line in lines:
        if line["kind"] == kind:
            groups[line[key]].append(line)
    return groups


def _table(result: Outcome) -> str:
    headings = ["Trained on", "Examples", "Test accuracy", "Test loss", "Seconds"]
    cells = [
        [
            label(row.name),
            f"{row.examples:,}",
            f"{row.test_accuracy:.4f}",
            f"{row.test_loss:.4f}",
            f"{row.seconds:.1f}",
        ]
        for row in result.rows
    ]
    strong = len(cells) - 1
    text = (
        "Every row: the same model, data and number of steps. The test set chose nothing that was "
        "trained; only the sentence above looks for the best simple row in it."
    )
    table = _html.table(headings, cells, strong)
    return _html.section("What it came to", text, table, _html.sentences(notes(result)))


def _curves(rows: dict[str, Lines]) -> str:
    figure, axes = _figures.panels(3)
    for name, color in _COLORS.items():
        if name in rows:
            axes[0].plot(
                _column(rows[name], "step"),
                _column(rows[name], "test_accuracy"),
                color=color,
                linewidth=2.2 if name == TUNED else 1.2,
                label=name.replace("_", " "),
            )
    _figures.finish(axes[0], "Test accuracy", "training step", "accuracy")
    top = _top_loss(rows)
    for panel, name in zip(axes[1:], (UNTUNED, TUNED), strict=True):
        for role, color in (("train", GREY), ("validation", GREEN), ("test", BLUE)):
            values = _column(rows[name], f"{role}_loss")
            panel.plot(_column(rows[name], "step"), values, color=color, label=role)
        panel.set_ylim(0, top)
        _figures.finish(panel, f"Loss, {name}", "training step", "cross-entropy")
    text = (
        "Left: all rows. Right: untuned beside tuned; where training labels are wrong, a training "
        "loss that stays high is a good sign."
    )
    return _html.section("Curves", text, _picture(figure, "test accuracy and losses over steps"))


def _top_loss(rows: dict[str, Lines]) -> float:
    """The largest loss of the two panels, so that they share a scale."""
    roles = ("train_loss", "validation_loss", "test_loss")
    return 1.05 * max(max(_column(rows[name], role)) for name in (UNTUNED, TUNED) for role in roles)


def _solver(steps: Lines) -> list[str]:
    if not steps:
        return [_html.section("Hypergradients", "No hyperparameter step was taken.")]
    figure, (left, right) = _figures.panels(2)
    at = _column(steps, "step")
    for key, color in (("indirect_norm", BLUE), ("direct_norm", ORANGE)):
        if any(line[key] > 0 for line in steps):
            left.plot(at, _column(steps, key), color=color, label=key.replace("_norm", ""))
    _figures.finish(left, "Length of the hypergradient", "training step", "norm")
    left.set_yscale("log")
    known = [line for line in steps if line["relative_residual"] is not None]
    if known:
        right.plot(_column(known, "step"), _column(known, "relative_residual"), color=RED,
                   label="relative residual")  # fmt: skip
    for key, color in (("inner_gradient_norm", GREY), ("outer_gradient_norm", SKY)):
        right.plot(at, _column(steps, key), color=color, label=key.replace("_", " "))
    right.set_yscale("log")
    _figures.finish(right, "How far to trust it", "training step", "")
    text = (
        "Right: the residual of the linear solve, and the inner gradient beside the outer one; the "
        "implicit function theorem is exact where the inner gradient and the residual are zero."
        if known
        else "Right: the inner gradient beside the outer one. This method solves no linear system, "
        "so there is no residual: it is the cheapest hypergradient, not the most accurate one."
    )
    return [_html.section("Hypergradients", text, _picture(figure, "hypergradient norms"))]


def _least_trusted(settings: TuneSettings, hyper: Tuned, data: Data) -> list[str]:
    judges = [name for name in settings.groups if name in EXAMPLE_GROUPS]
    if not judges:
        return []
    weights = hyper.values()[judges[0]].values.cpu()
    lowest = weights.argsort(stable=True)[:_SHOWN]
    split = data.train.split
    given = [split.dataset.class_names[int(label)] for label in data.train.labels[lowest]]
    truth = [split.dataset.class_names[int(label)] for label in split.labels[lowest]]
    flipped = data.flipped[lowest]
    heading = "The examples it trusts least"
    if not split.dataset.is_image:
        cells = [
            [str(int(split.indices[i])), g, t if f else g, f"{float(weights[i]):.4f}"]
            for i, g, t, f in zip(lowest.tolist(), given, truth, flipped.tolist(), strict=True)
        ]
        headings = ["Row of the data", "Given label", "Label in the data", "Weight"]
        return [_html.section(heading, "", _html.table(headings, cells))]
    images = split.batch(lowest)[0].clamp(0, 1)
    picture = images[:, 0] if images.shape[1] == 1 else images.permute(0, 2, 3, 1)
    captions = [
        f"{g}\n(was {t})" if f else g
        for g, t, f in zip(given, truth, flipped.tolist(), strict=True)
    ]
    figure = _figures.gallery(picture.to(torch.float32).numpy(), captions)
    wrong = int(flipped.sum())
    text = f"Lowest weights first, each with the label it was given. {wrong} of these were flipped."
    if not bool(data.flipped.any()):
        text = "Lowest weights first, each with its label: look for mistakes in the data."
    return [_html.section(heading, text, _picture(figure, "examples with the lowest weights"))]


def _column(lines: Lines, key: str) -> list[float]:
    return [float(line[key]) for line in lines]


def _picture(figure: Any, description: str) -> str:
    return _html.picture(_figures.to_uri(figure), description)
