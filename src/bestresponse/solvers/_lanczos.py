"""The largest eigenvalue, from below, by a few Lanczos steps."""

from __future__ import annotations

import torch
from torch import Tensor

from bestresponse.solvers._base import System


def largest_ritz_value(system: System, start: Tensor, steps: int) -> Tensor:
    """The largest Ritz value of A, or of MA, in the Krylov space of `start`: `steps` products.

    A lower bound of the largest eigenvalue (of MA: an estimate), as a scalar on the device. The
    space is made orthogonal as a whole, so that the map need not be symmetric.

    Args:
        system: A, and M if there is one.
        start: a vector (n,).
        steps: products.
    """
    tiny = torch.finfo(start.dtype).tiny
    basis = [start / start.norm().clamp(min=tiny)]
    projected = start.new_zeros(steps + 1, steps)
    for column in range(steps):
        image = system.operator.mv(basis[column])
        image = image.clone() if system.inverse is None else system.inverse.mv(image)
        for row, vector in enumerate(basis):
            along = vector @ image
            projected[row, column] = along
            image = image - along * vector
        length = image.norm()
        projected[column + 1, column] = length
        basis.append(image / length.clamp(min=tiny))
    square = torch.nan_to_num(projected[:steps].double(), posinf=0.0, neginf=0.0)
    return torch.linalg.eigvals(square).real.max().to(start.dtype)
