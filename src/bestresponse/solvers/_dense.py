"""The exact inverse through the dense matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._result import Result
from bestresponse.operators import LinearOperator
from bestresponse.solvers._base import DirectSolver

_SOLVED = 1e-3  # a relative residual above this is no solution


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
        if not bool(matrix.isfinite().all() & vector.isfinite().all()):
            return vector, Result.nonfinite, None
        factor, indefinite = torch.linalg.cholesky_ex(matrix)
        if not bool(indefinite):
            value, result = torch.cholesky_solve(vector[:, None], factor)[:, 0], Result.success
        else:
            value, result = torch.linalg.solve_ex(matrix, vector)[0], Result.negative_curvature
        residual = vector - matrix @ value
        # rounding can hide a singular matrix from a factorization, but not from the residual
        solved = bool(residual.norm() <= _SOLVED * vector.norm())
        return value, result if solved else Result.breakdown, residual
