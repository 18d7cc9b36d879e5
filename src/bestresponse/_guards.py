"""Refusals: what would be differentiated wrongly, or not at all, is named instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bestresponse._errors import InputError


def names(items: Iterable[str], at_most: int = 5) -> str:
    """A readable list of names, cut short where there are many."""
    quoted = [f"'{item}'" for item in items]
    rest = len(quoted) - at_most
    return ", ".join(quoted[:at_most]) + (f" and {rest} more" if rest > 0 else "")


def is_checked(call: int) -> bool:
    """Graphs are searched at call 1, 2, 4, 8, …: closures may change, but seldom do."""
    return call & (call - 1) == 0


def check_scalar(loss: Any, role: str) -> Tensor:
    """`loss` as a differentiable scalar of floating type."""
    if not isinstance(loss, Tensor):
        raise InputError(
            f"The {role} closure returned {type(loss).__name__}, not a tensor; "
            "return the loss itself (no .item())."
        )
    if loss.numel() != 1:
        raise InputError(
            f"The {role} closure returned a tensor of shape {tuple(loss.shape)}, not a scalar; "
            "reduce it with .mean() or .sum()."
        )
    if not loss.requires_grad:
        raise InputError(
            f"The {role} closure returned a detached loss; compute it from the parameters "
            "without .detach(), .item() or torch.no_grad()."
        )
    return loss.reshape(())


def check_escapes(loss: Tensor, live: Mapping[str, Tensor], role: str) -> None:
    """Refuse a loss whose graph reaches a live parameter past the swapped-in copies.

    A captured `list(model.parameters())` does; its gradient would be that of the wrong tensor.
    """
    reachable = {name: tensor for name, tensor in live.items() if tensor.requires_grad}
    if not reachable:
        return
    gradients = torch.autograd.grad(
        loss, list(reachable.values()), allow_unused=True, retain_graph=True
    )
    escaped = [n for n, g in zip(reachable, gradients, strict=True) if g is not None]
    if escaped:
        raise InputError(
            f"The {role} closure reaches the live parameter {names(escaped)} past its module "
            "(through a captured list of parameters, for example); read parameters from the "
            "module inside the closure."
        )


_REFUSED_NODES = {
    "CheckpointFunctionBackward": "reentrant activation checkpointing, which hides parameters "
    "from the graph; use checkpoint(..., use_reentrant=False)",
    "WeightNormInterfaceBackward0": "a fused weight normalization, whose second derivative is "
    "wrong in PyTorch; write it out as v * (g / v.norm())",
}


def check_graph(loss: Tensor, role: str) -> None:
    """Refuse operations that would make the answer wrong without a word."""
    pending, seen = [loss.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() in _REFUSED_NODES:
            raise InputError(f"The {role} closure uses {_REFUSED_NODES[node.name()]}.")
        pending += [parent for parent, _ in node.next_functions]


def check_used(gradients: Sequence[Tensor | None], params: Iterable[str]) -> None:
    """Refuse parameters on which the inner loss does not depend."""
    unused = [name for name, gradient in zip(params, gradients, strict=True) if gradient is None]
    if unused:
        raise InputError(
            f"The inner loss does not use the parameter {names(unused)}; leave it out of params "
            "with br.select, or use it in the inner closure."
        )


def check_reached(hyper: Iterable[str], *gradients: Mapping[str, Tensor | None]) -> None:
    """Refuse hyperparameters that change neither loss."""
    idle = [name for name in hyper if all(part[name] is None for part in gradients)]
    if idle:
        raise InputError(
            f"The hyperparameter {names(idle)} reaches neither the outer loss nor the inner "
            "gradient; use it in a closure, or leave it out of hyper with br.select."
        )


_HOOKS_REFUSED = "bestresponse probe: saved-tensor hooks"


@contextmanager
def no_activation_checkpointing(role: str) -> Iterator[None]:
    """Refuse activation checkpointing while a closure runs away from the live weights.

    It recomputes with the live weights, which are the wrong ones there.
    """
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks(_HOOKS_REFUSED):
            yield
    except RuntimeError as error:
        if _HOOKS_REFUSED not in str(error):
            raise
        raise InputError(
            f"The {role} closure uses activation checkpointing (or other saved-tensor "
            "hooks), which recomputes with the live weights and is wrong away from them; use "
            "br.Implicit, or switch it off (br.Unroll has a checkpoint=n of its own)."
        ) from error


def mask_shape(x: Tensor, dims_shared: Sequence[int]) -> list[int]:
    """The shape of a mask over `x` that is the same along some dimensions."""
    shape = list(x.shape)
    for dim in dims_shared:
        if not -x.ndim <= dim < x.ndim:
            raise InputError(
                f"dims_shared has {dim} but the input has {x.ndim} dimensions; "
                "name one of its dimensions."
            )
        shape[dim] = 1
    return shape


def check_callable(value: Any, role: str) -> Callable[..., Any]:
    """`value` if it can be called."""
    if not callable(value):
        raise InputError(f"{role} must be a function that returns the loss, not {value!r:.60}.")
    return value
