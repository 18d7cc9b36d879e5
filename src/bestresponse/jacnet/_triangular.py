"""Triangular maps: each output increases in its own input and depends on those before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._result import Solution
from bestresponse.jacnet._antiderivative import Knots, Table
from bestresponse.jacnet._certificate import Certificate
from bestresponse.jacnet._integral1d import Monotone1d
from bestresponse.jacnet._newton import is_close, solution
from bestresponse.jacnet._slopes import Slope, Softplus
from bestresponse.jacnet._structure import Structure


class Triangular(Structure):
    """fᵢ(x) = gᵢ(x₁…xᵢ₋₁) + ∫ slope(jᵢ(t; x₁…xᵢ₋₁)) dt up to xᵢ: Knothe-Rosenblatt maps.

    The Jacobian is lower triangular with a positive diagonal, so that f is one to one and onto.

    Args:
        dim: n.
        slope: of each output in its own input; its floor is positive.
        table: as in `Monotone1d`, shared by all dimensions.
        hidden: hidden units of each network.

    Source: Knothe, "Contributions to the Theory of Convex Bodies" (1957),
    https://doi.org/10.1307/mmj/1028990175

    Example:
        >>> f = Triangular(dim=3)
        >>> x = torch.randn(5, 3)
        >>> bool((f.inverse(f(x)).value - x).abs().max() < 1e-4)
        True
    """

    def __init__(
        self,
        dim: int,
        *,
        slope: Slope | None = None,
        table: Table | None = None,
        hidden: int | Sequence[int] = 32,
    ) -> None:
        super().__init__(dim, dim)
        if slope is not None and not slope.floor > 0:
            raise InputError(f"{slope} may fall to zero; give Triangular a positive floor.")
        self.columns = Monotone1d(
            dim,
            slope=slope or Softplus(1e-3),
            table=table or Knots(-4.0, 4.0, 17),
            hidden=hidden,
            context=dim,
            visible=torch.ones(dim, dim).tril(-1),
        )

    def _value(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.columns(x, x)

    def log_abs_det(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The sum of the logarithms of the diagonal, (...)."""
        self._check(x, self.dim_in, context)
        return torch.linalg.diagonal(self.jacobian(x)).log().sum(-1)

    def inverse(self, y: Tensor, context: Tensor | None = None, *, throw: bool = True) -> Solution:
        """One dimension after the other, each by the inverse in one dimension."""
        self._check_output(y, context)
        x, steps, evaluations = torch.zeros_like(y), 0, 0
        for i in range(self.dim_in):
            # the later entries of x are seen by no network yet
            found = self.columns.inverse(y, x, throw=False)
            mask = torch.arange(self.dim_in, device=y.device) == i
            x = torch.where(mask, found.value, x)
            steps, evaluations = steps + found.stats.steps, evaluations + found.stats.products
        with torch.no_grad():
            residual = self(x) - y
            reach = self.jacobian(x).flatten(-2).norm(dim=-1) * x.norm(dim=-1)
        converged = is_close(residual, y, reach)
        return solution(x, converged, residual, steps, evaluations, throw=throw)

    def certificate(self) -> Certificate:
        """Bijective; its slopes along the axes have a floor, its stretch has none."""
        if not self.columns.table.proves:
            return self.columns.certificate()
        return Certificate(
            "proved",
            "triangular and increasing along the diagonal, one to one and onto",
            invertible=True,
        )
