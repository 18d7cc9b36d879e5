"""`bestresponse experiment unroll-versus-implicit`: two ways that are one in the limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

import bestresponse as br
from bestresponse.apps import _options
from bestresponse.apps.experiments._experiment import Experiment, Findings, Pulse
from bestresponse.apps.experiments.inverse._accuracy_problems import (
    AccuracyProblem,
    Point,
    logistic,
)
from bestresponse.apps.experiments.inverse._unroll_report import Row, sections

_ROUNDING = 1e-9  # below this relative error, a ratio of two errors says nothing of the rate

_PART = 1e-6  # of the hypergradient: inputs that are always zero have modes with no part in it


@dataclass(frozen=True)
class UnrollVersusImplicit(Experiment):
    """Differentiating through T training steps tends to implicit differentiation as T grows.

    From the optimum, T unrolled SGD steps equal the Neumann series with T − 1 products, and both
    reach the exact hypergradient at the rate that the eigenvalues predict. From zero weights,
    unrolling gets there as the optimization does. In float64, with an exact answer.
    """

    data: str = "digits"
    """Labelled data: `digits` (bundled), or a file or folder as in `bestresponse tune`."""
    rows: int = 300
    """Training examples; the next half as many are the validation examples."""
    decay: float = 0.02
    """The decays are drawn around this value, one for each weight."""
    longest: int = 2048
    """The largest number T of unrolled steps; smaller ones are its halves."""
    truncate: int = 64
    """Steps that the truncated variant differentiates."""
    seed: int = 0
    """Of the decays."""

    verb: ClassVar[str] = "unroll-versus-implicit"
    title: ClassVar[str] = "Unrolled and implicit differentiation"

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        _options.check_positive(self, "rows", "decay", "longest", "truncate")
        _options.check_not_negative(self, "seed")

    @property
    def lengths(self) -> list[int]:
        """T, growing by factors of two."""
        return [math.ceil(self.longest / 2**i) for i in reversed(range(self.longest.bit_length()))]

    @property
    def steps(self) -> int:
        """The fit, and each length."""
        return 1 + len(self.lengths)

    def measure(self, pulse: Pulse) -> Findings:
        """Both ways at every length."""
        problem = logistic(
            self.data, self.seed, self.rows, self.rows // 2, self.decay, 1e-13, pulse.say
        ).in_double()
        limit = _Limit.of(problem)
        pulse.step("fitted")
        rows = []
        for length in self.lengths:
            rows.append(_row(limit, length, self.truncate))
            pulse.step(f"{length} unrolled steps")
        headline = _headline(rows, limit)
        verdict = (
            f"From the optimum, unrolled steps and the Neumann series differ by at most "
            f"{headline['largest_difference']:.0e}, and their error by at most "
            f"{headline['largest_deviation_from_prediction']:.0e} of itself from what the "
            "eigenvalues predict."
        )
        curves: dict[str, Any] = {name: [vars(row)[name] for row in rows] for name in vars(rows[0])}
        return Findings(verdict, headline, sections(rows, self.truncate), curves)


@dataclass(frozen=True)
class _Limit:
    """The exact hypergradient, and what decides how fast it is reached.

    Attributes:
        problem: at its optimum, in float64.
        eigenvalues: of the inner Hessian, ascending.
        modes: what each eigenvector contributes to −(∂²L_T/∂λ∂w) q, one a column, (n, n).
        lr: 1 / (the largest eigenvalue).
    """

    problem: AccuracyProblem
    eigenvalues: Tensor
    modes: Tensor
    lr: float

    @classmethod
    def of(cls, problem: AccuracyProblem) -> _Limit:
        """From the inner Hessian by explicit formulas."""
        weights, decays = problem.point.weights, problem.point.log_decays.exp()
        product = problem.objective(problem.point.log_decays).curvature(weights)
        eye = torch.eye(len(weights), dtype=weights.dtype)
        hessian = torch.stack([product(column) for column in eye])
        values, vectors = torch.linalg.eigh((hessian + hessian.T) / 2)
        parts = vectors.T @ problem.outer_gradient(weights) / values
        modes = -(decays * weights)[:, None] * vectors * parts
        return cls(problem, values, modes, 1 / float(values[-1]))

    @property
    def exact(self) -> Tensor:
        """dL_V/dλ, in the order of the model's parameters."""
        return self.modes.sum(1)

    @property
    def rate(self) -> float:
        """By which the slowest mode that takes part shrinks a step."""
        takes_part = self.modes.norm(dim=0) > _PART * self.exact.norm()
        return 1 - self.lr * float(self.eigenvalues[takes_part].min())

    def predicted(self, steps: int) -> float:
        """The relative error after so many steps: each mode has shrunk by (1 − lr·μ)^steps."""
        left = self.modes @ (1 - self.lr * self.eigenvalues) ** steps
        return float(left.norm() / self.exact.norm())

    def error(self, hypergradient: Tensor) -> float:
        """Relative to the exact one."""
        found = self.problem.in_model_order(hypergradient)
        return float((found - self.exact).norm() / self.exact.norm())

    def at(self, weights: Tensor) -> Callable[[Any], tuple[Tensor, br.Report]]:
        """Hypergradients by any method at other weights."""
        problem = self.problem

        def call(method: Any) -> tuple[Tensor, br.Report]:
            problem.move_to(replace(problem.point, weights=weights))
            problem.decay.zero_grad()
            loss, report = problem.nested(method)(problem.inner_batch, problem.outer_batch)
            loss.backward()
            return problem.gradient(), report

        return call


def _row(limit: _Limit, length: int, truncate: int) -> Row:
    """Everything at one length."""
    sgd = br.optim.SGD(limit.lr)
    point: Point = limit.problem.point
    at_optimum, at_zero = limit.at(point.weights), limit.at(torch.zeros_like(point.weights))
    unrolled, _ = at_optimum(br.Unroll(sgd, steps=length))
    series, _ = at_optimum(br.Implicit(br.Neumann(lr=limit.lr, max_steps=length - 1)))
    from_zero, report = at_zero(br.Unroll(sgd, steps=length))
    truncated, _ = at_zero(br.Unroll(sgd, steps=length, truncate=truncate))
    assert report.params is not None
    reached = torch.cat([leaf.reshape(-1) for leaf in report.params.values()])
    implicit, _ = limit.at(reached)(br.Implicit(br.Dense()))
    return Row(
        steps=length,
        unrolled=limit.error(unrolled),
        series=limit.error(series),
        predicted=limit.predicted(length),
        slowest=limit.rate**length,
        difference=float((unrolled - series).norm() / series.norm()),
        from_zero=limit.error(from_zero),
        truncated=limit.error(truncated),
        implicit=limit.error(implicit),
        weights=float((reached - point.weights).norm() / point.weights.norm()),
    )


def _headline(rows: list[Row], limit: _Limit) -> dict[str, float | None]:
    known = [row for row in rows if row.predicted > _ROUNDING]
    measured = None
    if len(known) > 1:
        before, last = known[-2:]
        measured = (last.unrolled / before.unrolled) ** (1 / (last.steps - before.steps))
    return {
        "largest_difference": max(row.difference for row in rows),
        "largest_deviation_from_prediction": max(
            abs(row.unrolled / row.predicted - 1) for row in known
        ),
        "slowest_rate_predicted": limit.rate,
        "rate_measured": measured,
        "error_from_optimum": rows[-1].unrolled,
        "error_from_zero": rows[-1].from_zero,
        "error_of_implicit_at_the_same_weights": rows[-1].implicit,
    }
