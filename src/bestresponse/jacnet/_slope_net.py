"""The network whose output is a slope: one for each dimension, all evaluated at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bestresponse._errors import InputError

Activation = Callable[[Tensor], Tensor]


class SlopeNet(nn.Module):
    """`dim` perceptrons j(t, context), each of one number t of its own and a shared context.

    Args:
        dim: how many.
        context: size of the context; 0 for none.
        hidden: hidden units, of one layer or of several.
        activation: after each hidden layer.
        visible: (dim, context), which entries of the context each of them sees; None is all.

    Example:
        >>> SlopeNet(dim=2)(torch.zeros(2, 5)).shape
        torch.Size([2, 5])
    """

    visible: Tensor | None

    def __init__(
        self,
        dim: int,
        context: int = 0,
        hidden: int | Sequence[int] = 64,
        activation: Activation = torch.tanh,
        visible: Tensor | None = None,
    ) -> None:
        super().__init__()
        widths = [hidden] if isinstance(hidden, int) else list(hidden)
        if not widths or min(widths) < 1:
            raise InputError(f"hidden={hidden} must be 1 or more, or several such numbers.")
        self.activation = activation
        spread = 1 / math.sqrt(1 + context)
        self.time = nn.Parameter(_uniform((dim, widths[0], 1), spread))
        self.context = (
            nn.Parameter(_uniform((dim, widths[0], context), spread)) if context else None
        )
        self.register_buffer("visible", None if visible is None else visible[:, None, :])
        self.bias = nn.Parameter(_uniform((dim, widths[0]), spread))
        sizes = list(zip([*widths, 1][1:], widths, strict=True))
        self.weights = nn.ParameterList(
            _uniform((dim, out, size), 1 / math.sqrt(size)) for out, size in sizes
        )
        self.biases = nn.ParameterList(
            _uniform((dim, out), 1 / math.sqrt(size)) for out, size in sizes
        )

    def forward(self, times: Tensor, context: Tensor | None = None) -> Tensor:
        """J at times (..., dim, points), for a context (..., c) of the same leading dimensions."""
        hidden = times[..., None] * self.time.mT + self.bias[:, None]
        if self.context is not None:
            assert context is not None
            weights = self.context if self.visible is None else self.context * self.visible
            hidden = hidden + torch.einsum("dhc,...c->...dh", weights, context)[..., None, :]
        for weight, bias in zip(self.weights, self.biases, strict=True):
            hidden = self.activation(hidden) @ weight.mT + bias[:, None]
        return hidden[..., 0]


def _uniform(shape: tuple[int, ...], bound: float) -> Tensor:
    """Between −bound and bound, as in `nn.Linear`."""
    return torch.empty(shape).uniform_(-bound, bound)
