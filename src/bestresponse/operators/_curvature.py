"""Curvature of the inner loss as a linear operator."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bestresponse._tree import Space
from bestresponse.operators._base import LinearOperator
from bestresponse.operators._linearize import Linearization


@dataclass(frozen=True)
class Hessian(LinearOperator):
    """The exact Hessian ∂²L_T/∂w² on the retained graph of a linearization.

    Source: Pearlmutter, "Fast Exact Multiplication by the Hessian" (1994),
    https://doi.org/10.1162/neco.1994.6.1.147

    Example:
        >>> import torch
        >>> loss = lambda params, hyper: 0.5 * (params["w"] ** 2).sum()
        >>> Hessian(Linearization(loss, {"w": torch.ones(2)}, {})).as_matrix()
        tensor([[1., 0.],
                [0., 1.]])
    """

    point: Linearization

    @property
    def space(self) -> Space:
        """Size, type and device of the flat vectors."""
        return self.point.layout.space

    def mv(self, vector: Tensor) -> Tensor:
        """The product with a vector (n,): about one gradient."""
        return self.point.hessian_product(vector)
