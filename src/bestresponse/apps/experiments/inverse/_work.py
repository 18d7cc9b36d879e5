"""Accuracy and work of hypergradients on a problem whose answer is known."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

import bestresponse as br
from bestresponse.apps.experiments._roles import Batch
from bestresponse.apps.experiments.inverse._accuracy_problems import AccuracyProblem, Point
from bestresponse.apps.experiments.inverse._contenders import Contender

_UNITS = 3  # plain gradients timed before and after each call
_PREPARED = 3  # calls before the first measured one: guards search graphs at call 1, 2, 4, …
_COLD_STEPS = 10  # of the call that comes before the measured ones along outer steps
_RATE = 0.05  # of Adam on the log decays
_NEAR = 1e-8  # relative residual of the references along outer steps


class KnownProblem(Protocol):
    """A nested problem over live modules with its exact hypergradient."""

    @property
    def model(self) -> nn.Module: ...
    @property
    def decay(self) -> nn.Module: ...
    @property
    def inner_batch(self) -> Batch: ...
    @property
    def outer_batch(self) -> Batch: ...
    def nested(self, method: br.Implicit) -> br.Nested: ...
    def gauss_newton(self) -> br.GaussNewton: ...
    def gradient(self) -> Tensor: ...


@dataclass(frozen=True)
class Reading:
    """One hypergradient.

    Attributes:
        steps: of the solver.
        products: with the curvature, those of a preconditioner included.
        cosine: with the exact one.
        distance: from it, relative to its length.
        work: in plain gradients.
    """

    steps: int
    products: int
    cosine: float
    distance: float
    work: float


class Bench:
    """Calls of one contender on one problem.

    Work is the process CPU time of a whole call, from nothing to λ's gradient, in units of one
    plain training gradient with respect to the weights, which is timed before and after it.

    Args:
        problem: as its modules stand.
        contender: who.
        warm: with what it uses along outer steps, and with its memory; otherwise every call
            knows of no other.
    """

    def __init__(self, problem: KnownProblem, contender: Contender, *, warm: bool = False) -> None:
        self.problem, self._contender, self._warm = problem, contender, warm
        self._curvature = problem.gauss_newton()
        self._nested = problem.nested(contender.method(1, self._curvature))
        self._blank = self._nested.state_dict()
        for _ in range(_PREPARED):
            self._call()
        self.forget()

    def forget(self) -> None:
        """Throw away what earlier calls left."""
        self._nested.load_state_dict(self._blank)

    def read(self, steps: int, reference: Tensor) -> Reading:
        """One call, timed and judged."""
        if not self._warm:
            self.forget()
        self._nested.method = self._contender.method(steps, self._curvature, warm=self._warm)
        before = self._seconds(self._unit, _UNITS)
        report: list[br.Report] = []
        spent = self._seconds(lambda: report.append(self._call()))
        unit = (before + self._seconds(self._unit, _UNITS)) / 2
        cosine, distance = apart(self.problem.gradient(), reference)
        return Reading(steps, report[0].products, cosine, distance, spent / unit)

    def _call(self) -> br.Report:
        self.problem.decay.zero_grad()
        loss, report = self._nested(self.problem.inner_batch, self.problem.outer_batch)
        loss.backward()
        return report

    def _unit(self) -> None:
        self.problem.model.zero_grad()
        self._nested.inner_loss(*self.problem.inner_batch).backward()

    @staticmethod
    def _seconds(call: Callable[[], None], times: int = 1) -> float:
        start = time.process_time()
        for _ in range(times):
            call()
        return (time.process_time() - start) / times


def apart(found: Tensor, exact: Tensor) -> tuple[float, float]:
    """Cosine and relative distance."""
    if not bool(found.isfinite().all()) or not bool(found.any()):
        return 0.0, 1.0
    cosine = torch.nn.functional.cosine_similarity(found, exact, dim=0)
    return float(cosine), float((found - exact).norm() / exact.norm())


def budgets(cap: int) -> list[int]:
    """Numbers of steps up to the cap: all small ones, then a fifth more each time."""
    found, step = [], 1
    while step < cap:
        found.append(step)
        step = max(step + 1, round(1.2 * step))
    return [*found, cap]


def curve(bench: Bench, steps: Iterable[int], reference: Tensor) -> list[Reading]:
    """One reading for each number of steps."""
    return [bench.read(number, reference) for number in steps]


def reaching(
    bench: Bench, readings: Sequence[Reading], level: float, reference: Tensor, rounds: int
) -> Reading | None:
    """The smallest number of steps with that cosine, its work the median of the rounds.

    Cosines are taken to grow with the steps between two neighbouring readings.
    """
    above = next((i for i, reading in enumerate(readings) if reading.cosine >= level), None)
    if above is None:
        return None
    low = readings[above - 1].steps if above else 0
    high = readings[above].steps
    while high - low > 1:
        middle = (low + high) // 2
        if bench.read(middle, reference).cosine >= level:
            high = middle
        else:
            low = middle
    again = [bench.read(high, reference) for _ in range(rounds)]
    last = again[-1]
    work = statistics.median(reading.work for reading in again)
    return Reading(high, last.products, last.cosine, last.distance, work)


def trajectory(problem: AccuracyProblem, steps: int, say: Callable[[str], None]) -> list[Point]:
    """The problem's point and those after each step of Adam on λ, by the exact hypergradient."""
    points = [problem.point]
    log_decays = nn.Parameter(problem.point.log_decays.clone())
    adam = torch.optim.Adam([log_decays], lr=_RATE)
    near = problem.with_rtol(_NEAR)
    for _ in range(steps):
        log_decays.grad = problem.in_model_order(points[-1].reference)
        adam.step()
        points.append(near.refitted(log_decays.detach().clone(), points[-1], say))
    return points


def along(
    bench: Bench, problem: AccuracyProblem, points: Sequence[Point], steps: int
) -> Iterator[Reading]:
    """Readings at all points but the first, where a call with some steps leaves its memory."""
    bench.forget()
    try:
        for i, point in enumerate(points):
            problem.move_to(point)
            reading = bench.read(steps if i else _COLD_STEPS, point.reference)
            if i:
                yield reading
    finally:
        problem.move_to(problem.point)


def warm_reaching(
    bench: Bench,
    problem: AccuracyProblem,
    points: Sequence[Point],
    level: float,
    cap: int,
    rounds: int,
) -> tuple[int, float] | None:
    """The smallest number of steps with that cosine at every point, and the mean work a call."""
    low, high = 0, 1
    while not _all_reach(along(bench, problem, points, high), level):
        if high >= cap:
            return None
        low, high = high, min(2 * high, cap)
    while high - low > 1:
        middle = (low + high) // 2
        if _all_reach(along(bench, problem, points, middle), level):
            high = middle
        else:
            low = middle
    repeated = [list(along(bench, problem, points, high)) for _ in range(rounds)]
    work = [statistics.mean(reading.work for reading in readings) for readings in repeated]
    return high, statistics.median(work)


def _all_reach(readings: Iterable[Reading], level: float) -> bool:
    return all(reading.cosine >= level for reading in readings)
