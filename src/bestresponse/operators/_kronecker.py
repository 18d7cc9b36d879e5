"""Kronecker-factored curvature: one small matrix for each side of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._result import Memory
from bestresponse._tree import Layout, Space, Tree
from bestresponse.operators._base import LinearOperator
from bestresponse.operators._factors import Factors, LayerFactors
from bestresponse.operators._matrix import eigh

_OVERSAMPLED = 10  # columns of a random sketch beyond the rank that is kept


@dataclass(frozen=True)
class Eigen:
    """A symmetric matrix, or a stack of them, by leading eigenpairs and the mean of the others.

    Attributes:
        values: (..., rank).
        vectors: (..., n, rank).
        tail: (...,), the eigenvalue of everything outside of the vectors' span.
    """

    values: Tensor
    vectors: Tensor
    tail: Tensor

    @classmethod
    def of(cls, matrix: Tensor, rank: int | None) -> Eigen:
        """All eigenpairs up to `rank` of them; beyond it the leading ones, by a random sketch."""
        size = matrix.shape[-1]
        if rank is None or size <= rank + _OVERSAMPLED:
            values, vectors = eigh(matrix)
            return cls(values.clamp(min=0), vectors, torch.zeros_like(values[..., 0]))
        generator = torch.Generator().manual_seed(0)
        sketch = torch.randn(size, rank + _OVERSAMPLED, generator=generator)
        basis, _ = torch.linalg.qr(matrix @ (matrix @ sketch.to(matrix)))
        values, rotation = eigh(basis.mT @ matrix @ basis)
        rest = matrix.diagonal(dim1=-2, dim2=-1).sum(-1) - values.sum(-1)
        tail = rest.clamp(min=0) / (size - values.shape[-1])
        return cls(values.clamp(min=0), basis @ rotation, tail)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is outside of the vectors' span."""
        return self.vectors.shape[-1] == self.vectors.shape[-2]

    def dense(self) -> Tensor:
        """The matrix, (..., n, n)."""
        size = self.vectors.shape[-2]
        gap = (self.values - self.tail[..., None])[..., None, :]
        inside = (self.vectors * gap) @ self.vectors.mT
        identity = torch.eye(size, dtype=inside.dtype, device=inside.device)
        return inside + self.tail[..., None, None] * identity


@dataclass(frozen=True)
class KroneckerBlock:
    """One layer's curvature, left ⊗ right on matrices (groups, out, in): V ↦ left V right.

    Attributes:
        weight: name of the weight.
        bias: name of the bias, the last column of V; None without.
        left: of the propagated gradients, (groups, out, out).
        right: of the inputs, (groups, in, in).
    """

    weight: str
    bias: str | None
    left: Eigen
    right: Eigen

    def mv(self, matrix: Tensor) -> Tensor:
        """The product."""
        return self.left.dense() @ matrix @ self.right.dense()

    def solve(self, matrix: Tensor, damping: float) -> Tensor:
        """(left ⊗ right + damping·I)⁻¹ V, sector by sector where the factors are truncated."""
        left, right = self.left, self.right
        values = left.values[..., :, None] * right.values[..., None, :]
        rows, columns = left.vectors.mT @ matrix, matrix @ right.vectors
        corner = rows @ right.vectors
        inside = corner / (values + damping)
        if left.is_complete and right.is_complete:
            return left.vectors @ inside @ right.vectors.mT
        outer_rows = rows - corner @ right.vectors.mT
        outer_columns = columns - left.vectors @ corner
        outside = matrix - left.vectors @ rows - outer_columns @ right.vectors.mT
        by_row = left.values[..., :, None] * right.tail[..., None, None] + damping
        by_column = left.tail[..., None, None] * right.values[..., None, :] + damping
        beyond = (left.tail * right.tail)[..., None, None] + damping
        return (
            left.vectors @ (inside @ right.vectors.mT + outer_rows / by_row)
            + (outer_columns / by_column) @ right.vectors.mT
            + outside / beyond
        )


class Kronecker(LinearOperator):
    """Block-diagonal curvature: a Kronecker product a layer, a diagonal for the rest.

    Source: Martens, Grosse, "Optimizing Neural Networks with Kronecker-Factored Approximate
    Curvature" (2015), https://arxiv.org/abs/1503.05671; convolutions: Grosse, Martens (2016),
    https://arxiv.org/abs/1602.01407

    Args:
        layout: of the parameters.
        blocks: one a covered layer.
        diagonals: curvature of further parameters entry by entry.
    """

    def __init__(
        self,
        layout: Layout,
        blocks: tuple[KroneckerBlock, ...],
        diagonals: Mapping[str, Tensor],
    ) -> None:
        self.layout, self.blocks, self.diagonals = layout.uniform(), blocks, dict(diagonals)

    @classmethod
    def of(cls, layout: Layout, factors: Factors, rank: int | None = None) -> Kronecker:
        """From the two sides of each layer's gradients."""
        blocks = tuple(_block(layer, rank) for layer in factors.layers)
        diagonals = {part.name: part.diagonal() for part in factors.diagonals}
        return cls(layout, blocks, diagonals)

    @property
    def space(self) -> Space:
        """Size, type and device of the flat vectors."""
        return self.layout.space

    def mv(self, vector: Tensor) -> Tensor:
        """The product with a vector (n,); zero on parameters that no block covers."""
        tree = self.layout.unflatten(vector)
        product = {name: torch.zeros_like(leaf) for name, leaf in tree.items()}
        for block in self.blocks:
            product |= _to_tree(block, block.mv(_to_matrix(block, tree)), tree)
        product |= {name: diagonal * tree[name] for name, diagonal in self.diagonals.items()}
        return self.layout.flatten(product)

    def inverse(self, damping: float | Mapping[str, float] = 0.0) -> KroneckerInverse:
        """The operator (A + damping·I)⁻¹; a damping by name may differ from layer to layer."""
        if not isinstance(damping, Mapping):
            damping = dict.fromkeys(self.layout.names, damping)
        return KroneckerInverse(self, damping)

    def state(self) -> Memory:
        """Everything as plain tensors, for a state dict."""
        return {
            "blocks": [
                {
                    "weight": block.weight,
                    "bias": block.bias,
                    "left": vars(block.left) | {},
                    "right": vars(block.right) | {},
                }
                for block in self.blocks
            ],
            "diagonals": dict(self.diagonals),
        }

    @classmethod
    def from_state(cls, layout: Layout, state: Memory) -> Kronecker:
        """What `state()` gave."""
        blocks = tuple(
            KroneckerBlock(
                block["weight"], block["bias"], Eigen(**block["left"]), Eigen(**block["right"])
            )
            for block in state["blocks"]
        )
        return cls(layout, blocks, state["diagonals"])


class KroneckerInverse(LinearOperator):
    """(A + damping·I)⁻¹ of a `Kronecker` operator, exact."""

    def __init__(self, operator: Kronecker, damping: Mapping[str, float]) -> None:
        self._operator, self._damping = operator, damping

    @property
    def space(self) -> Space:
        """Size, type and device of the flat vectors."""
        return self._operator.space

    def mv(self, vector: Tensor) -> Tensor:
        """The product with a vector (n,); what no block covers is divided by the damping."""
        layout, damping = self._operator.layout, self._damping
        tree = layout.unflatten(vector)
        solved: Tree = {}
        for block in self._operator.blocks:
            matrix = block.solve(_to_matrix(block, tree), damping[block.weight])
            solved |= _to_tree(block, matrix, tree)
        for name, diagonal in self._operator.diagonals.items():
            solved[name] = tree[name] / (diagonal + damping[name])
        for name, leaf in tree.items():
            if name not in solved:
                solved[name] = leaf / damping[name]
        return layout.flatten(solved)


def _block(layer: LayerFactors, rank: int | None) -> KroneckerBlock:
    inputs = layer.inputs.flatten(1, 2)
    gradients = layer.gradients.flatten(2, 3)
    right = inputs.mT @ inputs / inputs.shape[1]
    left = torch.einsum("cgno,cgnp->gop", gradients, gradients)
    return KroneckerBlock(layer.weight, layer.bias, Eigen.of(left, rank), Eigen.of(right, rank))


def _to_matrix(block: KroneckerBlock, tree: Tree) -> Tensor:
    groups, outs = block.left.vectors.shape[:2]
    matrix = tree[block.weight].reshape(groups, outs, -1)
    if block.bias is None:
        return matrix
    return torch.cat([matrix, tree[block.bias].reshape(groups, outs, 1)], 2)


def _to_tree(block: KroneckerBlock, matrix: Tensor, like: Tree) -> Tree:
    if block.bias is None:
        return {block.weight: matrix.reshape(like[block.weight].shape)}
    return {
        block.weight: matrix[..., :-1].reshape(like[block.weight].shape),
        block.bias: matrix[..., -1].reshape(like[block.bias].shape),
    }
