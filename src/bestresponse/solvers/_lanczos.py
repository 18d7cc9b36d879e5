"""Eigenvalues from Krylov spaces: of a Lanczos matrix, and of a few steps of one's own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bestresponse.solvers._base import System


def ritz_values(diagonal: list[float], coupling: list[float]) -> list[float]:
    """The eigenvalues, in ascending order, of a symmetric tridiagonal matrix.

    Args:
        diagonal: k numbers.
        coupling: the k − 1 numbers beside it. Without any, or where one is not finite, there are
            no eigenvalues.
    """
    if not diagonal or not all(map(math.isfinite, [*diagonal, *coupling])):
        return []
    beside = torch.diag(torch.tensor(coupling, dtype=torch.float64), 1)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + beside + beside.T
    return torch.linalg.eigvalsh(matrix).tolist()


def largest_ritz_value(system: System, start: Tensor, steps: int) -> Tensor:
    """The largest Ritz value of A, or of MA, in the Krylov space of `start`: `steps` products.

    A lower bound of the largest eigenvalue (of MA: an estimate), as a scalar on the device. The
    space is made orthogonal as a whole, so that the map need not be symmetric.

    Args:
        system: A, and M if there is one.
        start: a vector (n,).
        steps: products.
    """
    rounding = start.numel() * torch.finfo(start.dtype).eps
    basis = [start / start.norm().clamp(min=torch.finfo(start.dtype).tiny)]
    projected = start.new_zeros(steps + 1, steps)
    for column in range(steps):
        image = system.operator.mv(basis[column])
        image = image if system.inverse is None else system.inverse.mv(image)
        whole = image.norm()
        for row, vector in enumerate(basis):
            along = vector @ image
            projected[row, column] = along
            image = image - along * vector
        length = image.norm()
        projected[column + 1, column] = length
        # where the space ends, what is left is rounding and no direction: go on with zero
        basis.append(image * torch.where(length > rounding * whole, 1 / length, 0))
    square = torch.nan_to_num(projected[:steps].double(), posinf=0.0, neginf=0.0)
    return torch.linalg.eigvals(square).real.max().to(start.dtype)
