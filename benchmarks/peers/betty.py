"""Betty: implicit gradients by `Problem.backward`, as its engine calls it at each outer step."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from betty.configs import Config
from betty.problems import ImplicitProblem
from torch import Tensor

from benchmarks.contenders import FEW, Contender, Effort
from benchmarks.entrants import Entrant
from benchmarks.problems import Batch, Case


def entrants(case: Case) -> Iterable[Entrant]:
    """None: its cost is that of the same products."""
    return ()


def contenders(case: Case, lr: float) -> Iterable[Contender]:
    """CG as it is set by default (`cg_alpha=1`), Neumann, and the default type."""

    def cg(steps: int) -> Config:
        return Config(type="cg", cg_iterations=steps)

    def neumann(steps: int) -> Config:
        return Config(type="neumann", neumann_iterations=steps, neumann_alpha=lr)

    def darts(steps: int) -> Config:
        return Config(type="darts")

    yield Contender("Betty", "CG", lambda k: Effort(_run(case, cg(k)), lambda: k))
    yield Contender(
        "Betty", "Neumann, our lr", lambda k: Effort(_run(case, neumann(k)), lambda: k), FEW
    )
    yield Contender(
        "Betty", "its default, darts", lambda k: Effort(_run(case, darts(k)), lambda: 0), (1,)
    )


class _Inner(ImplicitProblem):
    """The inner level: the weights."""

    case: Case

    def training_step(self, batch: Batch) -> Tensor:
        return self.case.inner(*batch)


class _Outer(ImplicitProblem):
    """The outer level: λ."""

    case: Case

    def training_step(self, batch: Batch) -> Tensor:
        return self.case.outer(*batch)


def _run(case: Case, config: Config) -> Callable[[], list[Tensor]]:
    inner = _Inner("inner", config, module=case.model, device="cpu")
    outer = _Outer("outer", Config(retain_graph=True), module=case.hyper, device="cpu")
    inner.case, outer.case = case, case
    inner.cur_batch, outer.cur_batch = case.batch, case.outer_batch
    outer.add_paths([[outer, inner, outer]])

    def run() -> list[Tensor]:
        case.hyper.zero_grad()
        loss = outer.training_step_exec(outer.cur_batch)
        outer.backward(
            loss, outer.trainable_parameters(), outer.paths, retain_graph=True, allow_unused=True
        )
        return case.gradients()

    return run
