"""What a distillation went through, and the best of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from bestresponse.hyper import Distilled


@dataclass(frozen=True)
class Point:
    """One look at the set on its way.

    Attributes:
        step: outer steps until then.
        outer_loss: on training images.
        validation_accuracy: of a model trained on the set.
        model: that model.
    """

    step: int
    outer_loss: float
    validation_accuracy: float
    model: nn.Module = field(repr=False)


@dataclass(frozen=True)
class Found:
    """What came out.

    Attributes:
        data: the chosen set.
        chosen: the outer step it is from.
        points: looks along the way.
        seconds: that it took.
    """

    data: Distilled = field(repr=False)
    chosen: int
    points: list[Point] = field(repr=False)
    seconds: float


class Trace:
    """Remembers looks, and the set with the best validation accuracy."""

    def __init__(self, said: Callable[[int, str], None]) -> None:
        self._said, self._points = said, list[Point]()
        self._best: tuple[Distilled, Point] | None = None

    def add(
        self,
        data: Distilled,
        outer_loss: float,
        validation_accuracy: float,
        model: nn.Module,
        step: int | None = None,
    ) -> None:
        """A look; without `step` one follows the other."""
        number = len(self._points) + 1 if step is None else step
        point = Point(number, outer_loss, validation_accuracy, model)
        self._points.append(point)
        if self._best is None or validation_accuracy > self._best[1].validation_accuracy:
            self._best = copy.deepcopy(data), point
        self._said(
            number, f"outer loss {outer_loss:.4f}, validation accuracy {validation_accuracy:.4f}"
        )

    def found(self, seconds: float) -> Found:
        """The best of all looks."""
        assert self._best is not None
        data, point = self._best
        return Found(data, point.step, self._points, seconds)
