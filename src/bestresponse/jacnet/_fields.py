"""What a network's output becomes to be a Jacobian: the paper's output activations.

Each of them structures the matrix at a point. In one dimension that is a property of the function;
in more it is one of the function only if the field happens to be a Jacobian, which none of them
ensures.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bestresponse._errors import InputError


class FieldActivation(ABC):
    """Matrices (..., m, n) from a network's raw output."""

    words: str
    """What is true of each matrix."""
    invertible = False
    """Whether each of them is."""

    def size(self, dim_out: int, dim_in: int) -> int:
        """How many outputs the network needs."""
        return dim_out * dim_in

    def check(self, dim_out: int, dim_in: int) -> None:
        """Refuse dimensions that this structure does not have."""
        if self.invertible and dim_out != dim_in:
            raise InputError(
                f"{type(self).__name__} makes square matrices, not {dim_out} × {dim_in}."
            )

    @abstractmethod
    def __call__(self, raw: Tensor, dim_out: int, dim_in: int) -> Tensor:
        """The matrices."""


@dataclass(frozen=True)
class Free(FieldActivation):
    """Any matrix."""

    words = "unconstrained"

    def __call__(self, raw: Tensor, dim_out: int, dim_in: int) -> Tensor:
        return raw.unflatten(-1, (dim_out, dim_in))


@dataclass(frozen=True)
class Gram(FieldActivation):
    """JJᵀ + floor·I: the paper's, symmetric positive definite."""

    floor: float = 1e-4
    words = "symmetric positive definite"
    invertible = True

    def __post_init__(self) -> None:
        _check_positive(self, "floor")

    def __call__(self, raw: Tensor, dim_out: int, dim_in: int) -> Tensor:
        root = raw.unflatten(-1, (dim_out, dim_in))
        return root @ root.mT + self.floor * _eye(raw, dim_in)


@dataclass(frozen=True)
class Tanh(FieldActivation):
    """bound·tanh, entry by entry: the paper's Lipschitz activation.

    Entries of at most `bound` bound the norm by bound·√(mn), not by bound.
    """

    bound: float = 1.0
    words = "entries within a bound"

    def __post_init__(self) -> None:
        _check_positive(self, "bound")

    def __call__(self, raw: Tensor, dim_out: int, dim_in: int) -> Tensor:
        return self.bound * torch.tanh(raw.unflatten(-1, (dim_out, dim_in)))


@dataclass(frozen=True)
class SpectralCap(FieldActivation):
    """J / max(1, ‖J‖/bound): spectral norms of at most `bound`."""

    bound: float = 1.0
    words = "spectral norm within a bound"

    def __post_init__(self) -> None:
        _check_positive(self, "bound")

    def __call__(self, raw: Tensor, dim_out: int, dim_in: int) -> Tensor:
        matrices = raw.unflatten(-1, (dim_out, dim_in))
        norms = torch.linalg.matrix_norm(matrices, 2)[..., None, None]
        return matrices / (norms / self.bound).clamp(min=1)


@dataclass(frozen=True)
class DefinitePlusSkew(FieldActivation):
    """JJᵀ + floor·I + (K − Kᵀ): positive definite symmetric part, any skew one."""

    floor: float = 1e-4
    words = "positive definite symmetric part"
    invertible = True

    def __post_init__(self) -> None:
        _check_positive(self, "floor")

    def size(self, dim_out: int, dim_in: int) -> int:
        """Two matrices."""
        return 2 * dim_out * dim_in

    def __call__(self, raw: Tensor, dim_out: int, dim_in: int) -> Tensor:
        root, skew = raw.unflatten(-1, (2, dim_out, dim_in)).unbind(-3)
        return root @ root.mT + self.floor * _eye(raw, dim_in) + skew - skew.mT


@dataclass(frozen=True)
class LowerUpper(FieldActivation):
    """LU with ones on L's diagonal and floor + softplus on U's: positive determinant."""

    floor: float = 1e-4
    words = "positive determinant"
    invertible = True

    def __post_init__(self) -> None:
        _check_positive(self, "floor")

    def __call__(self, raw: Tensor, dim_out: int, dim_in: int) -> Tensor:
        matrix = raw.unflatten(-1, (dim_out, dim_in))
        diagonal = self.floor + F.softplus(matrix.diagonal(dim1=-2, dim2=-1))
        lower = matrix.tril(-1) + _eye(raw, dim_in)
        return lower @ (matrix.triu(1) + torch.diag_embed(diagonal))


@dataclass(frozen=True)
class Exponential(FieldActivation):
    """The matrix exponential: positive determinant."""

    words = "positive determinant"
    invertible = True

    def __call__(self, raw: Tensor, dim_out: int, dim_in: int) -> Tensor:
        return torch.linalg.matrix_exp(raw.unflatten(-1, (dim_out, dim_in)))


@dataclass(frozen=True)
class CauchyRiemann(FieldActivation):
    """[[A, −B], [B, A]]: at each point the Jacobian of a complex linear map."""

    words = "satisfies the Cauchy-Riemann equations at a point"

    def size(self, dim_out: int, dim_in: int) -> int:
        """A and B."""
        return dim_out * dim_in // 2

    def check(self, dim_out: int, dim_in: int) -> None:
        """Both dimensions are even."""
        if dim_out % 2 or dim_in % 2:
            raise InputError(f"CauchyRiemann needs even dimensions, not {dim_out} and {dim_in}.")

    def __call__(self, raw: Tensor, dim_out: int, dim_in: int) -> Tensor:
        a, b = raw.unflatten(-1, (2, dim_out // 2, dim_in // 2)).unbind(-3)
        return torch.cat([torch.cat([a, -b], -1), torch.cat([b, a], -1)], -2)


@dataclass(frozen=True)
class KroneckerProduct(FieldActivation):
    """A(x) ⊗ B(x) of p × p and q × q matrices, each positive definite.

    Args:
        rows: p; q is what remains of the dimension.
        floor: added to both diagonals.
    """

    rows: int
    floor: float = 1e-2
    words = "Kronecker product of positive definite matrices"
    invertible = True

    def __post_init__(self) -> None:
        _check_positive(self, "floor")

    def size(self, dim_out: int, dim_in: int) -> int:
        """Roots of both factors."""
        return self.rows**2 + (dim_in // self.rows) ** 2

    def check(self, dim_out: int, dim_in: int) -> None:
        """P divides the dimension."""
        super().check(dim_out, dim_in)
        if self.rows < 1 or dim_in % self.rows:
            raise InputError(f"KroneckerProduct(rows={self.rows}) does not divide {dim_in}.")

    def __call__(self, raw: Tensor, dim_out: int, dim_in: int) -> Tensor:
        p, q = self.rows, dim_in // self.rows
        sizes = (p, q)
        roots = [
            part.unflatten(-1, (size, size))
            for part, size in zip(raw.split([p * p, q * q], -1), sizes, strict=True)
        ]
        left, right = (
            root @ root.mT + self.floor * _eye(raw, size)
            for root, size in zip(roots, sizes, strict=True)
        )
        product = left[..., :, None, :, None] * right[..., None, :, None, :]
        return product.flatten(-4, -3).flatten(-2, -1)


def _check_positive(activation: FieldActivation, field: str) -> None:
    value = getattr(activation, field)
    if not 0 < value < math.inf:
        raise InputError(
            f"{type(activation).__name__}({field}={value}) must be positive, and finite."
        )


def _eye(like: Tensor, size: int) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)
