"""Hyperparameters over the course of a training run: recorded, exported, replayed."""

from __future__ import annotations

import csv
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse.response._self_tuning import SelfTuning

_STEP, _SIGMA = "step", "sigma:"


class Schedule:
    """Values of hyperparameters by step, with whatever figures belong beside them.

    A row is a step: each hyperparameter's value, the deviation σ of its perturbation (`sigma:name`)
    and the figures. A hyperparameter of several numbers has a column for each, `name[0]` and so on.

    Args:
        rows: those of another schedule, to be continued.

    Example:
        >>> from torch import nn
        >>> from bestresponse.hyper import Bounded
        >>> hyper = Bounded(rate=(0.0, 1.0, 0.25))
        >>> net, schedule = SelfTuning(nn.Linear(1, 1), hyper, {"": "rate"}), Schedule()
        >>> schedule.record(0, net, loss=2.0)
        >>> hyper.set(rate=0.5)
        >>> schedule.record(10, net, loss=1.0)
        >>> [round(schedule.at(step)["rate"].item(), 3) for step in (0, 9, 10, 99)]
        [0.25, 0.25, 0.5, 0.5]
        >>> schedule.column("loss")
        [2.0, 1.0]
    """

    def __init__(self, rows: Iterable[Mapping[str, float]] = ()) -> None:
        self._rows: list[dict[str, float]] = [dict(row) for row in rows]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> list[dict[str, float]]:
        """The numbers by column, a row a step; copies."""
        return [dict(row) for row in self._rows]

    @property
    def columns(self) -> list[str]:
        """Their names, `step` first."""
        return [*dict.fromkeys(name for row in self._rows for name in row)]

    def column(self, name: str) -> list[float]:
        """A column, without the rows that lack it."""
        return [row[name] for row in self._rows if name in row]

    def record(self, step: int, net: SelfTuning, **figures: float) -> None:
        """One more row: the network's hyperparameters as they are.

        Args:
            step: of training, counted as you like, larger than the last.
            net: whose hyperparameters these are.
            **figures: losses and the like.

        Raises:
            InputError: for a step that is not later than the last one.
        """
        if self._rows and step <= self._rows[-1][_STEP]:
            raise InputError(
                f"Step {step} comes after step {self._rows[-1][_STEP]:g}; record steps in order."
            )
        row = {_STEP: float(step)}
        row |= _cells(net.hyper.values())
        row |= _cells({_SIGMA + n: s.detach() for n, s in net.scales.sigma().items()})
        self._rows.append(row | {name: float(value) for name, value in figures.items()})

    def at(self, step: int) -> dict[str, Tensor]:
        """The hyperparameters of the last row up to `step`; before the first, of the first.

        Those of one column are scalars, of several columns flat.

        Raises:
            InputError: for an empty schedule.
        """
        if not self._rows:
            raise InputError("The schedule is empty; record a step first.")
        before = bisect_right(self._rows, float(step), key=lambda row: row[_STEP])
        row = self._rows[max(before - 1, 0)]
        return {
            name: torch.tensor(
                row[columns[0]] if columns == [name] else [row[column] for column in columns]
            )
            for name, columns in _hyperparameters(row).items()
        }

    def save(self, path: str | Path) -> None:
        """Write it as CSV, in full precision."""
        with Path(path).open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self._rows)

    @classmethod
    def load(cls, path: str | Path) -> Schedule:
        """Read what `save` wrote.

        Raises:
            InputError: for a file that is no schedule.
        """
        schedule = cls()
        with Path(path).open(newline="") as file:
            try:
                schedule._rows = [
                    {name: float(cell) for name, cell in row.items() if cell}
                    for row in csv.DictReader(file)
                ]
            except (TypeError, ValueError):
                schedule._rows = []
        if not schedule._rows or any(_STEP not in row for row in schedule._rows):
            raise InputError(f"{path} is no schedule; give a CSV file that Schedule.save wrote.")
        return schedule


def _hyperparameters(row: Mapping[str, float]) -> dict[str, list[str]]:
    """The columns of each hyperparameter: what has a σ is one."""
    found: dict[str, list[str]] = {}
    for column in row:
        if _SIGMA + column in row:
            found.setdefault(column.partition("[")[0], []).append(column)
    return found


def _cells(values: Mapping[str, Tensor]) -> dict[str, float]:
    cells = {}
    for name, value in values.items():
        if value.ndim == 0:
            cells[name] = float(value)
        else:
            cells |= {f"{name}[{i}]": float(v) for i, v in enumerate(value.flatten())}
    return cells
