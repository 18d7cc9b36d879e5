"""A network that gives each training example its weight."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bestresponse._errors import InputError

_TEMPERATURE = 10.0


class ReweightingNetwork(nn.Module):
    """Weights of training examples as a function of what they are: one network for all of them.

    An example's inputs x, flat, and with `classes` its label as a one-hot vector, go through one
    hidden ReLU layer to a score s. The weight is σ(s), or softmax(σ(s/10)) over the batch times
    the batch's size. To tell a wrong label from a right one it must see the label.

    Args:
        inputs: numbers in the inputs of one example.
        classes: of the labels; 0 leaves them out.
        hidden: width of the hidden layer; None is that of all its inputs together.
        transform: `sigmoid` for weights in (0, 1) independent of each other, or `softmax` for
            weights with mean 1 over the batch, whose largest is at most e times the smallest.
        init: score of every example at first, with `sigmoid`; 0 gives weights ½. The weights of
            the output layer start at zero, so that all examples begin alike.

    Raises:
        InputError: for a size that is not positive, or an unknown transform.

    Source: Lorraine, Vicol, Duvenaud, "Optimizing Millions of Hyperparameters by Implicit
    Differentiation" (2020), https://arxiv.org/abs/1911.02590 (the softmax form, without labels)

    Example:
        >>> network = ReweightingNetwork(4, classes=3)
        >>> images, labels, losses = torch.rand(2, 1, 2, 2), torch.tensor([0, 2]), torch.ones(2)
        >>> (network(images, labels) * losses).mean().item()
        0.5
    """

    def __init__(
        self,
        inputs: int,
        *,
        classes: int = 0,
        hidden: int | None = None,
        transform: Literal["sigmoid", "softmax"] = "sigmoid",
        init: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {"inputs": (inputs, 1), "classes": (classes, 0), "hidden": (hidden, 1)}
        for name, (size, least) in sizes.items():
            if size is not None and size < least:
                raise InputError(f"{name}={size} is too small; give {least} or more.")
        if transform not in ("sigmoid", "softmax"):
            raise InputError(f"transform='{transform}' is unknown; use sigmoid or softmax.")
        self.inputs, self.classes, self.transform = inputs, classes, transform
        width = inputs + classes
        self.hidden = nn.Linear(width, hidden or width)
        self.score = nn.Linear(hidden or width, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.constant_(self.score.bias, float(init))

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """The weights of a batch, (batch,).

        Args:
            inputs: (batch, …), with as many numbers each as the network was made for.
            labels: int64 (batch,); needed with `classes`, left out without.

        Raises:
            InputError: for other shapes, or labels out of range on the CPU (elsewhere it would
                cost a wait).
        """
        self._check(inputs, labels)
        seen = inputs.flatten(1).to(self.hidden.weight.dtype)
        if labels is not None:
            seen = torch.cat([seen, F.one_hot(labels, self.classes).to(seen)], dim=1)
        score = self.score(torch.relu(self.hidden(seen)))[:, 0]
        if self.transform == "sigmoid":
            return torch.sigmoid(score)
        return torch.softmax(torch.sigmoid(score / _TEMPERATURE), dim=0) * score.numel()

    def _check(self, inputs: Tensor, labels: Tensor | None) -> None:
        count = inputs[0].numel() if inputs.ndim and len(inputs) else self.inputs
        if inputs.ndim < 2 or count != self.inputs:
            raise InputError(
                f"The inputs have shape {tuple(inputs.shape)}; this ReweightingNetwork needs "
                f"(batch, …) with {self.inputs} numbers for each example."
            )
        if (labels is not None) != bool(self.classes):
            what = "needs the labels" if self.classes else "was made without classes"
            raise InputError(f"This ReweightingNetwork {what}; pass labels just where it has them.")
        if labels is None:
            return
        if labels.shape != inputs.shape[:1] or labels.dtype != torch.int64:
            raise InputError(
                f"The labels are {labels.dtype} of shape {tuple(labels.shape)}; give int64 of "
                f"shape ({len(inputs)},)."
            )
        if labels.device.type == "cpu" and labels.numel():
            low, high = (int(end) for end in labels.aminmax())
            if low < 0 or high >= self.classes:
                raise InputError(
                    f"The label {low if low < 0 else high} is none of the {self.classes} classes; "
                    "number them from 0."
                )

    def extra_repr(self) -> str:
        """Sizes and transform."""
        return f"inputs={self.inputs}, classes={self.classes}, transform={self.transform}"
