"""The cost of one product with a curvature, without what surrounds a call."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

import bestresponse as br
from benchmarks.clock import interleaved
from benchmarks.options import Options
from benchmarks.problems import DECAYS, PROBLEMS, Case, make_case
from benchmarks.report import Page, Table, Target
from bestresponse._nested import next_problem

CURVATURES = ("Hessian", "Gauss-Newton")

_LIMITS = {
    "Hessian": {"logistic": 0.9, "mlp": 1.3, "conv": 2.0},
    "Gauss-Newton": {"logistic": 0.8, "mlp": 1.0, "conv": 1.35},
}
_TEXT = (
    "One product of the curvature with a vector on the retained graph, in units of one plain "
    "training gradient on the same batch, decay included. Median of the rounds, [least–most]; "
    "process CPU time, one thread, interleaved in one process."
)


@dataclass(frozen=True)
class Product:
    """One curvature on one problem; ratios one a round, the unit in milliseconds."""

    problem: str
    curvature: str
    ratios: tuple[float, ...]
    unit_ms: float

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.ratios)


def measure(options: Options) -> list[Product]:
    """Both curvatures on every problem."""
    results = []
    for name, problem in PROBLEMS.items():
        options.say(f"one product, {name}")
        case = make_case(problem, DECAYS, options.notice)
        with ExitStack() as stack:
            runs = [_product(case, curvature, stack) for curvature in CURVATURES]
            with torch.enable_grad():
                ratios, unit = interleaved(case.plain_gradient(), runs, options.rounds)
        results += [Product(name, c, r, unit) for c, r in zip(CURVATURES, ratios, strict=True)]
    return results


def page(results: Sequence[Product]) -> Page:
    """One row a curvature."""
    rows = [
        [c, "bestresponse", *(_cell(p) for p in results if p.curvature == c)] for c in CURVATURES
    ]
    header = ["curvature", "library", *(PROBLEMS[p.problem].title for p in results[::2])]
    targets = [
        Target(f"{p.problem}, {p.curvature}", p.median, _LIMITS[p.curvature][p.problem])
        for p in results
    ]
    return Page(
        "Cost of one product", _TEXT, [Table("One decay per weight", header, rows)], targets
    )


def _cell(product: Product) -> str:
    least, most = min(product.ratios), max(product.ratios)
    return f"{product.median:.2f} [{least:.2f}–{most:.2f}]"


def _product(case: Case, curvature: str, stack: ExitStack) -> Callable[[], Tensor]:
    """The product as a solve takes it; the graph lives as long as the stack."""
    method = br.Implicit(curvature=case.gauss_newton() if curvature != "Hessian" else None)
    problem = stack.enter_context(next_problem(case.nested(method), case.batch, case.batch))
    with torch.enable_grad():
        operator = method.point(problem).curvature
    vector = torch.randn(operator.size, generator=torch.Generator().manual_seed(0))

    def run() -> Tensor:
        with torch.no_grad():
            return operator.mv(vector)

    return run
