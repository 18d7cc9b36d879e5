"""The line integral of a field of matrices along a path."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bestresponse._errors import InputError
from bestresponse.jacnet._paths import Path
from bestresponse.jacnet._quadrature import Integral, Rule

Field = Callable[[Tensor], Tensor]
"""Matrices (..., m, n) at points (..., n)."""


def line_integral(
    field: Field, path: Path, start: Tensor, end: Tensor, rule: Rule, *, chunk: int | None = None
) -> Integral:
    """∫ J(c(t)) c'(t) dt from `start` to `end`, (..., m), for each of a batch.

    Exactly differentiable, twice too, with respect to both ends and to what J depends on: it is a
    weighted sum of evaluations.

    Args:
        field: J.
        path: c.
        start: (..., n).
        end: (..., n), of the same shape.
        rule: how the integral over t is taken, on each smooth piece of the path.
        chunk: samples that are integrated at once; their graphs are made again on the way back, so
            that memory is that of one chunk. None is all.

    Example:
        >>> from bestresponse.jacnet import STRAIGHT, GaussLegendre
        >>> square = lambda x: torch.diag_embed(2 * x)  # the Jacobian of x²
        >>> line_integral(square, STRAIGHT, torch.zeros(2), torch.ones(2), GaussLegendre(2)).value
        tensor([1., 1.])
    """
    if chunk is not None and chunk < 1:
        raise InputError(f"chunk={chunk} must be 1 or more, or None for all at once.")
    path.check(start.detach(), end.detach())
    if chunk is None or end.ndim < 2 or len(end) <= chunk:
        return _whole(field, path, start, end, rule)
    found = [
        _again_on_the_way_back(field, path, one, other, rule)
        for one, other in zip(start.split(chunk), end.split(chunk), strict=True)
    ]
    value = torch.cat([integral.value for integral in found])
    errors = [integral.error for integral in found if integral.error is not None]
    return Integral(
        value,
        max(errors) if errors else None,
        max(integral.nodes for integral in found),
        all(integral.reached for integral in found),
    )


def _again_on_the_way_back(
    field: Field, path: Path, start: Tensor, end: Tensor, rule: Rule
) -> Integral:
    if not torch.is_grad_enabled():
        return _whole(field, path, start, end, rule)
    ended: list[Integral] = []

    def value(start: Tensor, end: Tensor) -> Tensor:
        ended.append(_whole(field, path, start, end, rule))
        return ended[-1].value

    found = checkpoint(value, start, end, use_reentrant=False)
    first = ended[0]
    return Integral(found, first.error, first.nodes, first.reached)


def _whole(field: Field, path: Path, start: Tensor, end: Tensor, rule: Rule) -> Integral:
    def within(low: float, high: float) -> Callable[[Tensor], Tensor]:
        def integrand(times: Tensor) -> Tensor:
            points, velocities = path.at(times, start, end)
            if high - low < 1:  # at a corner the velocity is that of this piece
                edge = 1e-6 * (high - low)
                _, velocities = path.at(times.clamp(low + edge, high - edge), start, end)
            return (field(points) @ velocities[..., None]).squeeze(-1)

        return integrand

    parts = list(_pieces(within, path, end, rule))
    errors = [part.error for part in parts if part.error is not None]
    return Integral(
        torch.stack([part.value for part in parts]).sum(0) if len(parts) > 1 else parts[0].value,
        math.fsum(errors) if errors else None,
        sum(part.nodes for part in parts),
        all(part.reached for part in parts),
    )


def _pieces(
    within: Callable[[float, float], Callable[[Tensor], Tensor]],
    path: Path,
    end: Tensor,
    rule: Rule,
) -> Iterator[Integral]:
    breaks = path.breaks(end.shape[-1])
    for low, high in pairwise(breaks):
        yield rule.integrate(within(low, high), end, low, high)
