"""The elementary problem of the hypernetwork experiments: a network, its decays, their losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from bestresponse.apps._examples import stream_seed

Objective = Literal["code", "paper"]
Per = Literal["model", "class", "weight"]
_NOISE = 0.1  # deviation of the targets, in the likelihood of the released code
_INIT = 0.01  # deviation of a linear model's initial weights


class Decays(nn.Module):
    """The penalty, with the logarithm λ of each decay as a hyperparameter.

    One for the `model`: e^λ ‖w‖. One per `weight`: ‖e^λ ⊙ w‖. One per `class`: the mean over
    classes of e^λᵢ ‖Wᵢ‖, biases free. This is the released code; with the paper's objective norms
    are squared.

    Args:
        model: whose weights decay.
        per: how many there are.
        objective: whose penalty.
        start: λ, to begin with.
    """

    def __init__(self, model: nn.Module, per: Per, objective: Objective, start: float) -> None:
        super().__init__()
        self.per, self.objective = per, objective
        weights = dict(model.named_parameters())
        shapes = {
            "model": {"model": torch.Size()},
            "class": {"class": list(weights.values())[-1].shape},  # of the last bias
            "weight": {_key(name): weight.shape for name, weight in weights.items()},
        }
        self.log_decay = nn.ParameterDict(
            {name: nn.Parameter(torch.full(shape, start)) for name, shape in shapes[per].items()}
        )

    def forward(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The penalty of weights by name, a scalar."""
        if self.per == "model":
            squares = sum_of(weight.square().sum() for weight in weights.values())
            return self._strength("model") * self._norm(squares)
        if self.per == "class":
            (matrix,) = (weight for weight in weights.values() if weight.ndim == 2)
            return (self._strength("class") * self._norm(matrix.square().sum(1))).mean()
        return self._norm(
            sum_of(
                (self._strength(_key(name)).pow(self._power) * weight.square()).sum()
                for name, weight in weights.items()
            )
        )

    @property
    def _power(self) -> int:
        return 2 if self.objective == "code" else 1

    def _strength(self, name: str) -> Tensor:
        return self.log_decay[name].exp()

    def _norm(self, squares: Tensor) -> Tensor:
        return squares.sqrt() if self.objective == "code" else squares


class Elementary(nn.Module):
    """A network with its decays, and the two losses; `forward` is the inner one.

    The released code has the mean negative log-likelihood of targets with a deviation of 0.1,
    50 (p − t)² − 1.3836, the paper the squared error, summed over classes.

    Args:
        sizes: of the layers, inputs first: (784, 10) is linear.
        per: granularity of the decays.
        objective: of the released `code` or of the `paper`.
        start: every λ, to begin with.
        seed: of the initial weights.
    """

    def __init__(
        self, sizes: tuple[int, ...], per: Per, objective: Objective, start: float, seed: int
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "weights"))
            self.model = _network(sizes)
        self.objective = objective
        self.decays = Decays(self.model, per, objective, start)

    def forward(self, inputs: Tensor, targets: Tensor, *, penalized: bool = True) -> Tensor:
        """The training loss: prediction and penalty, or the prediction alone."""
        return (self.inner if penalized else self.outer)(inputs, targets)

    def inner(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The training loss: prediction and penalty."""
        return self.outer(inputs, targets) + self.decays(dict(self.model.named_parameters()))

    def outer(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The validation loss: that of the prediction."""
        squares = (self.model(inputs) - targets).square()
        if self.objective == "paper":
            return squares.sum(1).mean()
        half_precision = 0.5 / _NOISE**2
        return (half_precision * squares).mean() + math.log(_NOISE * math.sqrt(2 * math.pi))

    @property
    def hyperparameters(self) -> int:
        """How many decays there are."""
        return sum(leaf.numel() for leaf in self.decays.parameters())

    @property
    def log_decays(self) -> Tensor:
        """λ as it is, flat and detached, (h,)."""
        return torch.cat([leaf.detach().flatten() for leaf in self.decays.parameters()])

    def move(self, log_decays: Tensor) -> None:
        """Put λ there, flat."""
        with torch.no_grad():
            nn.utils.vector_to_parameters(log_decays, self.decays.parameters())


def sum_of(terms: object) -> Tensor:
    """Of scalars, one or more."""
    return torch.stack(list(terms)).sum()  # type: ignore[call-overload]


def _network(sizes: tuple[int, ...]) -> nn.Module:
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    if len(layers) == 1:
        for weight in layers[0].parameters():
            nn.init.normal_(weight, std=_INIT)
        return layers[0]
    parts: list[nn.Module] = []
    for layer in layers:
        parts += [layer, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def _key(name: str) -> str:
    return name.replace(".", "_")
