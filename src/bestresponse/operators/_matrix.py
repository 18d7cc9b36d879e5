"""Operators that are known entry by entry."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._tree import Space
from bestresponse.operators._base import LinearOperator


@dataclass(frozen=True)
class Matrix(LinearOperator):
    """A dense symmetric matrix (n, n).

    Example:
        >>> Matrix(torch.tensor([[2.0, 0.0], [0.0, 3.0]])).mv(torch.ones(2))
        tensor([2., 3.])
    """

    matrix: Tensor

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or self.matrix.shape[0] != self.matrix.shape[1]:
            raise InputError(
                f"A matrix of shape {tuple(self.matrix.shape)} is not square; pass one of (n, n)."
            )

    @property
    def space(self) -> Space:
        """Size, type and device of the vectors."""
        return Space(self.matrix.shape[0], self.matrix.dtype, self.matrix.device)

    def mv(self, vector: Tensor) -> Tensor:
        """The product with a vector (n,)."""
        return self.matrix @ vector

    def as_matrix(self) -> Tensor:
        """The matrix itself."""
        return self.matrix

    def inverse(self, damping: float = 0.0) -> Matrix:
        """The operator (A + damping·I)⁻¹."""
        return Matrix(torch.linalg.inv(self.matrix + damping * self.space.eye()))


@dataclass(frozen=True)
class Diagonal(LinearOperator):
    """A diagonal matrix, given by its diagonal (n,).

    Example:
        >>> Diagonal(torch.tensor([1.0, 3.0])).inverse(damping=1.0).mv(torch.ones(2))
        tensor([0.5000, 0.2500])
    """

    diagonal: Tensor

    @property
    def space(self) -> Space:
        """Size, type and device of the vectors."""
        return Space(self.diagonal.numel(), self.diagonal.dtype, self.diagonal.device)

    def mv(self, vector: Tensor) -> Tensor:
        """The product with a vector (n,)."""
        return self.diagonal * vector

    def as_matrix(self) -> Tensor:
        """The dense diagonal matrix."""
        return torch.diag(self.diagonal)

    def inverse(self, damping: float = 0.0) -> Diagonal:
        """The operator (A + damping·I)⁻¹."""
        return Diagonal(1 / (self.diagonal + damping))


class Identity(LinearOperator):
    """The identity on vectors of `size` entries; `damping * Identity(...)` damps an operator.

    Example:
        >>> (0.5 * Identity(2)).mv(torch.ones(2))
        tensor([0.5000, 0.5000])
    """

    def __init__(
        self,
        size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self._space = Space(size, dtype, torch.device(device))

    @classmethod
    def of(cls, operator: LinearOperator) -> Identity:
        """The identity on the vectors of another operator."""
        space = operator.space
        return cls(space.size, space.dtype, space.device)

    @property
    def space(self) -> Space:
        """Size, type and device of the vectors."""
        return self._space

    def mv(self, vector: Tensor) -> Tensor:
        """The vector itself."""
        return vector

    def as_matrix(self) -> Tensor:
        """The dense identity matrix."""
        return self.space.eye()

    def inverse(self, damping: float = 0.0) -> LinearOperator:
        """The operator (I + damping·I)⁻¹."""
        return self * (1 / (1 + damping))


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors; NaN where the matrix is not finite, which LAPACK refuses."""
    finite = matrix.isfinite().all()
    values, vectors = torch.linalg.eigh(torch.where(finite, matrix, 0))
    return torch.where(finite, values, torch.nan), vectors
