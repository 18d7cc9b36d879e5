"""What an operator is made of, for preconditioners that use it: model, damping, diagonal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._tree import Layout
from bestresponse.operators import Diagonal, Identity, LinearOperator, PulledBack


@dataclass(frozen=True)
class Structure:
    """JᵀMJ + diagonal, where the diagonal holds the damping and the penalty's curvature.

    Attributes:
        model: the Gauss-Newton part, on one batch.
        weight: its factor in the sum, over all batches.
        diagonal: (n,), everything else as if it were diagonal: exact for weight decay.
    """

    model: PulledBack
    weight: float
    diagonal: Tensor

    @property
    def layout(self) -> Layout:
        """Of the parameters."""
        return self.model.outputs.layout

    @classmethod
    def of(cls, operator: LinearOperator, wanted_by: str) -> Structure:
        """Take an operator apart.

        Raises:
            InputError: if there is no Gauss-Newton part in it.
        """
        terms = operator.terms()
        models = _models(terms, wanted_by)
        space = operator.space
        diagonal = torch.zeros(space.size, dtype=space.dtype, device=space.device)
        for factor, term in terms:
            if not isinstance(term, PulledBack):
                diagonal += factor * _diagonal(term)
        return cls(models[0][1], sum(factor for factor, _ in models), diagonal)


def model_of(operator: LinearOperator, wanted_by: str) -> PulledBack:
    """The first Gauss-Newton term.

    Raises:
        InputError: if there is none.
    """
    return _models(operator.terms(), wanted_by)[0][1]


def parameters_of(model: PulledBack) -> str:
    """Size, type and device of the vectors, names and shapes of the parameters."""
    layout = model.outputs.layout
    shapes = (f"{n}{tuple(s)}" for n, s in zip(layout.names, layout.shapes, strict=True))
    return f"{layout.space} {' '.join(shapes)}"


def _models(
    terms: Sequence[tuple[float, LinearOperator]], wanted_by: str
) -> list[tuple[float, PulledBack]]:
    models = [(factor, term) for factor, term in terms if isinstance(term, PulledBack)]
    if not models:
        raise InputError(
            f"{wanted_by} needs to see the model's layers; give the method a "
            "curvature=br.GaussNewton(predict, loss, penalty) or br.Fisher(...)."
        )
    return models


def mean_diagonal(structure: Structure, own: float, wanted_by: str) -> dict[str, float]:
    """The mean diagonal of each parameter plus `own`.

    A parameter that nothing curves up, such as a bias without decay, takes the mean of the others:
    an inverse must be finite, and this one is approximate.

    Raises:
        InputError: if there is no positive one.
    """
    pieces = structure.layout.unflatten(structure.diagonal)
    means = torch.stack([piece.double().mean() for piece in pieces.values()]) + own
    positive = means > 0
    if not bool(positive.any()):
        raise InputError(
            f"{wanted_by} has no damping: the method's is zero and the penalty does not curve up; "
            f"set {wanted_by}(damping=1e-3) or Implicit(damping=...)."
        )
    means = torch.where(positive, means, means[positive].mean())
    return dict(zip(pieces, means.tolist(), strict=True))


def _diagonal(term: LinearOperator) -> Tensor | float:
    """The diagonal, by one product with random signs: exact where there is nothing else."""
    if isinstance(term, Identity):
        return 1.0
    if isinstance(term, Diagonal):
        return term.diagonal
    space = term.space
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (space.size,), generator=generator).to(space.device, space.dtype)
    signs = 2 * signs - 1
    return signs * term.mv(signs)
