"""What is judged by accuracy: ways of computing a hypergradient that get better with work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

import bestresponse as br
from benchmarks.problems import Case
from bestresponse._nested import next_problem
from bestresponse.solvers import IterativeSolver

EVERY = tuple(range(1, 31))
"""Budgets of what gets there at once."""

MANY = (2, 5, 10, 20, 26, 28, 30, 32, 35, 40, 45, 50, 60, 70, 80, 100, 150, 200)
"""Budgets of what gets there later."""

FEW = (1, 2, 5, 10, 20, 40, 100, 200)
"""Budgets of what does not."""

RECOMMENDED = "**CG + KFAC, Gauss-Newton**"


@dataclass(frozen=True)
class Contender:
    """One way, at any budget.

    Attributes:
        library: whose it is.
        name: of the way.
        at: given a budget of steps, what computes one hypergradient from nothing.
        budgets: that are worth trying.
    """

    library: str
    name: str
    at: Callable[[int], Effort]
    budgets: tuple[int, ...] = MANY


@dataclass(frozen=True)
class Effort:
    """One hypergradient at a given budget.

    Attributes:
        run: computes it, by hyperparameter, as `Entrant.run` does.
        products: of the curvature of the whole batch, known once it has run; for a peer what its
            algorithm says.
        partial: further products, on a part of the rows, in products with all of them.
    """

    run: Callable[[], list[Tensor]]
    products: Callable[[], int]
    partial: Callable[[], float] = lambda: 0.0


Recipe = Callable[[int], br.Implicit]


def logistic(case: Case) -> Iterable[Contender]:
    """Ours where the inner loss is convex: the exact Hessian, and what is known of layers."""
    curvature = case.gauss_newton()
    recipes: dict[str, Recipe] = {
        "CG, exact Hessian": lambda k: br.Implicit(br.CG(k)),
        "CG, Gauss-Newton": lambda k: br.Implicit(br.CG(k), curvature=curvature),
        RECOMMENDED: lambda k: br.Implicit(br.CG(k, preconditioner=br.KFAC()), curvature=curvature),
        "CG + Nyström 20": lambda k: br.Implicit(br.CG(k, preconditioner=br.Nystrom(20))),
        "MINRES": lambda k: br.Implicit(br.MINRES(k)),
        "Neumann, lr=None": lambda k: br.Implicit(br.Neumann(max_steps=k)),
    }
    return _ours(case, recipes, {RECOMMENDED: EVERY, "Neumann, lr=None": FEW})


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

    recipes = {name: recipe(inverse) for name, inverse in preconditioners.items()}
    return _ours(case, recipes, dict.fromkeys(recipes, (2, 5, 10, 20)))


def _ours(
    case: Case, recipes: Mapping[str, Recipe], budgets: Mapping[str, tuple[int, ...]]
) -> Iterable[Contender]:
    for name, recipe in recipes.items():
        yield Contender("bestresponse", name, _at(case, recipe), budgets.get(name, MANY))


def _at(case: Case, recipe: Recipe) -> Callable[[int], Effort]:
    def at(budget: int) -> Effort:
        call = Call(case.nested(recipe(budget)), case)
        return Effort(call, lambda: call.report.products, call.partial)

    return at


class Call:
    """One call and its `backward()`; what it took is known afterwards."""

    report: br.Report

    def __init__(self, nested: br.Nested, case: Case) -> None:
        self._nested, self._case = nested, case

    def __call__(self) -> list[Tensor]:
        """The hypergradient by hyperparameter."""
        self._case.hyper.zero_grad()
        loss, self.report = self._nested(self._case.batch, self._case.outer_batch)
        loss.backward()
        return self._case.gradients()

    def partial(self) -> float:
        """What the preconditioner did on a part of the rows, in products with all of them."""
        method = self._nested.method
        assert isinstance(method, br.Implicit) and isinstance(method.solver, IterativeSolver)
        recipe = method.solver.preconditioner
        if not isinstance(recipe, br.Woodbury):
            return 0.0
        batches = self._case.batch, self._case.outer_batch
        with next_problem(self._nested, *batches) as here:
            operator = method.point(here).curvature
            with torch.no_grad():
                rows = recipe.build(operator)["rows"]
        applications = self.report.steps + 1
        return applications * len(rows) / len(self._case.batch[1])


def cosine(gradient: Iterable[Tensor], reference: Tensor) -> float:
    """Of the angle between a hypergradient, in the order of the weights, and the true one."""
    flat = torch.cat([leaf.detach().reshape(-1) for leaf in gradient]).double()
    return float(torch.nn.functional.cosine_similarity(flat, reference, 0))
