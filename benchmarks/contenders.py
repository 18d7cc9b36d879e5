"""What is judged by accuracy: ways of computing a hypergradient that get better with work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

import bestresponse as br
from benchmarks.problems import Case

EVERY = (*range(1, 21), 22, 24, 26, 28, 30, 35, 40, 45, 50, 60, 70, 80, 100)
"""Budgets of what gets there."""

FEW = (1, 2, 5, 10, 20, 40, 100, 200)
"""Budgets of what does not."""


@dataclass(frozen=True)
class Contender:
    """One way, at any budget.

    Attributes:
        library: whose it is.
        name: of the way.
        at: given a budget of steps, what computes one hypergradient from nothing, as `Entrant.run`
            does, and the products it took; for a peer those are what its documentation says.
        budgets: that are worth trying.
    """

    library: str
    name: str
    at: Callable[[int], Effort]
    budgets: tuple[int, ...] = EVERY


@dataclass(frozen=True)
class Effort:
    """One hypergradient at a given budget.

    Attributes:
        run: computes it, by hyperparameter.
        products: with the operator of the whole batch.
        partial: further products, on a part of the rows, in products with all of them; known
            once it has run.
    """

    run: Callable[[], list[Tensor]]
    products: int
    partial: Callable[[], float] = lambda: 0.0


Recipe = Callable[[int], br.Implicit]


def logistic(case: Case) -> Iterable[Contender]:
    """Ours where the inner loss is convex: the exact Hessian, and what is known of layers."""
    curvature = case.gauss_newton()
    recipes: dict[str, tuple[Recipe, int]] = {
        "CG, exact Hessian": (lambda k: br.Implicit(br.CG(k)), 0),
        "CG, Gauss-Newton": (lambda k: br.Implicit(br.CG(k), curvature=curvature), 0),
        "**CG + KFAC, Gauss-Newton**": (
            lambda k: br.Implicit(br.CG(k, preconditioner=br.KFAC()), curvature=curvature), 0,
        ),
        "CG + Nyström 20": (lambda k: br.Implicit(br.CG(k, preconditioner=br.Nystrom(20))), 20),
        "MINRES": (lambda k: br.Implicit(br.MINRES(k)), 0),
        "Neumann, lr=None": (lambda k: br.Implicit(br.Neumann(max_steps=k)), 5),
    }  # fmt: skip
    return _ours(case, recipes, {"Neumann, lr=None": FEW})


def mlp(case: Case) -> Iterable[Contender]:
    """Ours where the Gauss-Newton matrix stands for the curvature."""
    curvature = case.gauss_newton()
    preconditioners = {
        "CG": None,
        "CG + KFAC": br.KFAC(damping=4e-3),
        "CG + Woodbury 256": br.Woodbury(256),
        "CG + Woodbury 512": br.Woodbury(512),
        "CG + Woodbury 1000": br.Woodbury(1000),
    }

    def recipe(inverse: br.KFAC | br.Woodbury | None) -> Recipe:
        return lambda k: br.Implicit(br.CG(k, preconditioner=inverse), curvature=curvature)

    recipes = {name: (recipe(inverse), 0) for name, inverse in preconditioners.items()}
    return _ours(case, recipes, dict.fromkeys(recipes, (2, 5, 10, 20)))


def _ours(
    case: Case,
    recipes: Mapping[str, tuple[Recipe, int]],
    budgets: Mapping[str, tuple[int, ...]],
) -> Iterable[Contender]:
    for name, (recipe, extra) in recipes.items():
        at = _at(case, recipe, extra)
        yield Contender("bestresponse", name, at, budgets.get(name, EVERY))


def _at(case: Case, recipe: Recipe, extra: int) -> Callable[[int], Effort]:
    def at(budget: int) -> Effort:
        method, last = recipe(budget), list[br.Nested]()

        def run() -> list[Tensor]:
            case.hyper.zero_grad()
            nested = case.nested(method)
            loss, report = nested(case.batch, case.outer_batch)
            loss.backward()
            assert report.products == budget + extra, f"{method}: {report}"
            last[:] = [nested]
            return [parameter.grad for parameter in case.hyper_tensors()]

        return Effort(run, budget + extra, lambda: partial_products(last[0], case, budget + 1))

    return at


def partial_products(nested: br.Nested, case: Case, applications: int) -> float:
    """What a preconditioner did on a part of the rows, in products with all of them."""
    memory = nested.state_dict()["memory"]
    rows = memory.get("preconditioner", {}).get("built", {}).get("rows")
    if not isinstance(rows, Tensor):
        return 0.0
    return applications * len(rows) / len(case.batch[1])


def cosine(gradient: Iterable[Tensor], reference: Tensor) -> float:
    """Of the angle between a hypergradient, in the order of the weights, and the true one."""
    flat = torch.cat([leaf.detach().reshape(-1) for leaf in gradient]).double()
    return float(torch.nn.functional.cosine_similarity(flat, reference, 0))
