"""The largest terms of the Gauss-Newton matrix, inverted exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._result import Memory
from bestresponse.operators import LinearOperator, WoodburyInverse, layer_factors, squared_lengths
from bestresponse.solvers._base import Preconditioner, check_whole
from bestresponse.solvers._structure import Structure, mean_diagonal, model_of, parameters_of

_CANDIDATES = 2  # times as many terms are looked at as are kept


@dataclass(frozen=True)
class Woodbury(Preconditioner):
    """(D + Σ g_k gᵀ_k)⁻¹ with the `rank` largest of the terms that make up the Gauss-Newton matrix.

    JᵀH_LJ is a sum over rows and outputs of terms g gᵀ. A network that fits its data has few large
    ones: rows that are still in doubt. Those are inverted exactly, together with the damping and
    the penalty's curvature (by its mean over each parameter), through a `rank` × `rank` Gram
    matrix. Where a model has more weights than there are such terms, it is far better than a
    Kronecker approximation; where there are more terms than weights, take `KFAC`.

    Needs `Implicit(curvature=GaussNewton(...))` or `Fisher(...)`. Parameters of other layers than
    `KFAC` knows are named in `Stats.uncovered`, and divided by D.

    Args:
        rank: number of terms, at most rows × outputs.
        damping: its own, added for the preconditioner only.
        refresh: the terms are chosen anew at every that many solves; above 1 for calls with the
            same batch.

    Source: the identity is Woodbury's, "Inverting Modified Matrices" (1950); for networks see
    Ren, Goldfarb, "Efficient Subsampled Gauss-Newton and Natural Gradient Methods for Training
    Neural Networks" (2019), https://arxiv.org/abs/1906.02353

    Example:
        Linear regression on two unit vectors has two terms; with both it is exact.

        >>> import bestresponse as br
        >>> from torch.nn.functional import linear
        >>> predict = lambda params, hyper: linear(torch.eye(2), params["w"])
        >>> loss = lambda outputs, params, hyper: 0.5 * (outputs - hyper["t"]).square().sum()
        >>> inner = lambda params, hyper: loss(predict(params, hyper), params, hyper)
        >>> outer = lambda params, hyper: params["w"].sum()  # w* = tᵀ
        >>> at = {"w": torch.zeros(1, 2)}, {"t": torch.zeros(2, 1)}
        >>> curvature = br.GaussNewton(predict, loss)
        >>> method = br.Implicit(br.Woodbury(rank=2), damping=1.0, curvature=curvature)
        >>> br.hypergradient(inner, outer, *at, method).value["t"]  # 1 / (1 + damping)
        tensor([[0.5000],
                [0.5000]])
    """

    rank: int = 256
    damping: float = 0.0
    refresh: int = 1

    def __post_init__(self) -> None:
        if not self.damping >= 0:
            raise InputError(f"Woodbury(damping={self.damping}) is negative; use 0 or more.")
        check_whole(self, 1, "rank", "refresh")

    def build(self, operator: LinearOperator) -> Memory:
        """Which rows and which of their terms."""
        structure = Structure.of(operator, "Woodbury")
        roots = structure.model.middle.roots(ordered=True)
        strength = _squares(roots)
        rank = min(self.rank, strength.numel())
        likely = strength.flatten().topk(min(_CANDIDATES * rank, strength.numel())).indices
        rows = torch.unique(likely % strength.shape[1])
        part = structure.model.on_rows(rows)
        if part.rows != len(rows):  # a batch that cannot be cut
            rows = torch.arange(part.rows)
        columns = part.middle.roots(ordered=True)
        factors = layer_factors(part, list(columns)).row_by_row(part.rows)
        lengths = squared_lengths(factors, mean_diagonal(structure, self.damping, "Woodbury"))
        best = lengths.flatten().topk(min(rank, lengths.numel())).indices
        return {
            "rows": rows,
            "terms": torch.stack([best // len(rows), best % len(rows)], 1),
            "uncovered": list(factors.uncovered),
        }

    def inverse(self, built: Memory, operator: LinearOperator) -> LinearOperator:
        """The Gram matrix of the chosen terms at today's weights."""
        structure = Structure.of(operator, "Woodbury")
        part = structure.model.on_rows(built["rows"])
        share = structure.weight * structure.model.share(part, built["rows"])
        columns = share**0.5 * part.middle.roots(ordered=True)
        factors = layer_factors(part, list(columns)).row_by_row(part.rows)
        diagonal = mean_diagonal(structure, self.damping, "Woodbury")
        return WoodburyInverse(part, factors, columns, built["terms"], diagonal)

    def signature(self, operator: LinearOperator) -> str:
        """Of the parameters too, by name, and of the outputs, whose rows and columns are chosen."""
        model = model_of(operator, "Woodbury")
        return f"{parameters_of(model)} {tuple(model.outputs.value.shape)}"

    def uncovered(self, built: Memory) -> tuple[str, ...]:
        """Parameters that no factor covers."""
        return tuple(built["uncovered"])


def _squares(roots: Tensor) -> Tensor:
    """Squared lengths, (columns, rows)."""
    return roots.square().sum(tuple(range(2, roots.ndim))) if roots.ndim > 2 else roots.square()
