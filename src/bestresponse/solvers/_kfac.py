"""Kronecker-factored curvature as an approximate inverse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._result import Memory
from bestresponse.operators import Diagonal, Kronecker, LinearOperator, layer_factors
from bestresponse.solvers._base import Preconditioner, check_whole
from bestresponse.solvers._chebyshev import Chebyshev
from bestresponse.solvers._structure import Structure, mean_diagonal, model_of, parameters_of

_RAISED = 1.5  # times the mean diagonal, since Kronecker factors miss some curvature
_FEW = 5
_EVEN = 1.001  # ratio of entries of a diagonal that is as good as constant


@dataclass(frozen=True)
class KFAC(Preconditioner):
    """(A⊗G + d)⁻¹ layer by layer: as a solver the direct inverse, or CG's preconditioner.

    Covers `Linear` and `Conv2d` with their biases; the parameters of layer, batch and group norm
    and of embeddings by the diagonal; what it does not cover is named in `Stats.uncovered` and
    divided by the damping. Needs `Implicit(curvature=GaussNewton(...))` or `Fisher(...)`.

    A⊗G plus a diagonal, of the method's damping and the penalty's curvature, has no Kronecker
    inverse. What enters as d is the diagonal's mean over each layer plus `damping`; where the
    diagonal is uneven, a few steps of Chebyshev's iteration on A⊗G + diagonal, with that as their
    preconditioner, let all of it in.

    Args:
        damping: its own, added for the preconditioner only. None is half of the layer's mean
            diagonal.
        rows: rows of the batch from which factors are made.
        draws: random combinations of the columns of the outputs' curvature that are propagated
            back; None propagates each.
        inner_steps: of those steps. None takes five where the diagonal's standard deviation in
            some layer is above its mean, and none elsewhere: measured on logistic regression, they
            pay at decays that spread over more than a factor e, and not below.
        rank: larger factors keep so many eigenpairs and the mean of the others; None keeps all.
        refresh: built anew at every that many solves.
        seed: of rows and draws.

    Source: Martens, Grosse, "Optimizing Neural Networks with Kronecker-Factored Approximate
    Curvature" (2015), https://arxiv.org/abs/1503.05671

    Example:
        Linear regression on two unit vectors has the curvature I = A⊗G.

        >>> import bestresponse as br
        >>> from torch.nn.functional import linear
        >>> predict = lambda params, hyper: linear(torch.eye(2), params["w"])
        >>> loss = lambda outputs, params, hyper: 0.5 * (outputs - hyper["t"]).square().sum()
        >>> inner = lambda params, hyper: loss(predict(params, hyper), params, hyper)
        >>> outer = lambda params, hyper: params["w"].sum()  # w* = tᵀ
        >>> at = {"w": torch.zeros(1, 2)}, {"t": torch.zeros(2, 1)}
        >>> curvature = br.GaussNewton(predict, loss)
        >>> method = br.Implicit(br.KFAC(damping=1.0), curvature=curvature)
        >>> br.hypergradient(inner, outer, *at, method).value["t"]  # 1 / (1 + damping)
        tensor([[0.5000],
                [0.5000]])
    """

    damping: float | None = None
    rows: int = 1000
    draws: int | None = 1
    inner_steps: int | None = None
    rank: int | None = 128
    refresh: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.damping is not None and not self.damping > 0:
            raise InputError(f"KFAC(damping={self.damping}) is not positive; use None or 1e-3.")
        check_whole(self, 1, "rows", "draws", "rank", "refresh")
        check_whole(self, 0, "inner_steps")

    def build(self, operator: LinearOperator) -> Memory:
        """Factors from a part of the rows."""
        structure = Structure.of(operator, "KFAC")
        generator = torch.Generator().manual_seed(self.seed)
        # in their order: what a closure holds for each row beside the batch is not permuted
        rows = torch.randperm(structure.model.rows, generator=generator)[: self.rows].sort().values
        part = structure.model.on_rows(rows)
        columns = combined(part.middle.roots(), self.draws, generator)
        # these rows stand for all
        weight = structure.weight * structure.model.share(part, rows) * structure.model.rows
        factors = layer_factors(part, list((weight / part.rows) ** 0.5 * columns))
        kronecker = Kronecker.of(structure.layout, factors, self.rank)
        return {**kronecker.state(), "uncovered": list(factors.uncovered)}

    def inverse(self, built: Memory, operator: LinearOperator) -> LinearOperator:
        """(A⊗G + d)⁻¹, with today's d."""
        structure = Structure.of(operator, "KFAC")
        kronecker = Kronecker.from_state(structure.layout, built)
        damping = self._layer_damping(structure)
        # a bias goes with its weight
        damping |= {b.bias: damping[b.weight] for b in kronecker.blocks if b.bias is not None}
        inverse, steps = kronecker.inverse(damping), self._steps(structure)
        if not steps:
            return inverse
        # of (A⊗G + d)⁻¹(A⊗G + diagonal) every eigenvalue lies between 1 and diagonal / d
        pieces = structure.layout.unflatten(structure.diagonal)
        ratios = torch.stack(
            [p / damping[n] for n, piece in pieces.items() for p in piece.aminmax()]
        )
        smallest, largest = ratios.clamp(max=1).min(), ratios.clamp(min=1).max()
        if largest <= _EVEN * smallest:
            return inverse
        operator = kronecker + Diagonal(structure.diagonal)
        return Chebyshev(operator, inverse, steps, float(smallest), float(largest))

    def _layer_damping(self, structure: Structure) -> dict[str, float]:
        if self.damping is not None:
            return mean_diagonal(structure, self.damping, "KFAC")
        means = mean_diagonal(structure, 0.0, "KFAC")
        return {name: _RAISED * mean for name, mean in means.items()}

    def _steps(self, structure: Structure) -> int:
        if self.inner_steps is not None:
            return self.inner_steps
        pieces = structure.layout.unflatten(structure.diagonal).values()
        spreads = [piece.std(correction=0) / piece.mean() for piece in pieces]
        return _FEW if bool((torch.stack(spreads) > 1).any()) else 0

    def signature(self, operator: LinearOperator) -> str:
        """Of the parameters too, by name."""
        return parameters_of(model_of(operator, "KFAC"))

    def uncovered(self, built: Memory) -> tuple[str, ...]:
        """Parameters that no factor covers."""
        return tuple(built["uncovered"])


def combined(roots: Tensor, draws: int | None, generator: torch.Generator) -> Tensor:
    """Random signed sums of the columns of a root, row by row: the same curvature on average."""
    if draws is None or draws >= len(roots):
        return roots
    shape = (draws, len(roots), roots.shape[1]) if roots.ndim > 1 else (draws, len(roots))
    signs = 2.0 * torch.randint(0, 2, shape, generator=generator) - 1
    signs = signs.to(roots.device, roots.dtype)
    flat = roots.reshape(*roots.shape[:2], -1)
    mixed = torch.einsum("dcn,cnk->dnk", signs, flat) / draws**0.5
    return mixed.reshape(draws, *roots.shape[1:])
