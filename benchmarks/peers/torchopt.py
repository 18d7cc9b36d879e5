"""TorchOpt: implicit gradients through `custom_root`, unrolling through `MetaSGD`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torchopt
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from benchmarks.contenders import FEW, Contender, Effort
from benchmarks.entrants import LR, Entrant
from benchmarks.problems import DECAYS, Case

Tensors = tuple[Tensor, ...]


def entrants(case: Case) -> Iterable[Entrant]:
    """Its nearest equivalents of our methods; it has none of `Scale`."""
    for steps in (5, 20):
        neumann = torchopt.linear_solve.solve_inv(ns=True, maxiter=steps, alpha=LR)
        yield _entrant(case, f"Neumann {steps}", "", neumann)
    settings = {"rtol": 0.0, "atol": 0.0, "ridge": case.damping}
    for steps in (5, 20):
        cg = torchopt.linear_solve.solve_cg(maxiter=steps, **settings)
        yield _entrant(case, f"CG {steps}", "", cg)
    if case.kind == DECAYS:  # once is enough to see what it costs
        normal = torchopt.linear_solve.solve_normal_cg(maxiter=5, **settings)
        yield _entrant(case, "CG 5", "normal equations, its default", normal)
    yield Entrant("TorchOpt", "unroll 5", "", _unrolled(case))


def contenders(case: Case, lr: float) -> Iterable[Contender]:
    """CG, CG as it is by default, and Neumann."""
    solvers = torchopt.linear_solve
    exact = {"rtol": 0.0, "atol": 0.0}

    def way(name: str, solve: Callable[[int], Any], products: int, **kwargs: Any) -> Contender:
        at = lambda k: Effort(_implicit(case, solve(k)), lambda: products * k)  # noqa: E731
        return Contender("TorchOpt", name, at, **kwargs)

    yield way("CG", lambda k: solvers.solve_cg(maxiter=k, **exact), 1)
    yield way(
        "CG on the normal equations, its default",
        lambda k: solvers.solve_normal_cg(maxiter=k, **exact),
        2,
        budgets=FEW[:-1],
    )
    neumann = lambda k: solvers.solve_inv(ns=True, maxiter=k, alpha=lr)  # noqa: E731
    yield way("Neumann, our lr", neumann, 1, budgets=FEW)


def _entrant(case: Case, method: str, note: str, solve: Any) -> Entrant:
    return Entrant("TorchOpt", method, note, _implicit(case, solve))


def _implicit(case: Case, solve: Any) -> Callable[[], list[Tensor]]:
    names = [name for name, _ in case.model.named_parameters()]

    def logits(params: Tensors, x: Tensor) -> Tensor:
        return functional_call(case.model, dict(zip(names, params, strict=True)), (x,))

    def inner(params: Tensors, hyper: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return case.inner_of(logits(params, x), y, params, hyper)

    @torchopt.diff.implicit.custom_root(torch.func.grad(inner), argnums=1, solve=solve)
    def best_response(params: Tensors, hyper: Tensors, x: Tensor, y: Tensor) -> Tensors:
        return params

    def run() -> list[Tensor]:
        params = tuple(w.detach() for w in case.model.parameters())
        hyper = tuple(h.detach().requires_grad_() for h in case.hyper_tensors())
        weights = best_response(params, hyper, *case.batch)
        x, y = case.outer_batch
        loss = F.cross_entropy(logits(weights, x), y)
        return list(torch.autograd.grad(loss, hyper))

    return run


def _unrolled(case: Case) -> Callable[[], list[Tensor]]:
    model = copy.deepcopy(case.model)

    def run() -> list[Tensor]:
        hyper = [h.detach().requires_grad_() for h in case.hyper_tensors()]
        x, y = case.batch
        optimizer = torchopt.MetaSGD(model, lr=LR)
        start = torchopt.extract_state_dict(model, by="reference")
        for _ in range(5):
            optimizer.step(case.inner_of(model(x), y, list(model.parameters()), hyper))
        gradient = torch.autograd.grad(F.cross_entropy(model(x), y), hyper)
        torchopt.recover_state_dict(model, start)
        return list(gradient)

    return run
