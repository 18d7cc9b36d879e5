"""What a `tune` run came to: the table, the headline figures, and a plain verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse.apps._run import RESULT_FILE, RunFolder
from bestresponse.apps._training import Score, Training
from bestresponse.apps.tune._groups import EXAMPLE_GROUPS, Tuned
from bestresponse.apps.tune._rows import REFITTED, ROWS, TUNED, UNTUNED, Data, label, ordered
from bestresponse.apps.tune._self_tuning_outcome import beside_fixed_values, best_fixed
from bestresponse.apps.tune._settings import TuneSettings
from bestresponse.apps.tune._tuning import HyperSteps


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    examples: int
    test_accuracy: float
    test_loss: float
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        rows: the tuned run and the simple alternatives.
        headline: the figures that the terminal prints, by name.
        tuning: how the hyperparameter steps ended; `grid` has the rows of fixed values.
        verdict: one sentence that says whether tuning paid.
    """

    rows: tuple[Row, ...]
    headline: dict[str, float]
    tuning: dict[str, Any]
    verdict: str

    @property
    def product(self) -> str:
        """The row whose model is what the user wanted: the last one."""
        return self.rows[-1].name

    def write(self, folder: RunFolder) -> None:
        """As `result.json`."""
        folder.write_json(RESULT_FILE, asdict(self))

    @classmethod
    def read(cls, folder: RunFolder) -> Outcome:
        """The result of a finished run."""
        content = folder.read_json(RESULT_FILE)
        try:
            rows = tuple(Row(**row) for row in content["rows"])
            return cls(rows, content["headline"], content["tuning"], content["verdict"])
        except (KeyError, TypeError) as error:
            raise InputError("The run's result.json is damaged; start the run anew.") from error


def outcome(
    scored: Mapping[str, tuple[Training, Score]],
    hyper: Tuned,
    data: Data,
    steps: HyperSteps,
    settings: TuneSettings,
) -> Outcome:
    """The outcome of finished trainings."""
    rows = tuple(_row(*scored[name]) for name in ordered(scored))
    named = [row for row in rows if row.name in ROWS]
    headline = {f"{row.name}_test_accuracy": row.test_accuracy for row in named}
    headline |= {f"{row.name}_test_loss": row.test_loss for row in named}
    headline |= {f"{row.name}_seconds": row.seconds for row in named}
    headline |= _cost(scored)
    headline |= steps.figures()
    judges = [name for name in settings.groups if name in EXAMPLE_GROUPS]
    if settings.corrupt and judges:
        headline |= _cleaning(hyper.values()[judges[0]].values.cpu(), data.flipped)
    tuning = steps.ending()
    if settings.method == "self-tuning":
        figures, details = beside_fixed_values(scored, data)
        headline, tuning = headline | figures, tuning | details
    return Outcome(rows, headline, tuning, _verdict(rows, best_fixed(tuning), len(data.test)))


def _cost(scored: Mapping[str, tuple[Training, Score]]) -> dict[str, float]:
    """What tuning costs beside the same training without it."""
    (untuned, _), (tuned, _) = scored[UNTUNED], scored[TUNED]
    cost = {"relative_seconds": tuned.seconds / max(untuned.seconds, 1e-9)}
    if tuned.peak_memory and untuned.peak_memory:
        cost["relative_peak_memory"] = tuned.peak_memory / untuned.peak_memory
        cost["tuned_peak_memory"] = tuned.peak_memory
    return cost


def _row(training: Training, result: Score) -> Row:
    return Row(
        training.name, len(training.examples), result.accuracy, result.loss, training.seconds
    )


def _cleaning(weights: Tensor, flipped: Tensor) -> dict[str, float]:
    """How well low weights find flipped labels."""
    lowest = weights.argsort(stable=True)[: int(flipped.sum())]
    return {
        "auroc": float(roc_auc_score(flipped.numpy(), -weights.numpy())),
        "precision_of_lowest_weights": float(flipped[lowest].double().mean()),
    }


def _verdict(rows: Iterable[Row], best_fixed: str | None, test_examples: int) -> str:
    """Whether tuning beat every simple row, of fixed values the best one."""
    by_name = {row.name: row for row in rows if row.name in ROWS or row.name == best_fixed}
    alone = by_name.pop(TUNED)
    tuned = by_name.pop(REFITTED, alone).test_accuracy
    best = max(by_name.values(), key=lambda row: row.test_accuracy)
    figures = f"{tuned:.4f} against {best.test_accuracy:.4f} ({label(best.name)})"
    error = math.sqrt(tuned * (1 - tuned) / test_examples)
    close = abs(tuned - best.test_accuracy) <= error
    doubt = f", a difference within one standard error of {error:.4f}" if close else ""
    if tuned > best.test_accuracy:
        return f"Tuning paid: test accuracy {figures}{doubt}."
    if tuned == best.test_accuracy:
        return f"Tuning only drew level with a simple alternative: test accuracy {figures}."
    return f"Tuning did not pay here: test accuracy {figures}{doubt}. Use the simple alternative."


def print_outcome(result: Outcome, path: Path, console: Console) -> None:
    """The table and the headline, for a person."""
    table = Table(title="Same data, same number of steps", title_justify="left")
    table.add_column("trained on")
    for heading in ("examples", "test accuracy", "test loss", "seconds"):
        table.add_column(heading, justify="right")
    for row in result.rows:
        style = "bold" if row.name == result.product else ""
        table.add_row(
            label(row.name),
            f"{row.examples:,}",
            f"{row.test_accuracy:.4f}",
            f"{row.test_loss:.4f}",
            f"{row.seconds:.1f}",
            style=style,
        )
    console.print(table)
    for line in notes(result):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.print(result.verdict, style="bold", highlight=False, soft_wrap=True)
    console.print(f"Report: {path / 'report.html'}", highlight=False, soft_wrap=True, markup=False)


def notes(result: Outcome) -> list[str]:
    """The figures of the tuned run, in sentences."""
    head = result.headline
    lines = [
        f"Tuned run: {_steps(head)}, {head['relative_seconds']:.2f} × the time of the untuned run."
    ]
    if "relative_peak_memory" in head:
        lines.append(
            f"Peak memory {head['tuned_peak_memory'] / 1e6:.0f} MB, "
            f"{head['relative_peak_memory']:.2f} × that of the untuned run (data included)."
        )
    lines += result.tuning.get("notes", [])
    if (chosen := best_fixed(result.tuning)) is not None:
        lines.append(
            f"Best of {len(result.tuning['grid'])} fixed values by validation loss: {chosen}, test "
            f"loss {head['best_grid_test_loss']:.4f}; self-tuned {head['tuned_test_loss']:.4f}, in "
            f"{head['time_ratio_to_grid_run']:.2f} × the time of that one run."
        )
    if result.tuning.get("stopped_at") is not None:
        lines.append(f"Tuning stopped early, at step {result.tuning['stopped_at']}.")
    for name, count in result.tuning.get("warnings", {}).items():
        lines.append(f"Warning in {count} hypergradients: {name} (see docs/failures.md).")
    if "auroc" in head:
        lines.append(
            f"Flipped labels found by low weights: AUROC {head['auroc']:.4f}, precision among "
            f"the lowest {head['precision_of_lowest_weights']:.4f}."
        )
    return lines


def _steps(head: Mapping[str, float]) -> str:
    """The hyperparameter steps of a run in words."""
    if "validation_steps" in head:
        return f"{head['validation_steps']:.0f} validation steps"
    residual = head.get("worst_relative_residual")
    known = (
        f"worst relative residual {residual:.2g}"
        if residual is not None
        else "no residual (no linear system was solved)"
    )
    return (
        f"{head['hypergradient_calls']:.0f} hypergradients, {head['products']:.0f} products, "
        f"{known}"
    )
