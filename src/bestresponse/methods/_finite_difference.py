"""Implicit differentiation with first-order gradients only."""

from __future__ import annotations

from dataclasses import dataclass, field

from bestresponse._errors import InputError
from bestresponse._problem import Problem
from bestresponse.methods._base import Hypergradient, Method
from bestresponse.methods._implicit import check_solve, implicit_hypergradient
from bestresponse.operators import Differences
from bestresponse.solvers import Scale, Solver


@dataclass(frozen=True)
class FiniteDifference(Method):
    """`Implicit`, with every second derivative taken as a central difference of gradients.

    For losses with an operation that has no second derivative, or too little memory for a second
    graph. Both gradients of a difference see the same dropout masks. In float32 expect three
    correct digits.

    Args:
        solver: how A⁻¹∂L_V/∂w is approximated; a product costs two gradients.
        epsilon: length of the difference step relative to the weights; None chooses by type.
        damping: added to the diagonal of A.

    Source: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search" (2019),
    https://arxiv.org/abs/1806.09055

    Example:
        >>> import torch, bestresponse as br
        >>> inner = lambda params, hyper: 0.5 * (params["w"] - hyper["a"]).square().sum()
        >>> outer = lambda params, hyper: 0.5 * params["w"].square().sum()
        >>> at = {"w": torch.tensor([3.0])}, {"a": torch.tensor([3.0])}
        >>> method = br.FiniteDifference(br.Scale(1.0))
        >>> round(float(br.hypergradient(inner, outer, *at, method).value["a"]), 2)
        3.0
    """

    solver: Solver = field(default_factory=Scale)
    epsilon: float | None = None
    damping: float = 0.0

    def __post_init__(self) -> None:
        check_solve(self.solver, self.damping)
        if self.epsilon is not None and not self.epsilon > 0:
            raise InputError(f"epsilon={self.epsilon} is not positive; use None or about 1e-3.")

    def differentiate(self, problem: Problem) -> Hypergradient:
        """Two gradients a product, and two for the mixed product."""
        outer = problem.outer_gradients(problem.params)
        point = Differences(problem.inner_loss, problem.params, problem.hyper, self.epsilon)
        return implicit_hypergradient(problem, outer, point, self.solver, self.damping)
