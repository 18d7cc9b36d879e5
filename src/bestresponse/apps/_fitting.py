"""Training a small structure on a table of numbers: full batches, Adam, a falling rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from bestresponse._errors import InputError

Module = TypeVar("Module", bound=nn.Module)
Said = Callable[[int, float], None]
"""Told the number of the iteration and its loss."""


def fit(
    parameters: list[nn.Parameter],
    loss: Callable[[], Tensor],
    iterations: int,
    lr: float,
    said: Said = lambda step, loss: None,
) -> list[float]:
    """Minimize `loss`; its value at each iteration.

    Raises:
        InputError: if it stops being finite.
    """
    optimizer = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations, eta_min=lr / 50)
    losses = []
    for step in range(iterations):
        value = loss()
        losses.append(float(value.detach()))
        if not value.isfinite():
            raise InputError(
                f"The loss is {losses[-1]} at iteration {step}: look for extreme values in the "
                f"data, or lower lr={lr}."
            )
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        said(step + 1, losses[-1])
    return losses


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
