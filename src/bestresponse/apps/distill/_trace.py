"""What a distillation went through, and the best of it."""

from __future__ import annotations

import copy
import time
from dataclasses import astuple, dataclass, field
from typing import Any

import torch
from torch import nn

from bestresponse import Report, Result
from bestresponse.apps.distill._problem import Problem, score_of
from bestresponse.hyper import Distilled

_GLANCED = 2000  # test images whose accuracy is drawn on the way, at the most


@dataclass(frozen=True)
class Point:
    """One look at the set on its way.

    Attributes:
        step: outer steps until then.
        outer_loss: on training images.
        validation_accuracy: of a model trained on the set.
        test_accuracy: of that model on some test images; drawn, and nothing else.
    """

    step: int
    outer_loss: float
    validation_accuracy: float
    test_accuracy: float


@dataclass
class Solves:
    """How exactly the problems behind the hypergradients were solved, over all outer steps.

    Attributes:
        steps: outer steps.
        unsolved: those whose inner problem missed its tolerance.
        inner_gradient: the longest inner gradient that was differentiated at.
        inexact: those whose linear system missed its tolerance.
        residual: the largest relative residual.
        negative: those where the inner loss curved downwards, and Gauss-Newton took its place.
    """

    steps: int = 0
    unsolved: int = 0
    inner_gradient: float = 0.0
    inexact: int = 0
    residual: float = 0.0
    negative: int = 0

    def add(self, report: Report, *, solved: bool) -> None:
        """One more hypergradient."""
        self.steps += 1
        self.unsolved += not solved
        self.inner_gradient = max(self.inner_gradient, report.inner_gradient_norm)
        self.inexact += Result.max_steps_reached in report.warnings
        self.residual = max(self.residual, report.relative_residual or 0.0)
        self.negative += Result.negative_curvature in report.warnings


@dataclass(frozen=True)
class Found:
    """What came out.

    Attributes:
        data: the chosen set.
        chosen: the outer step it is from.
        points: looks along the way.
        seconds: that it took.
        solves: how exactly, where something is solved for.
    """

    data: Distilled = field(repr=False)
    chosen: int
    points: list[Point] = field(repr=False)
    seconds: float
    solves: Solves | None = None


class Trace:
    """Remembers looks, the set with the best validation accuracy, and the seconds.

    Args:
        problem: whose test images are glanced at.
        data: the set, which lives on.
    """

    def __init__(self, problem: Problem, data: Distilled) -> None:
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randperm(len(problem.test), generator=generator)[:_GLANCED]
        self._some, self._data = problem.test.subset(drawn), data
        self._points, self._best = list[Point](), -1
        self._chosen: dict[str, Any] = {}
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the beginning, without glances at the test set."""
        return time.perf_counter() - self._start

    def add(
        self,
        outer_loss: float,
        validation_accuracy: float,
        model: nn.Module,
        step: int | None = None,
    ) -> None:
        """A look; without `step` one follows the other."""
        before = time.perf_counter()
        glance = score_of(model, self._some).accuracy
        self._start += time.perf_counter() - before
        number = len(self._points) + 1 if step is None else step
        self._points.append(Point(number, outer_loss, validation_accuracy, glance))
        if self._best < 0 or validation_accuracy > self._points[self._best].validation_accuracy:
            self._best = len(self._points) - 1
            self._chosen = copy.deepcopy(self._data.state_dict())

    @property
    def last(self) -> str:
        """The last look in words."""
        point = self._points[-1]
        return (
            f"outer loss {point.outer_loss:.4f}, "
            f"validation accuracy {point.validation_accuracy:.4f}"
        )

    def state(self) -> dict[str, Any]:
        """All that is needed to go on."""
        return {
            "points": [list(astuple(point)) for point in self._points],
            "best": self._best,
            "chosen": self._chosen,
            "seconds": self.seconds,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._points = [Point(*point) for point in state["points"]]
        self._best, self._chosen = state["best"], state["chosen"]
        self._start = time.perf_counter() - state["seconds"]

    def found(self, solves: Solves | None = None) -> Found:
        """The best of all looks."""
        seconds = self.seconds
        data = copy.deepcopy(self._data)
        data.load_state_dict(self._chosen)
        return Found(data, self._points[self._best].step, self._points, seconds, solves)
