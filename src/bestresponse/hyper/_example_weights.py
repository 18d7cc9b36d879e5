"""A learned weight for each training example."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from bestresponse._errors import InputError


class ExampleWeights(nn.Module):
    """A weight for each of `n` training examples, to multiply their losses with.

    Args:
        n: number of training examples.
        transform: `sigmoid` for weights in (0, 1) independent of each other, or `softmax` over
            the batch, scaled to mean 1.
        init: initial value of the raw hyperparameter; 0 gives weights ½ or 1.

    Raises:
        InputError: if `n` is not positive or the transform is unknown.

    Example:
        >>> weights = ExampleWeights(3)
        >>> losses, index = torch.tensor([1.0, 3.0]), torch.tensor([0, 2])
        >>> (weights(index) * losses).mean().item()
        1.0
    """

    def __init__(
        self, n: int, transform: Literal["sigmoid", "softmax"] = "sigmoid", init: float = 0.0
    ) -> None:
        super().__init__()
        if n < 1:
            raise InputError(f"ExampleWeights needs at least one example, not {n}.")
        if transform not in ("sigmoid", "softmax"):
            raise InputError(f"transform='{transform}' is unknown; use sigmoid or softmax.")
        self.transform = transform
        self.raw = nn.Parameter(torch.full((n,), float(init)))

    def forward(self, index: Tensor) -> Tensor:
        """The weights of the examples `index`, an integer tensor (batch,); shape (batch,).

        Raises:
            InputError: if an index on the CPU is out of range (elsewhere it would cost a wait).
        """
        self._check(index)
        raw = self.raw[index]
        if self.transform == "sigmoid":
            return torch.sigmoid(raw)
        return torch.softmax(raw, dim=0) * raw.numel()

    def _check(self, index: Tensor) -> None:
        if index.device.type != "cpu" or not index.numel():
            return
        low, high = (int(end) for end in index.aminmax())
        if low < 0 or high >= self.raw.numel():
            raise InputError(
                f"Example {low if low < 0 else high} is none of the {self.raw.numel()} examples; "
                "pass the positions of the batch in the training set."
            )

    def extra_repr(self) -> str:
        """Number of examples and transform."""
        return f"{self.raw.numel()}, transform={self.transform}"
