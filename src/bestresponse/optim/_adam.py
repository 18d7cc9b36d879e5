"""Adam and AdamW."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bestresponse._tree import Tree, tree_map
from bestresponse.optim._base import Optimizer, Read, Setting, State, check_range, decayed

_INF = float("inf")


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam, as `torch.optim.Adam`; with `decoupled` as `torch.optim.AdamW`.

    The square root's infinite slope at zero is left out, so a parameter whose gradients are all
    zero gets a zero derivative and not a NaN.

    Source: Kingma, Ba, "Adam: A Method for Stochastic Optimization" (2015),
    https://arxiv.org/abs/1412.6980

    Args:
        lr: step size.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        weight_decay: adds ½·weight_decay·w² to the loss, or shrinks the weights if `decoupled`.
        decoupled: weight decay outside of the moments.
    """

    lr: Setting = 1e-3
    betas: tuple[Setting, Setting] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: Setting = 0.0
    decoupled: bool = False

    def __post_init__(self) -> None:
        check_range(self, "lr", self.lr, 0.0, _INF)
        check_range(self, "weight_decay", self.weight_decay, 0.0, _INF)
        for beta in self.betas:
            check_range(self, "betas", beta, 0.0, 1.0 - 1e-12)

    def init(self, params: Tree) -> State:
        """Zero moments and zero steps."""
        return {
            # counted and raised to powers in float64: 1 − 0.999 is mostly rounding in float32
            "step": tree_map(
                lambda w: torch.zeros((), dtype=torch.float64, device=w.device), params
            ),
            "exp_avg": tree_map(torch.zeros_like, params),
            "exp_avg_sq": tree_map(torch.zeros_like, params),
        }

    def update(self, params: Tree, grads: Tree, state: State, read: Read) -> tuple[Tree, State]:
        """One step."""
        lr, decay = read(self.lr), read(self.weight_decay)
        beta1, beta2 = read(self.betas[0]), read(self.betas[1])
        if self.decoupled:
            params = tree_map(lambda w: w * (1 - lr * decay), params)
        else:
            grads = tree_map(lambda g, w: decayed(g, w, decay), grads, params)
        step = tree_map(lambda t: t + 1, state["step"])
        mean = tree_map(lambda m, g: beta1 * m + (1 - beta1) * g, state["exp_avg"], grads)
        square = tree_map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state["exp_avg_sq"], grads)

        def moved(w: Tensor, m: Tensor, v: Tensor, t: Tensor) -> Tensor:
            denominator = _safe_sqrt(v / _correction(beta2, t, v)) + self.eps
            return w - lr * (m / _correction(beta1, t, m)) / denominator

        params = tree_map(moved, params, mean, square, step)
        return params, {"step": step, "exp_avg": mean, "exp_avg_sq": square}


def _safe_sqrt(x: Tensor) -> Tensor:
    """√x with slope zero at x = 0."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1).sqrt(), 0)


def _correction(beta: Any, step: Tensor, moment: Tensor) -> Tensor:
    """1 − beta^step, in the type of the moment."""
    base = torch.as_tensor(beta, dtype=step.dtype, device=step.device)
    return (1 - base**step).to(moment.dtype)
