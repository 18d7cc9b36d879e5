"""Gradient descent, plain and with momentum."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bestresponse._tree import Tree, tree_map
from bestresponse.optim._base import Optimizer, Read, Setting, State, check_range, decayed

_INF = float("inf")


@dataclass(frozen=True)
class SGD(Optimizer):
    """w ← w − lr·(g + weight_decay·w), as `torch.optim.SGD` without momentum.

    Example:
        >>> params, _ = SGD(lr=0.5).update({"w": torch.ones(1)}, {"w": torch.ones(1)}, {}, float)
        >>> params["w"]
        tensor([0.5000])
    """

    lr: Setting
    weight_decay: Setting = 0.0

    def __post_init__(self) -> None:
        check_range(self, "lr", self.lr, 0.0, _INF)
        check_range(self, "weight_decay", self.weight_decay, 0.0, _INF)

    def init(self, params: Tree) -> State:
        """No state."""
        return {}

    def update(self, params: Tree, grads: Tree, state: State, read: Read) -> tuple[Tree, State]:
        """One step."""
        lr, decay = read(self.lr), read(self.weight_decay)
        return tree_map(lambda w, g: w - lr * decayed(g, w, decay), params, grads), state


@dataclass(frozen=True)
class Momentum(Optimizer):
    """Gradient descent with heavy-ball or Nesterov momentum, as `torch.optim.SGD`.

    Args:
        lr: step size.
        momentum: share of the velocity that is kept.
        dampening: share of the gradient that is left out of the velocity.
        nesterov: look ahead along the velocity.
        weight_decay: adds ½·weight_decay·w² to the loss.
    """

    lr: Setting
    momentum: Setting = 0.9
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: Setting = 0.0

    def __post_init__(self) -> None:
        check_range(self, "lr", self.lr, 0.0, _INF)
        check_range(self, "momentum", self.momentum, 0.0, _INF)
        check_range(self, "weight_decay", self.weight_decay, 0.0, _INF)

    def init(self, params: Tree) -> State:
        """Zero velocity, and a mark that the first gradient enters it undampened."""
        return {
            "velocity": tree_map(torch.zeros_like, params),
            "moving": tree_map(lambda w: torch.zeros((), device=w.device), params),
        }

    def update(self, params: Tree, grads: Tree, state: State, read: Read) -> tuple[Tree, State]:
        """One step."""
        lr, momentum, decay = read(self.lr), read(self.momentum), read(self.weight_decay)
        grads = tree_map(lambda g, w: decayed(g, w, decay), grads, params)
        velocity = tree_map(
            lambda v, g, moving: momentum * v + (1 - self.dampening * moving.to(g.dtype)) * g,
            state["velocity"],
            grads,
            state["moving"],
        )
        step = velocity
        if self.nesterov:
            step = tree_map(lambda g, v: g + momentum * v, grads, velocity)
        moving = tree_map(torch.ones_like, state["moving"])
        return (
            tree_map(lambda w, s: w - lr * s, params, step),
            {"velocity": velocity, "moving": moving},
        )
