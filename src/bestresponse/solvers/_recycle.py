"""Directions of earlier solves, used again: deflation by their Ritz vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._result import Memory
from bestresponse._tree import Space
from bestresponse.operators import LinearOperator

_TRUE = 0.3  # images further off than this cost more products than they save


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


def recycled(earlier: Memory, directions: Tensor, images: Tensor, keep: int) -> Memory:
    """Ritz vectors of a solve, and of earlier ones while their images are still true.

    Args:
        earlier: what this returned after the last solve, or nothing.
        directions: P, (k, n), one a row.
        images: AP, (k, n).
        keep: how many vectors.
    """
    lengths = directions.norm(dim=1, keepdim=True)
    known = (lengths[:, 0] > 0) & lengths[:, 0].isfinite() & images.isfinite().all(dim=1)
    directions, images = directions[known] / lengths[known], images[known] / lengths[known]
    if not len(directions):
        return earlier
    if earlier and _still_true(earlier, directions, images):
        directions = torch.cat([earlier["vectors"], directions])
        images = torch.cat([earlier["images"], images])
    return ritz(directions, images, keep)


def _still_true(earlier: Memory, directions: Tensor, images: Tensor) -> bool:
    """Whether the old images of the old vectors agree with the new ones of the new directions.

    A is symmetric, so that wᵀ(Ap) and (Aw)ᵀp are to be equal; both have a natural unit, the
    lengths of w (which is 1) and of p in A.
    """
    new, old = earlier["vectors"] @ images.T, earlier["images"] @ directions.T
    lengths = (directions * images).sum(dim=1).abs().sqrt()
    return bool(((new - old) / lengths).norm() <= _TRUE)


def ritz(directions: Tensor, images: Tensor, keep: int) -> Memory:
    """The `keep` most telling A-orthonormal Ritz vectors in the span of directions, with images.

    Telling are the largest and the smallest Ritz values, by the distance of their logarithms from
    the middle: a preconditioner that misses them costs products.

    Args:
        directions: P, (k, n), one a row, of about equal length.
        images: AP, (k, n).
        keep: how many vectors.
    """
    rounding = torch.finfo(directions.dtype).eps ** 0.5
    # an orthonormal basis of what is independent beyond rounding
    spread, basis = torch.linalg.eigh((directions @ directions.T).double())
    independent = spread > rounding * spread[-1]
    basis = basis[:, independent] / spread[independent].sqrt()
    curvature = basis.T @ _symmetric(directions @ images.T).double() @ basis
    values, rotation = torch.linalg.eigh(curvature)
    positive = values > rounding * values[-1].abs()
    values, rotation = values[positive], rotation[:, positive]
    telling = (values.log() - values.log().mean()).abs().argsort(descending=True)[:keep]
    chosen = (basis @ (rotation[:, telling] / values[telling].sqrt())).T.to(directions.dtype)
    return {"vectors": chosen @ directions, "images": chosen @ images} if len(chosen) else {}


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2
