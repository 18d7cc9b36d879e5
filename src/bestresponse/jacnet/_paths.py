"""Paths from one point to another along which a field is integrated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._errors import InputError

_AT = 1e-5  # how far from its ends a path may begin and end, relative to their distance


@dataclass(frozen=True)
class Path:
    """A curve c(t, x₀, x) with c(0) = x₀ and c(1) = x.

    Args:
        curve: `curve(t, start, end)`, points for ends (..., n) and times t of a shape that
            broadcasts against them, (nodes, 1, ..., 1); differentiable in all three.
        velocity: its derivative with respect to t, likewise; None differentiates it.
        pieces: for a curve with corners, how many smooth pieces of equal length in t it has; given
            the number of dimensions. None is one.

    Example:
        >>> bend = Path(lambda t, a, b: a + t ** 2 * (b - a))
        >>> points, velocities = bend.at(torch.tensor([0.5]), torch.zeros(1), torch.ones(1))
        >>> points.detach(), velocities.detach()
        (tensor([[0.2500]]), tensor([[1.]]))
    """

    curve: Callable[[Tensor, Tensor, Tensor], Tensor]
    velocity: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    pieces: Callable[[int], int] | None = None

    def breaks(self, dim: int) -> list[float]:
        """The ends of its smooth pieces in t."""
        count = 1 if self.pieces is None else self.pieces(dim)
        return [i / count for i in range(count + 1)]

    def at(self, times: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """c(t) and c'(t) at times (nodes,): both (nodes, ..., n)."""
        t = times.reshape(-1, *[1] * end.ndim)
        if self.velocity is not None:
            return self.curve(t, start, end), self.velocity(t, start, end)
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            t = t.detach().requires_grad_()
            points = self.curve(t, start, end)
            # forward by two steps backward: each point depends on its own time alone
            unit = torch.zeros_like(points, requires_grad=True)
            (back,) = torch.autograd.grad(points, t, unit, create_graph=True)
            (velocities,) = torch.autograd.grad(
                back, unit, torch.ones_like(back), create_graph=keep, materialize_grads=True
            )
        return (points, velocities) if keep else (points.detach(), velocities)

    def check(self, start: Tensor, end: Tensor) -> None:
        """Refuse a path that does not begin and end where it should."""
        reach = _AT * (end - start).norm(dim=-1).clamp(min=torch.finfo(end.dtype).tiny)
        for t, where, words in ((0.0, start, "begins"), (1.0, end, "ends")):
            time = torch.full((1,) * end.ndim, t, dtype=end.dtype, device=end.device)
            point = self.curve(time, start, end)
            if point.shape != end.shape:
                raise InputError(
                    f"The path has the shape {tuple(point.shape)} instead of {tuple(end.shape)}."
                )
            off = (point - where).norm(dim=-1)
            if bool((off > reach + 1e-12).any()):
                raise InputError(
                    f"The path {words} {float(off.max()):.3g} away from where it should; it must "
                    "be at `start` for t = 0 and at `end` for t = 1."
                )


def _line(t: Tensor, start: Tensor, end: Tensor) -> Tensor:
    return start + t * (end - start)


def _constant(t: Tensor, start: Tensor, end: Tensor) -> Tensor:
    return (end - start).expand(len(t), *end.shape)


def _along_axes(t: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """One coordinate after the other."""
    dim = end.shape[-1]
    shares = (t * dim - torch.arange(dim, dtype=end.dtype, device=end.device)).clamp(0, 1)
    return start + shares * (end - start)


STRAIGHT = Path(_line, _constant)
"""The straight line."""

AXES = Path(_along_axes, pieces=lambda dim: dim)
"""One coordinate after the other."""
