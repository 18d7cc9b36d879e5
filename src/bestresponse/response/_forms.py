"""What kind of function of the hyperparameters the weights are."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from bestresponse._errors import InputError


class Form(ABC):
    """Recipe for a network from λ, (…, h), to all weights of a model in one vector, (…, D).

    With `std=None` its last layer starts with zero weights, and the model's own weights as
    biases: at first the response is the model as it is, at every λ. A number draws all of φ from
    N(0, std²), as the released code of the paper does with 0.01.
    """

    linear: ClassVar[bool] = True
    """Whether it is affine in λ: a learned tangent."""

    @abstractmethod
    def layers(self, hyper: int, weights: int) -> list[nn.Module]:
        """From h numbers to D; the last one is linear."""

    def build(self, hyper: int, weights: Tensor, std: float | None) -> nn.Sequential:
        """The network, on the device and of the type of the weights.

        Args:
            hyper: how many hyperparameters, h.
            weights: the model's own, (D,).
            std: None, or the deviation of the initial φ.
        """
        with torch.device("cpu"), torch.no_grad():  # one stream of randomness on every device
            network = nn.Sequential(*self.layers(hyper, len(weights))).to(weights.dtype)
            if std is None:
                *_, slope, bias = network.parameters()
                slope.zero_()
                bias.copy_(weights)
            else:
                for parameter in network.parameters():
                    parameter.normal_(0, std)
        return network.to(weights.device)


@dataclass(frozen=True)
class Affine(Form):
    """w = A λ + b: the tangent of the best response, enough for a narrow spread of λ.

    It has D (h + 1) parameters.

    Example:
        >>> network = Affine().build(1, torch.zeros(7850), std=None)
        >>> sum(p.numel() for p in network.parameters())
        15700
    """

    def layers(self, hyper: int, weights: int) -> list[nn.Module]:
        """One."""
        return [nn.Linear(hyper, weights)]


@dataclass(frozen=True)
class Factorized(Form):
    """w = V (U λ + c) + b through `rank` numbers, for many hyperparameters.

    It has h r + r + r D + D parameters, and sees `rank` directions of λ at most.

    Args:
        rank: r, positive.

    Raises:
        InputError: for a rank that is not positive.

    Example:
        >>> network = Factorized(rank=10).build(7850, torch.zeros(7850), std=None)
        >>> sum(p.numel() for p in network.parameters())
        164860
    """

    rank: int = 10

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"rank={self.rank} lets nothing through; use 1 or more, 10 is usual.")

    def layers(self, hyper: int, weights: int) -> list[nn.Module]:
        """Two, with nothing between them."""
        return [nn.Linear(hyper, self.rank), nn.Linear(self.rank, weights)]


@dataclass(frozen=True)
class MLP(Form):
    """Layers with ReLU between them: a response over a whole range of λ.

    Args:
        hidden: widths of the hidden layers, one at least.

    Raises:
        InputError: for no hidden layer, or an empty one.

    Example:
        >>> network = MLP(hidden=(50,)).build(1, torch.zeros(7850), std=None)
        >>> sum(p.numel() for p in network.parameters())
        400450
    """

    linear: ClassVar[bool] = False

    hidden: Sequence[int] = (50,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if not self.hidden or min(self.hidden) < 1:
            raise InputError(
                f"hidden={self.hidden} is no list of widths; use positive ones such as (50,), or "
                "Affine() for none."
            )

    def layers(self, hyper: int, weights: int) -> list[nn.Module]:
        """One for each pair of widths, and ReLU between them."""
        found: list[nn.Module] = []
        for size, following in pairwise((hyper, *self.hidden)):
            found += [nn.Linear(size, following), nn.ReLU()]
        return [*found, nn.Linear(self.hidden[-1], weights)]


def check_std(std: float | None) -> float | None:
    """`std` if φ can be drawn with it."""
    if std is not None and not 0 < std < math.inf:
        raise InputError(
            f"std={std} must be positive; use None to start from the model's own weights."
        )
    return std
