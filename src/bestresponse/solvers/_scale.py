"""The crudest inverse: a multiple of the identity."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bestresponse._result import Result
from bestresponse.operators import LinearOperator
from bestresponse.solvers._base import DirectSolver


@dataclass(frozen=True)
class Scale(DirectSolver):
    """A⁻¹b ≈ alpha·b, without a single product ("T1–T2").

    The cheapest hypergradient: two gradients. Its direction is right where the inner Hessian is
    close to a multiple of the identity, and it only ever claims that.

    Args:
        alpha: the scale; the inverse of a typical curvature.

    Source: Luketina, Berglund, Greff, Raiko, "Scalable Gradient-Based Tuning of Continuous
    Regularization Hyperparameters" (2016), https://arxiv.org/abs/1511.06727

    Example:
        >>> import torch
        >>> from bestresponse.operators import Identity
        >>> from bestresponse.solvers import linear_solve
        >>> linear_solve(Identity(2), torch.ones(2), Scale(alpha=0.5)).value
        tensor([0.5000, 0.5000])
    """

    alpha: float = 1.0
    stochastic = True

    def solve(
        self, operator: LinearOperator, vector: Tensor
    ) -> tuple[Tensor, Result, Tensor | None]:
        """alpha·b; the residual stays unknown."""
        return self.alpha * vector, Result.success, None
