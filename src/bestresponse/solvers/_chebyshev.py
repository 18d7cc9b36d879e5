"""A fixed polynomial of a preconditioned operator, as a better approximate inverse."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bestresponse._tree import Space
from bestresponse.operators import LinearOperator

_REACH = 4.0  # n steps are aimed at condition numbers up to 4n²: at what a polynomial can do


@dataclass(frozen=True)
class Chebyshev(LinearOperator):
    """Some steps of Chebyshev's iteration on `operator` from zero, preconditioned.

    Unlike as many steps of CG it is a linear map, symmetric and positive definite, so that any
    solver takes it. (Steps of CG in its place made the outer CG up to six times longer.)

    Args:
        operator: K, cheaper than what the outer solve is on.
        inverse: M.
        steps: products with K.
        smallest: of the eigenvalues of MK; where it is very small the polynomial is aimed at the
            upper part of the spectrum, and still positive on the rest.
        largest: a number that none of them exceeds.

    Source: Saad, "Iterative Methods for Sparse Linear Systems" (2003), algorithm 12.1
    """

    operator: LinearOperator
    inverse: LinearOperator
    steps: int
    smallest: float
    largest: float

    @property
    def space(self) -> Space:
        """Size, type and device of the vectors."""
        return self.operator.space

    def mv(self, vector: Tensor) -> Tensor:
        """The iterate."""
        lowest = max(self.smallest, self.largest / (_REACH * self.steps**2))
        center, radius = (self.largest + lowest) / 2, (self.largest - lowest) / 2
        rate = radius / center
        step = self.inverse.mv(vector) / center
        value, residual = step.clone(), vector.clone()
        for _ in range(self.steps):
            residual -= self.operator.mv(step)
            following = 1 / (2 * center / radius - rate)
            step = following * (rate * step + 2 / radius * self.inverse.mv(residual))
            value += step
            rate = following
        return value
