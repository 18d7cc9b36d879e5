"""A closure over live modules as a pure function of parameters and hyperparameters.

The modules are put under a throw-away host and their tensors swapped by
`torch.func.functional_call` while the closure runs. What the swap cannot reach is refused by
`_guards.py` instead of being differentiated wrongly.
"""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from bestresponse._context import Surroundings, ambient_autocast
from bestresponse._errors import InputError
from bestresponse._guards import names
from bestresponse._modules import Parameters, is_parallel, live_parameters, unique, unwrap
from bestresponse._tree import Tree

Batch = tuple[Any, ...] | list[Any] | Mapping[str, Any]


def call_with_batch(function: Callable[..., Any], *leading: Any, batch: Batch) -> Any:
    """`function` of a batch: a tuple or list by position, a mapping by keyword."""
    if isinstance(batch, Mapping):
        return function(*leading, **batch)
    if isinstance(batch, tuple | list):
        return function(*leading, *batch)
    raise InputError(
        f"A batch must be a tuple, a list or a mapping, not {type(batch).__name__}; "
        "write (x,) for a single tensor."
    )


class _Host(nn.Module):
    """Holds modules so that `functional_call` can swap their tensors while a closure runs."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.held = nn.ModuleList(modules)

    def forward(self, closure: Callable[..., Any], batch: Batch) -> Any:
        return call_with_batch(closure, batch=batch)


class LiveModules:
    """The live modules behind `params` and `hyper`, and those that the closures capture.

    Args:
        modules: the modules that hold `params` and `hyper`.
        params: live inner parameters by name.
        hyper: live hyperparameters by name.
        closures: functions over the modules; other modules they capture are frozen.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        params: Mapping[str, Tensor],
        hyper: Mapping[str, Tensor],
        closures: Iterable[Callable[..., Any]],
    ) -> None:
        captured = [module for closure in closures for module in captured_modules(closure)]
        everything = unique(inner for module in captured for inner in module.modules())
        self._wrappers = [module for module in everything if is_parallel(module)]
        self._host = _Host(unique(unwrap(module) for module in [*modules, *captured]))
        self._modules = list(self._host.modules())
        roles = {id(tensor): ("params", name) for name, tensor in params.items()}
        roles |= {id(tensor): ("hyper", name) for name, tensor in hyper.items()}
        # every name of a tied tensor, so that nothing has to look for ties again
        self._parameters = [
            (name, tensor, *roles.get(id(tensor), ("frozen", name)))
            for name, tensor in self._host.named_parameters(remove_duplicate=False)
        ]
        self._buffers = [
            (name, buffer, buffer.clone())
            for name, buffer in self._host.named_buffers(remove_duplicate=False)
        ]
        self._refuse_embeddings()

    def surroundings(self) -> Surroundings:
        """How closures run if called from here, now."""
        tensors = [p for _, p, *_ in self._parameters] + [b for _, b, _ in self._buffers]
        devices = {t.device.index for t in tensors if t.device.type == "cuda"}
        recurrent = bool(devices) and any(isinstance(m, nn.RNNBase) for m in self._modules)
        return Surroundings(
            tuple(sorted(devices)), ambient_autocast(), recurrent, self._has_weight_norm()
        )

    def updating_statistics(self) -> list[str]:
        """The layers that would update running statistics of their inputs if they ran now."""
        return [
            type(module).__name__
            for module in self._modules
            if module.training and getattr(module, "running_mean", None) is not None
        ]

    def _has_weight_norm(self) -> bool:
        """Whether a magnitude and a direction stand beside each other, in the old or new naming."""
        known = {name for name, *_ in self._parameters}
        pairs = (("_g", "_v"), (".original0", ".original1"))
        return any(
            name.endswith(size) and name.removesuffix(size) + direction in known
            for name in known
            for size, direction in pairs
        )

    def evaluate(self, closure: Callable[..., Any], params: Tree, hyper: Tree, batch: Batch) -> Any:
        """The closure at the given trees, everything else frozen, buffers as clones.

        A name that a tree leaves out is frozen too: settings read hyperparameters only.
        """
        trees: dict[str, Mapping[str, Tensor]] = {"hyper": hyper, "params": params}
        swaps = {
            name: trees.get(role, {}).get(own_name, live.detach())
            for name, live, role, own_name in self._parameters
        }
        for name, _, value in self._buffers:
            swaps[name] = value.clone()
        return torch.func.functional_call(self._host, swaps, (closure, batch), tie_weights=False)

    @contextmanager
    def evaluation_mode(self) -> Iterator[None]:
        """All modules in eval mode; each one's own mode is restored after."""
        modes = {module: module.training for module in self._modules}
        try:
            for module in modes:
                module.training = False
            yield
        finally:
            for module, training in modes.items():
                module.training = training

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Undo what slips past the swap.

        Activation checkpointing recomputes on the live module and so updates live buffers; hooks
        such as the old `weight_norm`, and a forward that keeps what it computed, leave tensors
        with a graph as plain attributes; recurrent modules keep a list of their weights.
        """
        attributes = {module: dict(vars(module)) for module in self._modules}
        contents = [
            (held, held.copy())
            for kept in attributes.values()
            for held in kept.values()
            if isinstance(held, list | dict)
        ]
        handles = [wrapper.register_forward_pre_hook(_refuse) for wrapper in self._wrappers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module, kept in attributes.items():
                vars(module).clear()
                vars(module).update(kept)
            for held, before in contents:
                _refill(held, before)
            self._restore_buffers()

    def _restore_buffers(self) -> None:
        """Live buffers as they were when the call began."""
        with torch.no_grad():
            for _, buffer, value in self._buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)

    def _refuse_embeddings(self) -> None:
        """Those whose backward pass is no derivative, or none that can be flattened."""
        for module in self._modules:
            if not isinstance(module, nn.Embedding | nn.EmbeddingBag):
                continue
            if module.max_norm is not None:
                raise InputError(
                    f"{module} renormalizes its weights in place, which cannot be "
                    "differentiated; set max_norm=None."
                )
            if module.scale_grad_by_freq:
                raise InputError(
                    f"{module} divides its gradient by frequencies, which is no gradient of any "
                    "loss; set scale_grad_by_freq=False."
                )
            if module.sparse:
                raise InputError(
                    f"{module} has sparse gradients, which have no second derivative; "
                    "set sparse=False."
                )


def live_modules(
    params: Parameters, hyper: Parameters, closures: Iterable[Callable[..., Any]]
) -> tuple[LiveModules, Tree, Tree]:
    """The live modules, and the live tensors of `params` and of `hyper` by name, as they are now.

    Raises:
        InputError: for a tensor that is in both.
    """
    modules, weights = live_parameters(params, "params")
    hyper_modules, hypers = live_parameters(hyper, "hyper")
    own = {id(tensor) for tensor in weights.values()}
    shared = [name for name, tensor in hypers.items() if id(tensor) in own]
    if shared:
        raise InputError(
            f"The parameter {names(shared)} is in params and in hyper; "
            "take it out of one of them with br.select."
        )
    return LiveModules([*modules, *hyper_modules], weights, hypers, closures), weights, hypers


def _refill(held: Any, before: Any) -> None:
    """Give a list or a dict its old content back, where it has changed."""
    if isinstance(held, list):
        held[:] = before
        return
    held.clear()
    held.update(before)


def _refuse(module: nn.Module, args: Any) -> None:
    raise InputError(
        f"The closure calls a {type(module).__name__}, through which second derivatives would be "
        "silently local to one process; call its .module inside the closures instead."
    )


def captured_modules(function: object) -> list[nn.Module]:
    """Modules that a callable reaches through its closure, globals, defaults or `self`."""
    found: list[nn.Module] = []
    seen: set[int] = set()
    pending = deque([function])
    while pending and len(seen) < _MOST_VISITED:
        item = pending.popleft()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, nn.Module):
            found.append(item)
        else:
            pending.extend(_reached(item))
    return found


def _reached(item: object) -> list[object]:
    """What one step from `item` may lead to a module."""
    if isinstance(item, FunctionType):
        cells = [cell.cell_contents for cell in item.__closure__ or () if _filled(cell)]
        used = _global_names(item.__code__)
        globals_ = [item.__globals__[name] for name in used if name in item.__globals__]
        defaults = [*(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).values()]
        return [*_worth_a_look([*cells, *globals_, *defaults]), inspect.unwrap(item)]
    if isinstance(item, MethodType):
        return [item.__func__, item.__self__]
    if isinstance(item, functools.partial):
        return _worth_a_look([item.func, *item.args, *item.keywords.values()])
    if isinstance(item, list | tuple):
        return _worth_a_look(item[:_LONG])
    if isinstance(item, dict):
        return _worth_a_look(list(item.values())[:_LONG])
    # an object that holds modules, or is called itself
    return _worth_a_look([*vars(item).values(), type(item).__call__]) if _is_object(item) else []


_MOST_VISITED = 1000  # a search that takes longer has wandered off into a library
_LONG = 256  # a longer list holds data, not modules
_CONTAINERS = (nn.Module, MethodType, functools.partial, list, tuple, dict)


def _worth_a_look(values: Sequence[object]) -> list[object]:
    return [v for v in values if isinstance(v, _CONTAINERS) or _is_function(v) or _is_object(v)]


def _is_function(value: object) -> bool:
    """Whether `value` is a function of the user's: PyTorch's own capture no module."""
    return isinstance(value, FunctionType) and not (value.__module__ or "").startswith("torch.")


def _is_object(value: object) -> bool:
    """Whether `value` is an ordinary object with attributes."""
    odd = (type, ModuleType, FunctionType, MethodType, nn.Module, Tensor, torch.Generator)
    return hasattr(value, "__dict__") and not isinstance(value, odd)


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  (an empty cell raises)
    except ValueError:
        return False
    return True


def _global_names(code: CodeType) -> set[str]:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*(_global_names(c) for c in inner))
