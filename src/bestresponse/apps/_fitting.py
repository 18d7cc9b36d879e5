"""Training a small structure on a table of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from bestresponse._errors import InputError

Module = TypeVar("Module", bound=nn.Module)
_TOGETHER = 10  # iterations between two looks at the progress
_GAIN = 1e-9  # relative, below which training ends
Said = Callable[[int, float], None]
"""Told the number of the iteration and its loss."""


def fit(
    parameters: list[nn.Parameter],
    loss: Callable[[], Tensor],
    iterations: int,
    *,
    alpha: float = 0.0,
    said: Said = lambda step, loss: None,
) -> list[float]:
    """Minimize `loss` + alpha·Σw² by L-BFGS; the loss at each evaluation.

    It ends early where nothing is gained any more.

    Raises:
        InputError: if the loss stops being finite.
    """
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=_TOGETHER, history_size=20, line_search_fn="strong_wolfe",
        tolerance_grad=1e-9, tolerance_change=1e-12,
    )  # fmt: skip
    losses: list[float] = []

    def closure() -> Tensor:
        value = loss()
        losses.append(_finite(value, len(losses)))
        optimizer.zero_grad()
        penalty = torch.stack([p.square().sum() for p in parameters]).sum()
        total = value + alpha * penalty
        total.backward()
        return total

    before = math.inf
    for step in range(0, iterations, _TOGETHER):
        total = float(optimizer.step(closure).detach())
        settled = before - total <= _GAIN * abs(total)
        said(iterations if settled else min(step + _TOGETHER, iterations), losses[-1])
        if settled:
            break
        before = total
    return losses


def fit_stochastic(
    parameters: list[nn.Parameter], loss: Callable[[], Tensor], iterations: int, lr: float
) -> list[float]:
    """Minimize a loss that is another draw each time, by Adam at a falling rate.

    Raises:
        InputError: if the loss stops being finite.
    """
    optimizer = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations, eta_min=lr / 50)
    losses = []
    for step in range(iterations):
        value = loss()
        losses.append(_finite(value, step))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    return losses


def _finite(loss: Tensor, step: int) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise InputError(
            f"The loss is {value} at evaluation {step}: look for extreme values in the data."
        )
    return value


def seeded(seed: int, make: Callable[[], Module]) -> Module:
    """A float64 module with weights of its own seed; the global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().double()


class Scale(nn.Module):
    """Columns minus a centre, over a spread: the numbers that a network likes.

    Attributes:
        centre: (d,).
        spread: (d,), ones for constant columns.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, values: Tensor, *, shared: bool = False) -> None:
        super().__init__()
        centre = values.mean(0)
        spread = values.std(0, correction=0)
        tiny = 10 * torch.finfo(values.dtype).eps * (1 + centre.abs())
        spread = torch.where(spread > tiny, spread, torch.ones_like(spread))
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread.max().expand_as(spread).clone() if shared else spread)

    def forward(self, values: Tensor) -> Tensor:
        """Scaled."""
        return (values - self.centre) / self.spread

    def back(self, values: Tensor) -> Tensor:
        """As they were."""
        return values * self.spread + self.centre
