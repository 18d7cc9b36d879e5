"""The hyperparameters of a classifier's training loss, and that loss."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bestresponse as br
from bestresponse.apps._examples import Examples
from bestresponse.apps.tune._groups import GROUPS, Tuned, Values

_REGULARIZED = 32  # images of an outer batch on which an augmentation network is regularized


class Hyperparameters(Tuned):
    """Groups of hyperparameters that shape one training loss, in any combination.

    Args:
        groups: a module for each name in `GROUPS` that takes part, tuned.
        fixed_decay: the weight decay where it is not tuned.
        train: the training examples, the first ones of whatever is trained on.
        regularizer: factor of an augmentation network's regularizer in the outer loss.
    """

    def __init__(
        self,
        groups: Mapping[str, nn.Module],
        fixed_decay: nn.Module | None,
        train: Examples,
        regularizer: float = 0.0,
    ) -> None:
        super().__init__()
        for name, module in groups.items():
            self.add_module(_attribute(name), module)
        if fixed_decay is not None:
            self.add_module("decay", fixed_decay.requires_grad_(False))
        self.groups, self._train, self._regularizer = tuple(groups), train, regularizer

    def get(self, name: str) -> nn.Module | None:
        """The module of a group, if it takes part."""
        return getattr(self, _attribute(name), None)

    def group(self, name: str) -> nn.Module:
        """The module of a group that takes part."""
        module = getattr(self, _attribute(name))
        assert isinstance(module, nn.Module)
        return module

    def inner(self, model: nn.Module, inputs: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """The training loss of a batch, a scalar."""
        weights = self._weights(inputs, labels, index)
        if (augment := self.get("augment")) is not None:
            inputs = augment(inputs)
        smoothing = self.get("label-smoothing")
        dropout = self.get("dropout")
        logits = model(inputs) if dropout is None else dropout(model, inputs)
        each = (
            F.cross_entropy(logits, labels, reduction="none")
            if smoothing is None
            else smoothing(logits, labels)
        )
        loss = each.mean() if weights is None else (weights * each).mean()
        return loss if (decay := self.get("decay")) is None else loss + decay(model)

    def outer(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """The validation loss, a scalar; what keeps the hyperparameters in order is added."""
        loss = F.cross_entropy(model(inputs), labels)
        augment = self.get("augment")
        if isinstance(augment, br.hyper.AugmentationNetwork) and self._regularizer:
            some = inputs[:_REGULARIZED]
            loss = loss + self._regularizer * augment.regularizer(some)
        return loss

    def values(self) -> dict[str, Values]:
        return {name: GROUPS[name].read(self.group(name), self._train) for name in self.groups}

    def count(self, name: str) -> int:
        return sum(parameter.numel() for parameter in self.group(name).parameters())

    def augmentation(self) -> Callable[[Tensor], Tensor] | None:
        return self.get("augment")

    def frozen(self) -> Hyperparameters:
        """A copy that nothing tunes."""
        shared = {id(self._train): self._train}  # the data is not copied
        return copy.deepcopy(self, shared).requires_grad_(False)

    def _weights(self, inputs: Tensor, labels: Tensor, index: Tensor) -> Tensor | None:
        """How much the examples of a batch count; those of no training example fully."""
        last = len(self._train) - 1
        weights = []
        if (table := self.get("weights")) is not None:
            weights.append(table(index.clamp(max=last).to(inputs.device)))
        if (network := self.get("reweight-net")) is not None:
            weights.append(network(inputs, labels))
        if not weights:
            return None
        return torch.where(index.to(inputs.device) <= last, math.prod(weights), 1.0)


def _attribute(name: str) -> str:
    return name.replace("-", "_")
