"""Directions of earlier solves, used again: deflation by their Ritz vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._result import Memory
from bestresponse._tree import Space
from bestresponse.operators import LinearOperator


@dataclass(frozen=True)
class Deflated(LinearOperator):
    """M corrected on a subspace where A is known: on span(W) it is exactly the inverse.

    (I − WYᵀ) M (I − YWᵀ) + WWᵀ with Y = AW and WᵀAW = I: symmetric positive definite whenever M
    is, even where Y belongs to an earlier A.

    Args:
        inner: M; None is the identity.
        vectors: W, (k, n), one vector a row.
        images: Y, (k, n).

    Source: Gratton, Sartenaer, Tshimanga, "On a Class of Limited Memory Preconditioners for Large
    Scale Linear Systems" (2011), https://doi.org/10.1137/08074008
    """

    inner: LinearOperator | None
    vectors: Tensor
    images: Tensor

    @property
    def space(self) -> Space:
        """Size, type and device of the vectors."""
        return Space(self.vectors.shape[1], self.vectors.dtype, self.vectors.device)

    def mv(self, vector: Tensor) -> Tensor:
        """The product with a vector (n,): four thin products beside M's own."""
        known = self.vectors @ vector
        rest = torch.addmv(vector, self.images.T, known, alpha=-1)
        rest = rest if self.inner is None else self.inner.mv(rest)
        return torch.addmv(rest, self.vectors.T, known - self.images @ rest)


def ritz(directions: Tensor, images: Tensor, keep: int) -> Memory:
    """The `keep` most telling A-orthonormal Ritz vectors in the span of directions, with images.

    Telling are the largest and the smallest Ritz values, by the distance of their logarithms from
    the middle: a preconditioner that misses them costs products.

    Args:
        directions: P, (k, n), one a row.
        images: AP, (k, n).
        keep: how many vectors.
    """
    lengths = directions.norm(dim=1, keepdim=True)
    known = (lengths[:, 0] > 0) & lengths[:, 0].isfinite()
    directions, images = directions[known] / lengths[known], images[known] / lengths[known]
    if not len(directions):
        return {}
    curvature = _symmetric(directions @ images.T).double()
    gram = _symmetric(directions @ directions.T).double()
    values, basis = torch.linalg.eigh(curvature)
    positive = values > torch.finfo(directions.dtype).eps * values[-1]
    basis = basis[:, positive] / values[positive].sqrt()
    # in this basis the curvature is I, and the Gram matrix has the inverse Ritz values
    inverse_ritz, rotation = torch.linalg.eigh(basis.T @ gram @ basis)
    telling = (inverse_ritz.log() - inverse_ritz.log().mean()).abs().argsort(descending=True)
    chosen = (basis @ rotation[:, telling[:keep]]).T.to(directions.dtype)
    return {"vectors": chosen @ directions, "images": chosen @ images}


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2
