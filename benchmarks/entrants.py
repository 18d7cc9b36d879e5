"""What is timed: a library's way of computing one hypergradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

import bestresponse as br
from benchmarks.problems import Case

LR = 1e-3  # small enough that no Neumann series diverges


@dataclass(frozen=True)
class Entrant:
    """One row of the table.

    Attributes:
        library: whose it is.
        method: the row of ours that it is compared with.
        note: how it differs, in a few words.
        run: one hypergradient, from nothing, by hyperparameter.
    """

    library: str
    method: str
    note: str
    run: Callable[[], list[Tensor]]


def ours(case: Case) -> Iterable[Entrant]:
    """All methods of this library."""
    methods: dict[str, br.Implicit | br.Unroll] = {
        "scale": br.Implicit(br.Scale(LR)),
        "Neumann 5": br.Implicit(br.Neumann(lr=LR, max_steps=5)),
        "Neumann 20": br.Implicit(br.Neumann(lr=LR, max_steps=20)),
        "CG 5": br.Implicit(br.CG(max_steps=5), damping=case.damping),
        "CG 20": br.Implicit(br.CG(max_steps=20), damping=case.damping),
        "unroll 5": br.Unroll(br.optim.SGD(LR), steps=5),
    }
    for name, method in methods.items():
        note = "ends at working precision" if name == "CG 20" else ""
        yield Entrant("bestresponse", name, note, _run(case, name, method))


def _run(case: Case, name: str, method: br.Implicit | br.Unroll) -> Callable[[], list[Tensor]]:
    nested = br.Nested(case.model, case.hyper, case.inner, case.outer, method)
    budget = int(name.split()[-1]) if isinstance(method, br.Implicit) and name != "scale" else 0

    def run() -> list[Tensor]:
        case.hyper.zero_grad()
        loss, report = nested(case.batch, case.batch)
        loss.backward()
        if "CG" not in name:
            assert report.products == budget, f"{name} took other than {budget} products: {report}"
        assert br.Result.negative_curvature not in report.warnings, f"{name}: {report}"
        return case.gradients()

    return run
