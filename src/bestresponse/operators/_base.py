"""The linear map that solvers see, and the algebra of such maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._errors import InputError


class LinearOperator(ABC):
    """A symmetric linear map of vectors (n,) to vectors (n,).

    Supports `A + B` and `2.0 * A`. Sums and scalings are lazy.
    """

    @property
    @abstractmethod
    def size(self) -> int:
        """The dimension n."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Type of the vectors."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the vectors."""

    @abstractmethod
    def mv(self, vector: Tensor) -> Tensor:
        """The product with a vector (n,)."""

    def as_matrix(self) -> Tensor:
        """The dense (n, n) matrix, column by column: n products."""
        basis = torch.eye(self.size, dtype=self.dtype, device=self.device)
        return torch.stack([self.mv(column) for column in basis], dim=1)

    def __add__(self, other: LinearOperator) -> LinearOperator:
        return _Sum(self, other)

    def __mul__(self, factor: float) -> LinearOperator:
        return _Scaled(self, factor)

    __rmul__ = __mul__


@dataclass(frozen=True)
class _Sum(LinearOperator):
    left: LinearOperator
    right: LinearOperator

    def __post_init__(self) -> None:
        if self.left.size != self.right.size:
            raise InputError(
                f"Operators of size {self.left.size} and {self.right.size} cannot be added; "
                "they must act on the same parameters."
            )

    @property
    def size(self) -> int:
        return self.left.size

    @property
    def dtype(self) -> torch.dtype:
        return self.left.dtype

    @property
    def device(self) -> torch.device:
        return self.left.device

    def mv(self, vector: Tensor) -> Tensor:
        return self.left.mv(vector) + self.right.mv(vector)

    def as_matrix(self) -> Tensor:
        return self.left.as_matrix() + self.right.as_matrix()


@dataclass(frozen=True)
class _Scaled(LinearOperator):
    operator: LinearOperator
    factor: float

    @property
    def size(self) -> int:
        return self.operator.size

    @property
    def dtype(self) -> torch.dtype:
        return self.operator.dtype

    @property
    def device(self) -> torch.device:
        return self.operator.device

    def mv(self, vector: Tensor) -> Tensor:
        return self.operator.mv(vector) * self.factor

    def as_matrix(self) -> Tensor:
        return self.operator.as_matrix() * self.factor
