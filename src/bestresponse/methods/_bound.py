"""A proved bound on the hypergradient's error from the residual of the solve."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from bestresponse._tree import Partial
from bestresponse.methods._points import Point
from bestresponse.operators import Diagonal, Identity, LinearOperator, PulledBack

_PROBES = 10
_FACTOR = 10.0  # the bound on a norm by random probes fails with probability 10⁻¹⁰


def error_bound(
    point: Point, operator: LinearOperator, right_side: Tensor, value: Tensor
) -> float | None:
    """‖∂²L_T/∂λ∂w‖·‖b − Aq‖ / λ_min, at least the error that the solve leaves in the hypergradient.

    The error is (∂²L_T/∂λ∂w) A⁻¹r. Proved where λ_min is bounded from below: A is a Gauss-Newton
    or Fisher matrix, which is positive semidefinite (for Gauss-Newton the loss must be convex in
    the outputs, which is tested row by row, up to 256 outputs), plus damping, plus penalties whose
    Hessian is diagonal, as that of weight decay is. A Ritz value is no such bound: it overestimates
    λ_min.

    The residual is computed anew. The norm of the mixed derivative is its largest entry where it
    is diagonal (again found by a random probe, with probability one), and otherwise
    α√(2/π)·max‖Mω‖ over 10 normal probes ω with α = 10, an upper bound but for a chance of 10⁻¹⁰:
    Halko, Martinsson, Tropp, "Finding Structure with Randomness" (2011), lemma 4.1,
    https://doi.org/10.1137/090771806

    Returns:
        The bound, in units of the hypergradient's length, on the distance from the exact solve with
        the same A; None where nothing is proved.
    """
    with torch.no_grad():
        floor = curvature_floor(operator)
        if floor is None or not floor > 0:
            return None
        residual = float((right_side - operator.mv(value)).norm())
    return _mixed_norm(point, right_side) * residual / floor


def curvature_floor(operator: LinearOperator) -> float | None:
    """A number that no eigenvalue lies below; None if nothing is known."""
    floors = [_term_floor(factor, term) for factor, term in operator.terms()]
    return None if None in floors else sum(floor for floor in floors if floor is not None)


def _term_floor(factor: float, term: LinearOperator) -> float | None:
    if factor < 0:
        return None
    if isinstance(term, PulledBack):
        return 0.0 if term.middle.is_semidefinite() else None
    if isinstance(term, Identity):
        return factor
    if isinstance(term, Diagonal):
        return factor * float(term.diagonal.min())
    space = term.space
    ones = torch.ones(space.size, dtype=space.dtype, device=space.device)
    diagonal = term.mv(ones)
    probe = next(_normal(ones))
    is_diagonal = _same(term.mv(probe), diagonal * probe)
    return factor * float(diagonal.min()) if is_diagonal else None


def _mixed_norm(point: Point, like: Tensor) -> float:
    """An upper bound of ‖∂²L_T/∂λ∂w‖."""
    ones = torch.ones_like(like)
    entries = _flat(point.mixed_product(ones))
    probes = _normal(like)
    if entries.shape == like.shape:
        probe = next(probes)
        if _same(_flat(point.mixed_product(probe)), entries * probe):
            return float(entries.abs().max())
    lengths = [_flat(point.mixed_product(next(probes))).norm() for _ in range(_PROBES)]
    return _FACTOR * math.sqrt(2 / math.pi) * float(torch.stack(lengths).max())


def _flat(partial: Partial) -> Tensor:
    parts = [leaf.reshape(-1) for leaf in partial.values() if leaf is not None]
    return torch.cat(parts) if parts else torch.zeros(1)


def _normal(like: Tensor) -> Iterator[Tensor]:
    """Independent normal vectors, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    while True:
        yield torch.randn(like.shape, generator=generator).to(like)


def _same(one: Tensor, other: Tensor) -> bool:
    tolerance = 100 * torch.finfo(one.dtype).eps
    return bool(((one - other).abs() <= tolerance * (one.abs() + other.abs())).all())
