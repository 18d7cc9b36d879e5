"""A live `torch.optim` optimizer, read as differentiable rules with its groups and its state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._guards import names
from bestresponse._tree import Tree
from bestresponse.optim._adam import Adam
from bestresponse.optim._base import Optimizer, Read, State
from bestresponse.optim._sgd import SGD, Momentum

_UNSUPPORTED = ("amsgrad", "maximize")


def from_torch(optimizer: torch.optim.Optimizer) -> FromTorch:
    """The rules of a live optimizer: every parameter group with its own settings, and its state.

    Groups and state are read when a hypergradient is computed, so schedules are followed; the
    optimizer itself is never changed.

    Args:
        optimizer: a `torch.optim.SGD`, `Adam` or `AdamW`.

    Raises:
        InputError: for another optimizer, or an option without a differentiable rule.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> rules = from_torch(torch.optim.SGD([weight], lr=0.1, momentum=0.9))
        >>> rules.resolve({"w": weight}).rules["w"]
        Momentum(lr=0.1, momentum=0.9, dampening=0, nesterov=False, weight_decay=0)
    """
    if type(optimizer) not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        raise InputError(
            f"from_torch knows SGD, Adam and AdamW, not {type(optimizer).__name__}; "
            "pass br.optim.SGD, Momentum or Adam with the settings you want."
        )
    for group in optimizer.param_groups:
        for option in _UNSUPPORTED:
            if group.get(option):
                raise InputError(
                    f"from_torch cannot differentiate {option}=True; switch it off or pass "
                    "a br.optim rule."
                )
    return FromTorch(optimizer)


@dataclass(frozen=True)
class FromTorch(Optimizer):
    """A live optimizer by reference. Made by `from_torch`."""

    optimizer: torch.optim.Optimizer

    def init(self, params: Tree) -> State:
        """Not meant to be called: `resolve` first."""
        raise InputError("A live optimizer must be resolved first; use it inside br.Unroll.")

    def update(self, params: Tree, grads: Tree, state: State, read: Read) -> tuple[Tree, State]:
        """Not meant to be called: `resolve` first."""
        raise InputError("A live optimizer must be resolved first; use it inside br.Unroll.")

    def resolve(self, live: Tree) -> Grouped:
        """One rule for each live parameter, with its copied state."""
        by_identity = {
            id(tensor): group for group in self.optimizer.param_groups for tensor in group["params"]
        }
        missing = [name for name, tensor in live.items() if id(tensor) not in by_identity]
        if missing:
            raise InputError(
                f"The optimizer does not hold the parameter {names(missing)}; "
                "add it to a group, or leave it out of params."
            )
        rules = {
            name: _rule(self.optimizer, by_identity[id(tensor)]) for name, tensor in live.items()
        }
        copied = {name: self.optimizer.state.get(tensor, {}) for name, tensor in live.items()}
        return Grouped(rules, {name: _slots(state) for name, state in copied.items()})


@dataclass(frozen=True)
class Grouped(Optimizer):
    """One rule a parameter, each with the state it starts from."""

    rules: dict[str, Optimizer]
    copied: dict[str, dict[str, Tensor]]

    def init(self, params: Tree) -> State:
        """Each rule's fresh state, overwritten by what was copied."""
        state: State = {}
        for name, rule in self.rules.items():
            for slot, tree in rule.init({name: params[name]}).items():
                value = self.copied[name].get(slot, tree[name])
                state.setdefault(slot, {})[name] = value.detach().clone()
        return state

    def update(self, params: Tree, grads: Tree, state: State, read: Read) -> tuple[Tree, State]:
        """Each rule's step."""
        new_params: Tree = {}
        new_state: State = {}
        for name, rule in self.rules.items():
            own = {slot: {name: tree[name]} for slot, tree in state.items() if name in tree}
            stepped, own = rule.update({name: params[name]}, {name: grads[name]}, own, read)
            new_params |= stepped
            for slot, tree in own.items():
                new_state.setdefault(slot, {}).update(tree)
        return new_params, new_state


def _rule(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Optimizer:
    lr = group["lr"]
    if isinstance(optimizer, torch.optim.SGD):
        if not group["momentum"]:
            return SGD(lr, group["weight_decay"])
        return Momentum(
            lr, group["momentum"], group["dampening"], group["nesterov"], group["weight_decay"]
        )
    decoupled = isinstance(optimizer, torch.optim.AdamW) or group.get("decoupled_weight_decay")
    return Adam(lr, tuple(group["betas"]), group["eps"], group["weight_decay"], bool(decoupled))


def _slots(state: dict[str, Any]) -> dict[str, Tensor]:
    """State of a torch optimizer under the names of the rules' slots."""
    slots: dict[str, Tensor] = {
        name: state[name].detach() for name in ("exp_avg", "exp_avg_sq", "step") if name in state
    }
    if "step" in slots:
        slots["step"] = slots["step"].double()
    velocity = state.get("momentum_buffer")
    if velocity is not None:
        slots |= {"velocity": velocity.detach(), "moving": torch.ones((), device=velocity.device)}
    return slots
