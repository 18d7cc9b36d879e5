"""Maps of several dimensions to be learned: a steep optimal transport map, and a twist."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]

TRAIN, TEST = 1024, 512


def transport(dim: int, seed: int = 0) -> Map:
    """The gradient of a convex function with steep parts: planes' soft maximum, and ridges."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    planes, shifts = draw(2 * dim, dim) / dim**0.5, draw(2 * dim)
    ridges, centres = draw(3, dim), draw(3)
    ridges = ridges / ridges.norm(dim=1, keepdim=True)

    def target(x: Tensor) -> Tensor:
        maximum = torch.softmax(4 * (x @ planes.T + shifts), dim=-1) @ planes
        steps = torch.tanh(5 * (x @ ridges.T - centres)) @ ridges
        return 0.3 * x + 2 * maximum + 0.5 * steps

    return target


def twist(dim: int, seed: int = 0) -> Map:
    """Pairs of coordinates turned by an angle that grows with their distance from zero.

    One to one and onto, with a Jacobian of complex eigenvalues and no positive definite part: the
    gradient of nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    mix = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64)).Q
    mix[0] *= torch.linalg.det(mix).sign()  # a rotation: space is not turned over

    def target(x: Tensor) -> Tensor:
        pairs = (x @ mix.T).unflatten(-1, (dim // 2, 2))
        angle = 1.5 * torch.tanh(pairs.norm(dim=-1))
        a, b = pairs.unbind(-1)
        cosine, sine = angle.cos(), angle.sin()
        turned = torch.stack([cosine * a - sine * b, sine * a + cosine * b], dim=-1)
        return turned.flatten(-2)

    return target


def data(target: Map, dim: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Standard normal inputs and their images, to train on and to judge by."""
    generator = torch.Generator().manual_seed(1000 + seed)
    x = torch.randn(TRAIN + TEST, dim, generator=generator, dtype=torch.float64)
    y = target(x)
    return x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:]


def relative_error(predicted: Tensor, y: Tensor) -> float:
    """Root mean squared error over the spread of the targets."""
    return float((predicted - y).square().mean().sqrt() / (y - y.mean(0)).square().mean().sqrt())
