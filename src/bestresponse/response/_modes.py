"""States of modules that last as long as a graph is recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def constant(weights: Iterable[Tensor]) -> Iterator[None]:
    """Weights without gradients; frozen ones stay frozen."""
    live = [weight for weight in weights if weight.requires_grad]
    try:
        for weight in live:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in live:
            weight.requires_grad_(True)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode; afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
