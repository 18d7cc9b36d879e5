"""An approximate inverse from a random sketch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._result import Memory
from bestresponse._tree import Space
from bestresponse.operators import Identity, LinearOperator
from bestresponse.solvers._base import Preconditioner, check_whole


@dataclass(frozen=True)
class Nystrom(Preconditioner):
    """A⁻¹ of the best positive definite fit to `rank` products with random vectors.

    The sketch is of A without its damping, which is known. Its eigenvalues and the damping are
    inverted where the sketch reaches; the rest is divided by the smallest of them. By itself it
    therefore errs short: it trusts no curvature smaller than one it has seen. (Dividing the rest
    by the damping alone suits a curvature whose rank the sketch exceeds, and is what it does
    there; elsewhere it overshoots by up to the first eigenvalue that was missed over the damping.)

    Args:
        rank: products, and vectors of memory.
        refresh: sketch anew at every that many solves, where `Nested` carries it.
        seed: of the random vectors.

    Raises:
        InputError: for a rank below 1 (or, at the solve, above the dimension).

    Source: Frangella, Tropp, Udell, "Randomized Nyström Preconditioning" (2021),
    https://arxiv.org/abs/2110.02820; by itself: Hataya, Yamada, "Nyström Method for Accurate and
    Scalable Implicit Differentiation" (2023), https://arxiv.org/abs/2302.09726

    Example:
        >>> from bestresponse.operators import Diagonal
        >>> from bestresponse.solvers import linear_solve
        >>> A = Diagonal(torch.tensor([1.0, 2.0, 4.0]))
        >>> linear_solve(A, torch.ones(3), Nystrom(rank=3)).value
        tensor([1.0000, 0.5000, 0.2500])
    """

    rank: int = 20
    refresh: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self, 1, "rank", "refresh")

    def build(self, operator: LinearOperator) -> Memory:
        """The eigenvectors (n, rank) and eigenvalues (rank,) of the fit, damping included.

        A column without a positive eigenvalue is zero; its value is the one for the rest.
        """
        if self.rank > operator.size:
            raise InputError(
                f"Nystrom(rank={self.rank}) exceeds the {operator.size} parameters; lower it."
            )
        damping = sum(factor for factor, term in operator.terms() if isinstance(term, Identity))
        probes = self._probes(operator.space)
        sketch = torch.stack([operator.mv(probe) for probe in probes.T], dim=1)
        sketch = sketch.sub_(probes, alpha=damping)
        if not bool(sketch.isfinite().all()):  # no matrix function takes it; say so by the value
            nothing = sketch.new_full((self.rank,), torch.nan)
            return {"basis": torch.zeros_like(sketch), "values": nothing}
        basis, values = _fit(sketch, probes, damping)
        return {"basis": basis, "values": values}

    def inverse(self, built: Memory, operator: LinearOperator) -> LinearOperator:
        """U diag(1/values) Uᵀ + (I − UUᵀ) / (the smallest value)."""
        return _LowRankInverse(built["basis"], built["values"])

    def _probes(self, space: Space) -> Tensor:
        """Random orthonormal columns (n, rank)."""
        generator = torch.Generator(space.device).manual_seed(self.seed)
        shape = (space.size, self.rank)
        normal = torch.randn(shape, generator=generator, dtype=space.dtype, device=space.device)
        return torch.linalg.qr(normal)[0]


@dataclass(frozen=True)
class _LowRankInverse(LinearOperator):
    """Known on the span of a few orthonormal columns, a multiple of the identity elsewhere."""

    basis: Tensor
    values: Tensor

    @property
    def space(self) -> Space:
        return Space(self.basis.shape[0], self.basis.dtype, self.basis.device)

    def mv(self, vector: Tensor) -> Tensor:
        tail = 1 / self.values.min()
        inside = (1 / self.values - tail) * (self.basis.T @ vector)
        return torch.addmv(tail * vector, self.basis, inside)


def _fit(sketch: Tensor, probes: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Eigenvectors and damped eigenvalues of Y (ΩᵀY)⁺ Yᵀ, of its positive part.

    Of an indefinite curvature the core has no Cholesky factor, so it gets eigenvectors instead,
    and those without positive curvature are dropped.
    """
    core = (probes.T @ sketch).double()
    core_values, core_vectors = torch.linalg.eigh((core + core.T) / 2)
    rounding = len(core) * torch.finfo(sketch.dtype).eps * core_values.abs().max()
    positive = core_values > rounding
    frame, triangle = torch.linalg.qr(sketch)
    # columns without positive curvature become zero, so that nothing waits for their number
    factors = torch.where(positive, core_values.clamp(min=rounding).rsqrt(), 0)
    root = triangle.double() @ (core_vectors * factors)
    vectors, lengths, _ = torch.linalg.svd(root)
    values = lengths**2
    kept = torch.arange(len(values), device=values.device) < positive.sum()
    # a core value of zero says that the curvature's rank is exhausted, a negative one says nothing
    exhausted = (core_values.abs() <= rounding).any() & (core_values >= -rounding).all()
    smallest = torch.where(kept, values, torch.inf).min()
    smallest = torch.where(kept.any(), smallest, core_values.abs().max())
    rest = torch.where(exhausted & (damping > 0), 0.0, smallest)
    basis = frame @ (vectors * kept).to(sketch.dtype)
    return basis, (torch.where(kept, values, rest) + damping).to(sketch.dtype)
