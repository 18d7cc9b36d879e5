"""A closure over live modules as a pure function of parameters and hyperparameters.

The modules are put under a throw-away host and their tensors swapped by
`torch.func.functional_call` while the closure runs. What the swap cannot reach is refused by
`_guards.py` instead of being differentiated wrongly.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from bestresponse._context import Surroundings, ambient_autocast
from bestresponse._errors import InputError
from bestresponse._modules import is_parallel, unique, unwrap
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
        roles = {id(tensor): ("params", name) for name, tensor in params.items()}
        roles |= {id(tensor): ("hyper", name) for name, tensor in hyper.items()}
        self._roles = {
            name: roles.get(id(tensor), ("frozen", name))
            for name, tensor in self._host.named_parameters()
        }
        _refuse_renormalizing(self._host)

    def surroundings(self) -> Surroundings:
        """How closures run if called from here, now."""
        tensors = [*self._host.parameters(), *self._host.buffers()]
        devices = {t.device.index for t in tensors if t.device.type == "cuda"}
        recurrent = bool(devices) and any(isinstance(m, nn.RNNBase) for m in self._host.modules())
        return Surroundings(tuple(sorted(devices)), ambient_autocast(), recurrent)

    def evaluate(
        self, closure: Callable[..., Any], params: Tree | None, hyper: Tree, batch: Batch
    ) -> Any:
        """The closure at the given trees, everything else frozen, buffers as clones.

        With `params=None` the live parameters stay where they are (for settings, which read
        hyperparameters only).
        """
        trees: dict[str, Mapping[str, Tensor]] = {"hyper": hyper, "params": params or {}}
        swaps = {}
        for name, live in self._host.named_parameters():
            role, own_name = self._roles[name]
            swaps[name] = trees.get(role, {}).get(own_name, live.detach())
        for name, buffer in self._host.named_buffers():
            swaps[name] = buffer.clone()
        return torch.func.functional_call(self._host, swaps, (closure, batch))

    @contextmanager
    def evaluation_mode(self) -> Iterator[None]:
        """All modules in eval mode; each one's own mode is restored after."""
        modes = {module: module.training for module in self._host.modules()}
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
        buffers = {buffer: buffer.clone() for buffer in self._host.buffers()}
        attributes = {module: dict(vars(module)) for module in self._host.modules()}
        lists = [(v, v.copy()) for kept in attributes.values() for v in kept.values()
                 if isinstance(v, list)]  # fmt: skip
        handles = [wrapper.register_forward_pre_hook(_refuse) for wrapper in self._wrappers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module, kept in attributes.items():
                vars(module).clear()
                vars(module).update(kept)
            for live, before in lists:
                live[:] = before
            with torch.no_grad():
                for buffer, value in buffers.items():
                    if not torch.equal(buffer, value):
                        buffer.copy_(value)


def _refuse_renormalizing(host: nn.Module) -> None:
    for name, module in host.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            raise InputError(
                f"The embedding '{name.removeprefix('held.0.')}' renormalizes its weights in place "
                "(max_norm), which cannot be differentiated; set max_norm=None."
            )


def _refuse(module: nn.Module, args: Any) -> None:
    raise InputError(
        f"The closure calls a {type(module).__name__}, through which second derivatives would be "
        "silently local to one process; call its .module inside the closures instead."
    )


def captured_modules(function: object) -> list[nn.Module]:
    """Modules that a callable reaches through its closure, globals, defaults or `self`."""
    found: list[nn.Module] = []
    seen: set[int] = set()
    pending = [function]
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, nn.Module):
            found.append(item)
        else:
            pending += _reached(item)
    return found


def _reached(item: object) -> list[object]:
    """What one step from `item` may lead to a module."""
    if isinstance(item, FunctionType):
        cells = [cell.cell_contents for cell in item.__closure__ or () if _filled(cell)]
        names = _global_names(item.__code__)
        globals_ = [item.__globals__[name] for name in names if name in item.__globals__]
        defaults = [*(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).values()]
        return [*_worth_a_look([*cells, *globals_, *defaults]), inspect.unwrap(item)]
    if isinstance(item, MethodType):
        return [item.__func__, item.__self__]
    if isinstance(item, functools.partial):
        return _worth_a_look([item.func, *item.args, *item.keywords.values()])
    if isinstance(item, list | tuple):
        return _containers(item[:_LONG])
    if isinstance(item, dict):
        return _containers(list(item.values())[:_LONG])
    # an object that holds modules, or is called itself
    return [*_containers(list(vars(item).values())), type(item).__call__] if _is_plain(item) else []


_CONTAINERS = (nn.Module, FunctionType, MethodType, functools.partial, list, tuple, dict)
_LONG = 256  # a longer list holds data, not modules


def _containers(values: Sequence[object]) -> list[object]:
    return [value for value in values if isinstance(value, _CONTAINERS)]


def _worth_a_look(values: Sequence[object]) -> list[object]:
    """Containers, and plain objects that a function holds directly."""
    return [value for value in values if isinstance(value, _CONTAINERS) or _is_plain(value)]


def _is_plain(value: object) -> bool:
    """Whether `value` is an ordinary object with attributes."""
    odd = (type, ModuleType, Tensor, torch.Generator)
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
