"""A self-tuned network beside fixed values, of which the validation set chooses one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bestresponse.apps._training import Score, Training, score
from bestresponse.apps.tune._rows import REFITTED, ROWS, TUNED, UNTUNED, Data

Scored = Mapping[str, tuple[Training, Score]]


def beside_fixed_values(scored: Scored, data: Data) -> tuple[dict[str, float], dict[str, Any]]:
    """Figures for the headline, and the fixed values on the validation set."""
    details = {
        "grid": [_on_validation(*scored[name], data) for name in scored if name not in ROWS],
        "validation_loss": score(scored[TUNED][0].product(), data.validation).loss,
    }
    (tuned, _), (untuned, _) = scored[TUNED], scored[UNTUNED]
    _, kept = scored.get(REFITTED, scored[TUNED])
    figures = {"test_loss": kept.loss, "test_accuracy": kept.accuracy,
               "time_ratio": _ratio(tuned, untuned)}  # fmt: skip
    if (name := best_fixed(details)) is not None:
        fixed, found = scored[name]
        figures |= {"best_grid_test_loss": found.loss, "best_grid_test_accuracy": found.accuracy,
                    "time_ratio_to_grid_run": _ratio(tuned, fixed)}  # fmt: skip
    return figures, details


def best_fixed(tuning: Mapping[str, Any]) -> str | None:
    """The row of the fixed value with the least validation loss, if there are any."""
    grid = tuning.get("grid")
    return min(grid, key=lambda row: row["validation_loss"])["name"] if grid else None


def _on_validation(training: Training, result: Score, data: Data) -> dict[str, Any]:
    validation = score(training.product(), data.validation)
    return {"name": training.name, "validation_loss": validation.loss, "test_loss": result.loss,
            "validation_accuracy": validation.accuracy}  # fmt: skip


def _ratio(one: Training, other: Training) -> float:
    """The time of one in that of the other."""
    return one.seconds / max(other.seconds, 1e-9)
