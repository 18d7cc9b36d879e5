"""Eigenvalues from Krylov spaces: of a Lanczos matrix, and of a few steps of one's own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bestresponse.solvers._base import System

_NEW = 0.5  # so much of a unit vector must be outside of the space


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
    space is made orthogonal as a whole, so that the map need not be symmetric. Where it ends early,
    rounding is as good a direction as any other to go on.

    Args:
        system: A, and M if there is one.
        start: a vector (n,).
        steps: products.
    """
    basis, images = [_unit(start)], []
    for _ in range(steps):
        image = system.operator.mv(basis[-1])
        images.append(image if system.inverse is None else system.inverse.mv(image))
        once = _unit(_orthogonal(images[-1], basis))
        twice = _orthogonal(once, basis)
        # what the second pass takes away was in the space: no direction, but zero
        basis.append(_unit(twice) * (twice.norm() > _NEW))
    projected = torch.stack(basis[:steps]) @ torch.stack(images).T
    projected = torch.nan_to_num(projected.double(), posinf=0.0, neginf=0.0)
    return torch.linalg.eigvals(projected).real.max().to(start.dtype)


def _orthogonal(vector: Tensor, basis: list[Tensor]) -> Tensor:
    for known in basis:
        vector = vector - (known @ vector) * known
    return vector


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm().clamp(min=torch.finfo(vector.dtype).tiny)
