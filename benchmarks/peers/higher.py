"""higher: unrolling through `innerloop_ctx`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import higher
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.contenders import FEW, Contender, Effort
from benchmarks.entrants import LR, Entrant
from benchmarks.problems import Case


def entrants(case: Case) -> Iterable[Entrant]:
    """It unrolls, nothing else."""
    yield Entrant("higher", "unroll 5", "", _unrolled(case, 5, LR))


def contenders(case: Case, lr: float) -> Iterable[Contender]:
    """Steps of gradient descent from the best response."""
    yield Contender(
        "higher", "unroll, our lr", lambda k: Effort(_unrolled(case, k, lr), lambda: k), FEW
    )


def _unrolled(case: Case, steps: int, lr: float) -> Callable[[], list[Tensor]]:
    model = copy.deepcopy(case.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def run() -> list[Tensor]:
        hyper = [h.detach().requires_grad_() for h in case.hyper_tensors()]
        x, y = case.batch
        with higher.innerloop_ctx(model, optimizer) as (functional, differentiable):
            for _ in range(steps):
                weights = list(functional.parameters())
                differentiable.step(case.inner_of(functional(x), y, weights, hyper))
            x, y = case.outer_batch
            return list(torch.autograd.grad(F.cross_entropy(functional(x), y), hyper))

    return run
