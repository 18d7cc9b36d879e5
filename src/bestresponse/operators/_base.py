"""The linear map that solvers see, and the algebra of such maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._tree import Space


class LinearOperator(ABC):
    """A symmetric linear map of vectors (n,) to vectors (n,).

    Supports `A + B` and `2.0 * A`. Sums and scalings are lazy.
    """

    @property
    @abstractmethod
    def space(self) -> Space:
        """Size, type and device of the vectors."""

    @property
    def size(self) -> int:
        """The dimension n."""
        return self.space.size

    @abstractmethod
    def mv(self, vector: Tensor) -> Tensor:
        """The product with a vector (n,)."""

    def terms(self) -> list[tuple[float, LinearOperator]]:
        """The operator as a sum of multiples of simpler ones, for those who know its structure."""
        return [(1.0, self)]

    def as_matrix(self) -> Tensor:
        """The dense (n, n) matrix, column by column: n products."""
        return torch.stack([self.mv(column) for column in self.space.eye()], dim=1)

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
    def space(self) -> Space:
        return self.left.space

    def terms(self) -> list[tuple[float, LinearOperator]]:
        return [*self.left.terms(), *self.right.terms()]

    def mv(self, vector: Tensor) -> Tensor:
        product, right = self.left.mv(vector), self.right
        if isinstance(right, _Scaled):  # damping: scaled without a vector of its own
            return torch.add(product, right.operator.mv(vector), alpha=right.factor)
        return product + right.mv(vector)

    def as_matrix(self) -> Tensor:
        return self.left.as_matrix() + self.right.as_matrix()


@dataclass(frozen=True)
class _Scaled(LinearOperator):
    operator: LinearOperator
    factor: float

    @property
    def space(self) -> Space:
        return self.operator.space

    def terms(self) -> list[tuple[float, LinearOperator]]:
        return [(self.factor * factor, term) for factor, term in self.operator.terms()]

    def mv(self, vector: Tensor) -> Tensor:
        return self.operator.mv(vector) * self.factor

    def as_matrix(self) -> Tensor:
        return self.operator.as_matrix() * self.factor
