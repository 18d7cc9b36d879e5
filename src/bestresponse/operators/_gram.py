"""The inverse of a Gauss-Newton matrix of a few terms plus a diagonal, in the terms' own space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._tree import Layout, Space
from bestresponse.operators._base import LinearOperator
from bestresponse.operators._factors import Factors, LayerFactors
from bestresponse.operators._gauss_newton import PulledBack

_CHUNK = 2**24  # entries of one block of explicit gradients


class WoodburyInverse(LinearOperator):
    """(D + Σ_k g_k g_kᵀ)⁻¹ = D⁻¹ − D⁻¹Gᵀ(I + GD⁻¹Gᵀ)⁻¹GD⁻¹, with g_k = Jᵀu_k for chosen terms u_k.

    The Gram matrix GD⁻¹Gᵀ is made from the two sides of each layer's gradients, so that no
    gradient is ever written out where layers see one position a row; G itself is applied through
    the model, on the chosen rows only. The two must belong together, or the inverse may be
    indefinite; one random combination of the terms tells.

    Args:
        part: curvature of the chosen rows, recorded.
        factors: of `part`, for `columns` of its root.
        columns: cotangents, (columns, rows, ...).
        terms: (rank, 2), the column and the row of each term.
        diagonal: D by parameter, a number each.

    Raises:
        InputError: if no layer is known, or the Gram matrix is not that of the model.
    """

    def __init__(
        self,
        part: PulledBack,
        factors: Factors,
        columns: Tensor,
        terms: Tensor,
        diagonal: Mapping[str, float],
    ) -> None:
        layout = part.outputs.layout
        self._part, self._terms = part, terms.to(layout.device)
        chosen = columns.flatten(2) if columns.ndim > 2 else columns[..., None]
        self._vectors = chosen[terms[:, 0], terms[:, 1]].to(layout.device, layout.dtype)
        # parameters that no factor covers are divided by the diagonal alone
        self._inverse_diagonal = _constant(layout, {n: 1 / d for n, d in diagonal.items()})
        self._covered = (
            _constant(layout, {name: float(name not in factors.uncovered) for name in diagonal})
            if factors.uncovered
            else None
        )
        gram = gram_matrix(factors, self._terms, diagonal)
        self._check(gram)
        # rounded products with G must not outgrow the Gram matrix, or the inverse is indefinite
        gram *= 1 + 8 * torch.finfo(part.outputs.value.dtype).eps
        gram.diagonal().add_(1)
        self._factor, _ = torch.linalg.cholesky_ex(gram)  # fails for what is not finite only

    def _check(self, gram: Tensor) -> None:
        """Compare Gx with GD⁻¹Gᵀx through the model: in both directions of differentiation."""
        x = 2.0 * (torch.arange(len(gram), device=gram.device) % 2) - 1
        outputs = self._part.outputs
        x = x.to(gram)
        scaled = self._inverse_diagonal * self._transposed(x)
        image = outputs.tested_jvp(scaled)
        if not _close(self._along(image), gram @ x, outputs.value.dtype):
            raise InputError(
                "Woodbury needs rows that do not see each other, in the first dimension of every "
                "layer (batch norm in training mode mixes them); use br.KFAC or br.Nystrom."
            )

    @property
    def layout(self) -> Layout:
        """Of the parameters."""
        return self._part.outputs.layout

    @property
    def space(self) -> Space:
        """Size, type and device of the flat vectors."""
        return self.layout.space

    def mv(self, vector: Tensor) -> Tensor:
        """The product with a vector (n,): Jv and Jᵀu on the chosen rows."""
        scaled = vector * self._inverse_diagonal
        along = self._along(self._part.outputs.jvp(self._masked(scaled)))
        solved = torch.cholesky_solve(along[:, None], self._factor)[:, 0]
        return scaled - self._inverse_diagonal * self._transposed(solved)

    def _along(self, image: Tensor) -> Tensor:
        """⟨u_k, image⟩ for each term."""
        rows = image.reshape(len(image), -1)[self._terms[:, 1]]
        return (rows.to(self._vectors) * self._vectors).sum(1)

    def _transposed(self, weights: Tensor) -> Tensor:
        """Gᵀ of a weight for each term."""
        value = self._part.outputs.value
        cotangent = self._vectors.new_zeros(len(value), self._vectors.shape[1])
        cotangent.index_add_(0, self._terms[:, 1], weights[:, None] * self._vectors)
        return self._masked(self._part.outputs.vjp(cotangent.reshape(value.shape).to(value)))

    def _masked(self, vector: Tensor) -> Tensor:
        return vector if self._covered is None else vector * self._covered


def gram_matrix(factors: Factors, terms: Tensor, diagonal: Mapping[str, float]) -> Tensor:
    """GD⁻¹Gᵀ for the chosen terms, (rank, rank)."""
    parts = [_layer_gram(_scaled(layer, diagonal), terms) for layer in factors.layers]
    parts += [part.gram(terms) / diagonal[part.name] for part in factors.diagonals]
    return _total(parts)


def squared_lengths(factors: Factors, diagonal: Mapping[str, float]) -> Tensor:
    """The diagonal of GD⁻¹Gᵀ for all terms, (columns, rows)."""
    parts = []
    for layer in (_scaled(layer, diagonal) for layer in factors.layers):
        if layer.inputs.shape[2] == 1:
            inputs = layer.inputs.square().sum((2, 3))
            parts.append((layer.gradients.square().sum((3, 4)) * inputs).sum(1))
        else:  # of a sum over positions, without writing it out
            inputs = layer.inputs @ layer.inputs.mT
            both = (layer.gradients, layer.gradients, inputs)
            parts.append(torch.einsum("cgrpo,cgrqo,grpq->cr", *both))
    for part in factors.diagonals:
        parts.append(part.squared_lengths() / diagonal[part.name])
    return _total(parts)


def _scaled(layer: LayerFactors, diagonal: Mapping[str, float]) -> LayerFactors:
    """The layer with its inputs over the roots of D: the bias has another one than the weight."""
    inputs = layer.inputs / diagonal[layer.weight] ** 0.5
    if layer.bias is not None:
        inputs[..., -1] = diagonal[layer.bias] ** -0.5
    return replace(layer, inputs=inputs)


def _total(parts: Sequence[Tensor]) -> Tensor:
    if not parts:
        raise InputError("Woodbury knows no layer of this model; use br.Nystrom.")
    return torch.stack(list(parts)).sum(0)


def _layer_gram(layer: LayerFactors, terms: Tensor) -> Tensor:
    inputs = layer.inputs[:, terms[:, 1]]  # (groups, rank, positions, in)
    gradients = layer.gradients[terms[:, 0], :, terms[:, 1]].transpose(0, 1)
    if inputs.shape[2] == 1:
        inputs, gradients = inputs[:, :, 0], gradients[:, :, 0]
        return ((inputs @ inputs.mT) * (gradients @ gradients.mT)).sum(0)
    rank, groups = len(terms), inputs.shape[0]
    width = max(1, _CHUNK // (rank * groups * inputs.shape[3]))
    total = inputs.new_zeros(rank, rank)
    for part in gradients.split(width, dim=3):
        explicit = torch.einsum("gkpo,gkpi->kgoi", part, inputs).reshape(rank, -1)
        total += explicit @ explicit.T
    return total


def _constant(layout: Layout, values: Mapping[str, float]) -> Tensor:
    """A flat vector with one number a parameter."""
    numbers = [
        torch.full((size,), values[name], dtype=layout.dtype, device=layout.device)
        for name, size in zip(layout.names, layout.sizes, strict=True)
    ]
    return torch.cat(numbers)


def _close(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    """Whether two vectors are the same, as precisely as `dtype` has it; nothing is said of NaN."""
    tolerance = min(100 * torch.finfo(dtype).eps ** 0.75, 0.3)
    return not bool((one - other).norm() > tolerance * (one.norm() + other.norm()))
