"""Derivatives along a few directions, and what they say of a whole gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._tree import Layout, Tree

_INDEPENDENT = 1e-6  # of a vector's length must be left outside of the others


@dataclass(frozen=True)
class Directions:
    """Orthonormal directions in the space of λ: telling ones first, random ones after.

    The telling ones are known to matter (the hypergradients at hand). What lies outside of them is
    estimated from the random ones, each of which stands for its share of the dimensions that are
    left: with all of them it is exact.

    Attributes:
        basis: one direction a row, (k, n).
        telling: how many of them are not random.
    """

    basis: Tensor
    telling: int

    @classmethod
    def drawn(cls, telling: Sequence[Tensor], random: int, seed: int) -> Directions:
        """The given vectors, and `random` random directions, orthonormalized in this order."""
        first = telling[0]
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(random, len(first), generator=generator, dtype=first.dtype)
        chosen: list[Tensor] = []
        for vector in telling:
            _append(chosen, vector)
        known = len(chosen)
        for vector in drawn.to(first.device):
            _append(chosen, vector)
        return cls(torch.stack(chosen) if chosen else first.new_zeros(0, len(first)), known)

    def __len__(self) -> int:
        return len(self.basis)

    def weights(self, count: int) -> Tensor:
        """How much the square of each of the first `count` components counts."""
        random = count - self.telling
        weights = self.basis.new_ones(count)
        if random > 0:
            weights[self.telling :] = (self.basis.shape[1] - self.telling) / random
        return weights


def _append(chosen: list[Tensor], vector: Tensor) -> None:
    """Add the part of `vector` outside of the span of `chosen`, unless there is none."""
    length = vector.norm()
    for _ in range(2):  # once more against rounding
        for other in chosen:
            vector = vector - (other @ vector) * other
    rest = vector.norm()
    if float(rest) > _INDEPENDENT * float(length):
        chosen.append(vector / rest)


@dataclass(frozen=True)
class Slopes:
    """What is known of a gradient: its components along the first few directions.

    All slopes that are compared with each other have the same directions.
    """

    directions: Directions
    values: Tensor

    @classmethod
    def of(cls, gradient: Tensor, directions: Directions) -> Slopes:
        """All components of a known gradient."""
        return cls(directions, directions.basis @ gradient)


Gradient = Tensor | Slopes
"""A flat hypergradient, or what is known of it."""


def distance(one: Gradient, other: Gradient) -> float:
    """‖one − other‖, estimated where only slopes are known."""
    left, right, weights = _paired(one, other)
    return _norm(left - right, weights)


def norm(gradient: Gradient) -> float:
    """‖gradient‖, likewise."""
    values, _, weights = _paired(gradient, gradient)
    return _norm(values, weights)


def cosine(one: Gradient, other: Gradient) -> float:
    """Cosine of the angle, likewise; NaN for a zero vector."""
    left, right, weights = _paired(one, other)
    product, lengths = (weights * left * right).sum(), _norm(left, weights) * _norm(right, weights)
    return float(product) / lengths if lengths else math.nan


def _norm(values: Tensor, weights: Tensor) -> float:
    return math.sqrt(float((weights * values**2).sum()))


def _paired(one: Gradient, other: Gradient) -> tuple[Tensor, Tensor, Tensor]:
    """The components that both have, and their weights."""
    if isinstance(one, Tensor):
        if isinstance(other, Tensor):
            return one, other, one.new_ones(())
        one = Slopes.of(one, other.directions)
    if isinstance(other, Tensor):
        other = Slopes.of(other, one.directions)
    count = min(len(one.values), len(other.values))
    return one.values[:count], other.values[:count], one.directions.weights(count)


def step_length(direction: Tensor, hyper: Tree, relative: float) -> float:
    """How far to go along a direction: no entry moves more than `relative` times its leaf's size.

    A leaf that is zero counts as of size one.
    """
    layout = Layout.of(hyper)
    moves = layout.unflatten(direction)
    reach = 0.0
    for name, leaf in hyper.items():
        size = float(leaf.double().square().mean().sqrt()) if leaf.numel() else 0.0
        if leaf.numel():
            reach = max(reach, float(moves[name].abs().max()) / (size or 1.0))
    return relative / reach
