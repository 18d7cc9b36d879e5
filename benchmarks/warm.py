"""Accuracy against work along outer steps, where each call takes on what the last one left."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import bestresponse as br
from benchmarks.clock import seconds
from benchmarks.contenders import Call, cosine
from benchmarks.problems import case_of
from bestresponse.apps.experiments.inverse._accuracy_problems import AccuracyProblem, Point

_UNITS = 5  # plain gradients timed before and after each call


@dataclass
class Step:
    """One call.

    Attributes:
        products: with all rows.
        partial: with a part of the rows, in products with all of them.
        cosine: with the true hypergradient.
        ratios: work in plain gradients, one a round.
    """

    products: int
    partial: float
    cosine: float
    ratios: list[float]

    @property
    def work(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.ratios)


@dataclass(frozen=True)
class Walk:
    """A solver along a trajectory; the first step is cold."""

    seed: int
    name: str
    steps: list[Step]

    @property
    def warm(self) -> list[Step]:
        """All but the first."""
        return self.steps[1:]


def walk(
    problem: AccuracyProblem,
    points: Sequence[Point],
    name: str,
    solver: br.CG,
    cold_steps: int,
    rounds: int,
    seed: int,
) -> Walk:
    """Call after call along the points, the first one with `cold_steps` products."""
    steps: list[Step] = []
    _once(problem, points[:1], solver, cold_steps)  # kernels are loaded and caches filled
    for _ in range(rounds):
        again = _once(problem, points, solver, cold_steps)
        if not steps:
            steps = again
        for step, repeated in zip(steps, again if again is not steps else [], strict=False):
            step.ratios += repeated.ratios
    problem.move_to(problem.point)
    return Walk(seed, name, steps)


def _once(
    problem: AccuracyProblem, points: Sequence[Point], solver: br.CG, cold_steps: int
) -> list[Step]:
    case, curvature = case_of(problem), problem.gauss_newton()
    first = replace(solver, max_steps=cold_steps)
    cold, warm = (problem.nested(br.Implicit(s, curvature=curvature)) for s in (first, solver))
    steps: list[Step] = []
    for point in points:
        nested = warm if steps else cold
        problem.move_to(point)
        case.hyper.zero_grad()
        unit = case.plain_gradient()  # with today's decays
        unit()
        before, call = seconds(unit, _UNITS), Call(nested, case)
        spent = seconds(call)
        ratio = spent / ((before + seconds(unit, _UNITS)) / 2)
        found = cosine(case.gradients(), problem.in_model_order(point.reference))
        if not steps:
            warm.load_state_dict(cold.state_dict())
        steps.append(Step(call.report.products, call.partial(), found, [ratio]))
    return steps
