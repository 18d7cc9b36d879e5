"""The exact inverse through the dense matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._result import Result
from bestresponse.operators import LinearOperator
from bestresponse.solvers._base import DirectSolver


@dataclass(frozen=True)
class Dense(DirectSolver):
    """A⁻¹b exactly, from the n × n matrix: n products and n² numbers of memory.

    For references and small problems. A matrix that is not positive definite is still solved
    exactly, with the result `negative_curvature`: the point is then no minimum of the inner loss.

    Example:
        >>> from bestresponse.operators import Matrix
        >>> from bestresponse.solvers import linear_solve
        >>> solution = linear_solve(Matrix(torch.tensor([[-2.0]])), torch.ones(1), Dense())
        >>> solution.value, solution.result.name
        (tensor([-0.5000]), 'negative_curvature')
    """

    def solve(
        self, operator: LinearOperator, vector: Tensor
    ) -> tuple[Tensor, Result, Tensor | None]:
        """Cholesky where the matrix is positive definite, LU otherwise."""
        matrix = operator.as_matrix()
        matrix = (matrix + matrix.T) / 2
        factor, indefinite = torch.linalg.cholesky_ex(matrix)
        if not bool(indefinite):
            value = torch.cholesky_solve(vector[:, None], factor)[:, 0]
            return value, Result.success, vector - matrix @ value
        value, singular = torch.linalg.solve_ex(matrix, vector)
        residual = vector - matrix @ value
        failed = bool(singular) or not bool(residual.norm() <= 1e-3 * vector.norm())
        result = Result.breakdown if failed else Result.negative_curvature
        return value, result, residual
