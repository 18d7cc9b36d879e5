"""Eigenvalues from Krylov spaces: of a Lanczos matrix, and of a few steps of one's own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bestresponse.operators import LinearOperator
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


def extremes(quotients: list[float], ritz: list[float] | None) -> dict[str, float | None]:
    """What a solve saw of A's spectrum, as fields of `Stats`.

    Directions that a preconditioner or deflation made hide the largest eigenvalues, by a factor of
    hundreds, so that without Ritz values of A itself nothing is said of the largest.

    Args:
        quotients: Rayleigh quotients of A.
        ritz: Ritz values of A; None where those that were found are of MA.
    """
    seen = [*filter(math.isfinite, quotients), *(ritz or [])]
    if not seen:
        return {}
    return {
        "largest_curvature": None if ritz is None else max(seen),
        "smallest_curvature": min(seen),
    }


def power_steps(operator: LinearOperator, vector: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The Rayleigh quotient of the last of some power iterates of A, and the next iterate.

    A lower bound of the largest eigenvalue of a positive semidefinite A, for one product a step.
    """
    quotient = vector.new_zeros(())
    for _ in range(steps):
        vector = _unit(vector)
        image = operator.mv(vector)
        quotient, vector = vector @ image, image
    return quotient, _unit(vector)


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
