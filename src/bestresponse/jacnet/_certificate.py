"""What is guaranteed of a structure, and the search for points that break it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["proved", "checked", "pointwise", "none"]
"""How much a certificate says: proved of the function that is evaluated; checked at many points of
it; true of the Jacobian network at each point, but not of the function; nothing."""


@dataclass(frozen=True)
class Certificate:
    """What is guaranteed of a function f, at its weights of now.

    Attributes:
        kind: how much that says.
        statement: one sentence.
        invertible: whether f is guaranteed to be one to one, onto all of its space.
        lower: m with ‖f(x) − f(x')‖ ≥ m‖x − x'‖ for all x, x'; None where nothing is known.
        upper: L with ‖f(x) − f(x')‖ ≤ L‖x − x'‖; None where nothing is known.
        conservative: whether f is guaranteed to be the gradient of a function.

    Example:
        >>> print(Certificate("proved", "increasing", True, 0.5, 2.0))
        proved: increasing; 0.5 ≤ stretch ≤ 2
    """

    kind: Kind
    statement: str
    invertible: bool = False
    lower: float | None = None
    upper: float | None = None
    conservative: bool = False

    def __str__(self) -> str:
        lower = "" if self.lower is None else f"{self.lower:.4g} ≤ "
        upper = "" if self.upper is None else f" ≤ {self.upper:.4g}"
        stretch = f"; {lower}stretch{upper}" if lower or upper else ""
        return f"{self.kind}: {self.statement}{stretch}"


@dataclass(frozen=True)
class Sampled:
    """The most and the least stretch that a search found, each with its pair of points.

    A certificate whose `upper` is below `largest`, or whose `lower` is above `smallest`, is broken.

    Attributes:
        largest: the largest ‖f(x) − f(x')‖ / ‖x − x'‖ that was found.
        smallest: the smallest one; zero, or next to it, is a collision.
        largest_pair: the points of the first, (2, d).
        smallest_pair: the points of the second, (2, d).
    """

    largest: float
    smallest: float
    largest_pair: Tensor
    smallest_pair: Tensor


def search(
    function: Callable[[Tensor], Tensor],
    points: Tensor,
    *,
    steps: int = 200,
    lr: float = 0.05,
    apart: float = 0.1,
    seed: int = 0,
) -> Sampled:
    """Look for pairs of points between which f stretches most, and least, by gradient ascent.

    Args:
        function: f, of points (n, d).
        points: where to start, (n, d), n at least 2.
        steps: of Adam.
        lr: its step, in units of the points' spread.
        apart: pairs stay at least so far apart, in units of the spread: collisions, not
            derivatives.
        seed: of the pairs.

    Example:
        >>> found = search(lambda x: x * torch.tensor([1.0, 3.0]), torch.randn(8, 2))
        >>> round(found.largest, 3), round(found.smallest, 3)
        (3.0, 1.0)
    """
    spread = float(points.std(dim=0).norm().clamp(min=1e-6))
    generator = torch.Generator().manual_seed(seed)
    partners = points[torch.randperm(len(points), generator=generator).to(points.device)]
    far = partners + 0.3 * spread * torch.randn(points.shape, generator=generator).to(points)
    ends = {}
    for sign in (1.0, -1.0):
        pair = torch.stack([points, far]).detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([pair], lr=lr * spread)
        best = torch.full((len(points),), -torch.inf, dtype=points.dtype, device=points.device)
        kept = pair.detach().clone()
        for _ in range(steps):
            goal = sign * _log_stretch(function, pair)
            with torch.no_grad():
                better = (goal > best) & goal.isfinite()
                best = torch.where(better, goal, best)
                kept = torch.where(better[None, :, None], pair, kept)
            optimizer.zero_grad()
            (pair.grad,) = torch.autograd.grad(-goal.nan_to_num().sum(), pair)
            optimizer.step()
            with torch.no_grad():
                pair[1] = _kept_apart(pair[0], pair[1], apart * spread)
        winner = int(best.argmax())
        ends[sign] = (float((sign * best[winner]).exp()), kept[:, winner].clone())
    return Sampled(ends[1.0][0], ends[-1.0][0], ends[1.0][1], ends[-1.0][1])


def _log_stretch(function: Callable[[Tensor], Tensor], pair: Tensor) -> Tensor:
    tiny = torch.finfo(pair.dtype).tiny
    images = function(pair.reshape(-1, pair.shape[-1])).reshape(2, pair.shape[1], -1)
    moved = (images[0] - images[1]).square().sum(-1).clamp(min=tiny)
    return 0.5 * (moved.log() - (pair[0] - pair[1]).square().sum(-1).clamp(min=tiny).log())


def _kept_apart(one: Tensor, other: Tensor, least: float) -> Tensor:
    between = other - one
    length = between.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(one.dtype).tiny)
    return one + between * (least / length).clamp(min=1)
