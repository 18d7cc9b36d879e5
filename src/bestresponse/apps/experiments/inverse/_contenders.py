"""Whom `inverse-comparison` compares: one line each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import bestresponse as br
from bestresponse.apps import _figures as colors

SolverOf = Callable[[int], Any]
"""A solver for a number of steps."""


@dataclass(frozen=True)
class Contender:
    """A way to a hypergradient, for any number of steps.

    Attributes:
        key: its name in the headline.
        label: its name for people.
        solver: for one call that knows of no other.
        color: of its lines.
        warm: along outer steps, where a call takes on what the last one left; None is `solver`.
        gauss_newton: whether the Gauss-Newton matrix stands for the Hessian.
        budget: whether the number of steps makes a difference.
        dashed: how its lines are drawn.
    """

    key: str
    label: str
    solver: SolverOf
    color: str
    warm: SolverOf | None = None
    gauss_newton: bool = False
    budget: bool = True
    dashed: bool = False

    def method(self, steps: int, curvature: br.GaussNewton, *, warm: bool = False) -> br.Implicit:
        """The method with so many steps."""
        solver = (self.warm or self.solver) if warm else self.solver
        return br.Implicit(solver(steps), curvature=curvature if self.gauss_newton else None)


RECOMMENDED = Contender(
    "recommended",
    "CG + KFAC",
    lambda k: br.CG(k, preconditioner=br.KFAC()),
    colors.BLUE,
    warm=lambda k: br.CG(k, preconditioner=br.KFAC(refresh=20), warm_start=True, recycle=10),
    gauss_newton=True,
)
PLAIN_CG = Contender("plain_cg", "CG", lambda k: br.CG(k), colors.GREY)
_MINRES = Contender("minres", "MINRES", lambda k: br.MINRES(k), colors.PINK)
NEUMANN = Contender("neumann", "Neumann", lambda k: br.Neumann(max_steps=k), colors.ORANGE)
IDENTITY = Contender("identity", "identity (T1–T2)", lambda k: br.Scale(), colors.RED, budget=False)

CONTENDERS = (
    RECOMMENDED,
    Contender("woodbury_cg", "CG + Woodbury", lambda k: br.CG(k, preconditioner=br.Woodbury()),
              colors.SKY, gauss_newton=True),
    Contender("nystrom_cg", "CG + Nyström 20", lambda k: br.CG(k, preconditioner=br.Nystrom(20)),
              colors.GREEN, gauss_newton=True),
    PLAIN_CG,
    Contender("warm_cg", "CG, warm start", lambda k: br.CG(k), colors.GREY,
              warm=lambda k: br.CG(k, warm_start=True, recycle=10), dashed=True),
    _MINRES,
    Contender("neumann_kfac", "Neumann + KFAC",
              lambda k: br.Neumann(max_steps=k, preconditioner=br.KFAC()),
              colors.ORANGE, gauss_newton=True, dashed=True),
    NEUMANN,
    Contender("flexible_cg", "CG + 3 steps of CG", lambda k: br.CG(k, preconditioner=br.CG(3)),
              colors.PINK, dashed=True),
    Contender("nystrom", "Nyström 20 alone", lambda k: br.Nystrom(20), colors.GREEN,
              gauss_newton=True, budget=False),
    Contender("single_loop", "single loop, first call", lambda k: br.SingleLoop(), colors.SKY,
              budget=False),
    Contender("kfac", "KFAC alone", lambda k: br.KFAC(), colors.BLUE, gauss_newton=True,
              budget=False),
    IDENTITY,
)  # fmt: skip

OF_FEW_WEIGHTS = (RECOMMENDED, PLAIN_CG, _MINRES, NEUMANN, IDENTITY)
"""Those that make sense for a dozen weights."""
