"""The report of `bestresponse distill`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bestresponse.apps import _figures, _html
from bestresponse.apps.distill._files import ARRAYS, PICTURE, TABLE, hard_labels
from bestresponse.apps.distill._outcome import Outcome
from bestresponse.hyper import Distilled

_COLUMNS = 10
_NAMED = 3  # seeds in the legend
_CAPTION = 12  # letters of a class's name above its image


def report(outcome: Outcome, class_names: tuple[str, ...], settings: dict[str, Any]) -> str:
    """The whole document."""
    return _html.page(
        "Distilled images",
        f"{outcome.name}, {outcome.model}, {outcome.seeds}",
        [
            _html.verdict(outcome.verdict),
            _accuracies(outcome),
            _gallery(outcome, class_names),
            _way(outcome),
            _cost(outcome),
            *_exactness(outcome),
            _roles(outcome),
            _html.settings(settings),
        ],
    )


def _percent(pair: tuple[float, float], several: bool) -> str:
    spread = f" ± {100 * pair[1]:.2f}" if several else ""
    return f"{100 * pair[0]:.2f}{spread} %"


def _accuracies(outcome: Outcome) -> str:
    fresh = len(outcome.runs[0].accuracies)
    rows = [
        (f"all {outcome.real:,} training images (the ceiling)", outcome.of(lambda r: r.full)),
        (f"{outcome.images} learned images", outcome.of(lambda r: r.accuracy)),
        ("the same, read back from the Parquet file", outcome.of(lambda r: r.read_back)),
        ("the images before learning, means of real ones", outcome.of(lambda r: r.start)),
    ]
    text = f"Mean and deviation over {outcome.seeds}."
    if fresh > 1:
        text = (
            f"Mean and deviation over {outcome.seeds}; each figure of a set is the mean "
            f"over {fresh} fresh initialisations that no distillation saw."
        )
    cells = [(name, _percent(value, len(outcome.runs) > 1)) for name, value in rows]
    tables = [_html.table(("trained on", "test accuracy"), cells, strong=1)]
    if fresh > 1:
        each = [
            (str(run.seed), *(f"{100 * value:.2f} %" for value in run.accuracies))
            for run in outcome.runs
        ]
        heads = ("seed", *(f"initialisation {i + 1}" for i in range(fresh)))
        tables.append(_html.table(heads, each))
    return _html.section("Test accuracy", text, *tables)


def _gallery(outcome: Outcome, class_names: tuple[str, ...]) -> str:
    data = outcome.runs[0].data
    images = data.images.detach().permute(0, 2, 3, 1).to(torch.float32).numpy()
    figure = _figures.gallery(
        images[..., 0] if images.shape[-1] == 1 else np.ascontiguousarray(images),
        _captions(data, class_names),
        columns=min(_COLUMNS, len(images)),
    )
    text = (
        f"Those of seed {outcome.runs[0].seed}, with eight bits a pixel as in the files, for "
        f"which all figures hold: {PICTURE}, {ARRAYS} (all that was learned) and {TABLE}, which "
        "bestresponse.data.load reads."
    )
    return _html.section(
        "The images", text, _html.picture(_figures.to_uri(figure), "The learned images")
    )


def _captions(data: Distilled, class_names: tuple[str, ...]) -> list[str]:
    """The class, and how sure a learned label is of it."""
    names = [class_names[label][:_CAPTION] for label in hard_labels(data).tolist()]
    if data.label_logits is None:
        return names
    shares = data.labels.detach().amax(1).tolist()
    return [f"{name} {share:.0%}" for name, share in zip(names, shares, strict=True)]


def _way(outcome: Outcome) -> str:
    figure, (accuracy, loss) = _figures.panels(2)
    for i, (run, color) in enumerate(zip(outcome.runs, _cycle(len(outcome.runs)), strict=True)):
        steps, losses, validation, test = zip(*run.curve, strict=True)
        label = f"test, seed {run.seed}" if i < _NAMED else None
        accuracy.plot(steps, [100 * v for v in test], color=color, linewidth=1.6, label=label)
        accuracy.plot(steps, [100 * v for v in validation], color=color, linewidth=0.9, ls=":")
        accuracy.axhline(100 * run.full, color=color, linewidth=0.8, ls="--")
        loss.plot(steps, losses, color=color, linewidth=1.6)
    _figures.finish(accuracy, "Trained on the images alone", "outer step", "accuracy (%)")
    _figures.finish(loss, "Outer loss", "outer step", "cross-entropy", legend=False)
    text = (
        "Dotted: validation, which chooses the step. Dashed: trained on all images. Test accuracy "
        "on the way is of up to 2,000 images."
    )
    return _html.section("The way", text, _html.picture(_figures.to_uri(figure), text))


def _cycle(count: int) -> list[str]:
    return [_figures.COLORS[i % len(_figures.COLORS)] for i in range(count)]


def _cost(outcome: Outcome) -> str:
    rows = []
    for run in outcome.runs:
        mine, full = run.memory
        memory = ("unknown", "unknown", "")
        if mine and full:
            memory = (f"{mine / 1e6:.0f} MB", f"{full / 1e6:.0f} MB", f"{mine / full:.2f} ×")
        seconds = (*(f"{s:.1f} s" for s in run.seconds), f"{run.seconds[0] / run.seconds[1]:.2f} ×")
        rows.append((str(run.seed), *seconds, *memory))
    heads = (
        "seed", "distilling", "training on all", "ratio", "peak, distilling",
        "peak, training on all", "ratio",
    )  # fmt: skip
    text = (
        "Each seed trains on all images and distills, in turn. Peak memory is that of the "
        "process, data included; that of a later seed holds what earlier ones left behind."
    )
    return _html.section("Cost", text, _html.table(heads, rows))


def _exactness(outcome: Outcome) -> list[str]:
    lines = outcome.exactness()
    if not lines:
        return []
    return [_html.section("How exact the hypergradients are", "", _html.sentences(lines))]


def _roles(outcome: Outcome) -> str:
    return _html.section(
        "Roles",
        "",
        _html.sentences(
            [
                outcome.source,
                "Training images: the outer loss, which the learned images make small.",
                "Validation images: choose the step, of the learned images and of the comparison.",
                "Test images: reported; they choose nothing.",
                "Pixels stay between 0 and 1 while they are learned, and are rounded to eight "
                "bits before anything is reported.",
            ]
        ),
    )
