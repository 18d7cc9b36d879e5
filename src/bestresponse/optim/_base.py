"""What a differentiable optimizer is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._tree import Tree

Setting = float | Callable[..., Any]
"""A number, or a callable that reads a hyperparameter: zero-argument over live modules in
`Nested`, a function of the hyperparameter tree in the functional core."""

State = dict[str, Tree]
"""Optimizer state: one tree a slot, such as `exp_avg`."""

Read = Callable[[Setting], Any]
"""Gives a setting's value, differentiable in the hyperparameters."""


class Optimizer(ABC):
    """Settings of a pure update rule. Frozen; everything it computes can be differentiated."""

    @abstractmethod
    def init(self, params: Tree) -> State:
        """The state before the first step."""

    @abstractmethod
    def update(self, params: Tree, grads: Tree, state: State, read: Read) -> tuple[Tree, State]:
        """Parameters and state after one step."""

    def resolve(self, live: Tree) -> Optimizer:
        """The rule for the given live parameters; itself, unless it looks at a live optimizer."""
        return self


def check_range(owner: object, field: str, value: Any, low: float, high: float) -> None:
    """Refuse a number outside [low, high]; a callable is checked by nobody but its user."""
    if isinstance(value, Tensor) and value.requires_grad:
        raise InputError(
            f"{type(owner).__name__}({field}=...) got a hyperparameter's value, which would be "
            f"held constant; pass a function that reads it: {field}=lambda: data.{field}."
        )
    if not callable(value) and not low <= value <= high:
        raise InputError(
            f"{type(owner).__name__}({field}={value}) is out of range; use {low} to {high}."
        )


def decayed(grad: Tensor, param: Tensor, weight_decay: Any) -> Tensor:
    """The gradient with the derivative of ½·weight_decay·w² added."""
    if isinstance(weight_decay, float | int) and weight_decay == 0:
        return grad
    return grad + weight_decay * param
