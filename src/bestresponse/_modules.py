"""Names and selections of live parameters: the one place that unwraps, strips and escapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bestresponse._errors import InputError

_COMPILED_CHILD = "_orig_mod"


def is_compiled(module: nn.Module) -> bool:
    """Whether `module` is what `torch.compile` returns for a module."""
    return [name for name, _ in module.named_children()] == [_COMPILED_CHILD]


def is_parallel(module: nn.Module) -> bool:
    """Whether `module` is a data-parallel wrapper."""
    return isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel)


def unwrap(module: nn.Module) -> nn.Module:
    """The user's own module under compile and data-parallel wrappers."""
    if is_compiled(module):
        return unwrap(dict(module.named_children())[_COMPILED_CHILD])
    if is_parallel(module):
        return unwrap(dict(module.named_children())["module"])
    return module


def escape(name: str) -> str:
    """A parameter's name as a key that `nn.ParameterDict` accepts; no two names collide.

    Example:
        >>> escape("layer1.0.weight_g")
        'layer1|0|weight_g'
    """
    escaped = name.replace(".", "|")
    return escaped + "|" if hasattr(nn.ParameterDict, escaped) else escaped


def named_parameters(module: nn.Module, remove_duplicate: bool = True) -> dict[str, nn.Parameter]:
    """Parameters by name, as they were called before any part of the module was compiled."""
    return {
        name.replace(f"{_COMPILED_CHILD}.", ""): parameter
        for name, parameter in module.named_parameters(remove_duplicate=remove_duplicate)
    }


@dataclass(frozen=True)
class Selection:
    """Parameters of one module, by name. Made by `select`."""

    module: nn.Module
    names: tuple[str, ...]

    def parameters(self) -> list[nn.Parameter]:
        """The selected live parameters."""
        available = named_parameters(self.module)
        return [available[name] for name in self.names]


def select(module: nn.Module, keep: Callable[[str], bool]) -> Selection:
    """The parameters of `module` whose name satisfies `keep`; all others are frozen.

    Args:
        module: a live module.
        keep: called with each parameter's name.

    Raises:
        InputError: if no name satisfies `keep`.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> select(model, lambda name: name.startswith("1.")).names
        ('1.weight', '1.bias')
    """
    module = unwrap(module)
    every_name = named_parameters(module, remove_duplicate=False)  # tied weights have several
    kept = {id(parameter) for name, parameter in every_name.items() if keep(name)}
    if not kept:
        raise InputError(f"The filter keeps no parameter; the module has: {', '.join(every_name)}.")
    first_names = named_parameters(module).items()
    return Selection(module, tuple(name for name, leaf in first_names if id(leaf) in kept))


Parameters = nn.Module | Selection | Sequence[nn.Module | Selection]
"""What `params` and `hyper` may be."""


def live_parameters(source: Parameters, role: str) -> tuple[list[nn.Module], dict[str, Tensor]]:
    """The modules of `source` and its live trainable parameters by name.

    The names are the module's own; with several modules each gets its position as a prefix.
    Parameters that do not require gradients are frozen and left out.
    """
    parts = list(source) if isinstance(source, Sequence) else [source]
    selections = [_selection(part, role) for part in parts]
    prefixes = [""] if len(parts) == 1 else [f"{i}." for i in range(len(parts))]
    live: dict[str, Tensor] = {}
    for prefix, selection in zip(prefixes, selections, strict=True):
        for name, tensor in zip(selection.names, selection.parameters(), strict=True):
            if is_lazy(tensor):
                raise InputError(
                    f"'{name}' of {role} is not initialised yet; run the module once first."
                )
            if tensor.requires_grad:
                live[prefix + name] = tensor
    if not live:
        raise InputError(
            f"{role} has no parameter that requires gradients; pass a module with at least one."
        )
    return [selection.module for selection in selections], _without_repeats(live)


def _selection(part: object, role: str) -> Selection:
    if isinstance(part, Selection):
        return part
    if isinstance(part, nn.Module):
        module = unwrap(part)
        return Selection(module, tuple(named_parameters(module)))
    raise InputError(
        f"{role} must be a module, several modules, or br.select(module, filter), "
        f"but holds a {type(part).__name__}; plain tensors go through br.hypergradient."
    )


def _without_repeats(live: dict[str, Tensor]) -> dict[str, Tensor]:
    """One name for each tensor, the first: several modules may share one."""
    seen: set[int] = set()
    return {n: t for n, t in live.items() if not (id(t) in seen or seen.add(id(t)))}  # type: ignore[func-returns-value]


def unique(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules without repeats, in order."""
    return list({id(module): module for module in modules}.values())
