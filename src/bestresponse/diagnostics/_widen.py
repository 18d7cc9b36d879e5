"""A problem in float64, whatever its closures hold: references deserve all digits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bestresponse._problem import Batches, Problem, Pure
from bestresponse._purify import Batch
from bestresponse._tree import Tree
from bestresponse.diagnostics._randomness import losses

_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_WIDER: dict[Any, Any] = {
    **dict.fromkeys(_NARROW, torch.float64),
    **dict.fromkeys((Tensor.float, Tensor.half, Tensor.bfloat16), Tensor.double),
}


class _InFloat64(TorchFunctionMode):
    """Every floating tensor that a function of PyTorch meets is a float64 one.

    Captured tensors, batches and frozen weights need no conversion of their own.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        _refuse_lost_write(func, args)
        return _WIDER.get(func, func)(*_wide(args), **_wide(kwargs or {}))


def _refuse_lost_write(func: Any, args: tuple[Any, ...]) -> None:
    """A write into a narrow tensor would go to its wide copy."""
    name = getattr(func, "__name__", "")
    in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
    if in_place and isinstance(args[0], Tensor) and args[0].dtype in _NARROW:
        raise TypeError(f"{name} writes into a {args[0].dtype} tensor")


def _wide(item: Any) -> Any:
    if isinstance(item, Tensor):
        return item.double() if item.dtype in _NARROW else item
    if isinstance(item, torch.dtype):
        return _WIDER.get(item, item)
    if isinstance(item, dict):
        return {key: _wide(value) for key, value in item.items()}
    if type(item) in (list, tuple):  # a subclass has a constructor of its own
        return type(item)(_wide(part) for part in item)
    return item


@contextmanager
def _float64() -> Iterator[None]:
    """New tensors are float64 as well; the caller's default comes back after."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _InFloat64():
            yield
    finally:
        torch.set_default_dtype(before)


def widened(problem: Problem) -> Problem:
    """The same problem in float64; itself where that is not to be had.

    It is not where a closure insists on its type, draws other random numbers in float64, or
    recomputes itself on the way back.
    """
    types = {leaf.dtype for tree in (problem.params, problem.hyper) for leaf in tree.values()}
    if types == {torch.float64}:
        return problem
    wide = replace(
        problem,
        inner=_in_float64(problem.inner),
        outer=_in_float64(problem.outer),
        pure=lambda closure: _in_float64(problem.pure(closure)),
        params=_wide(problem.params),
        hyper=_wide(problem.hyper),
        inner_batch=_wide_batches(problem.inner_batch),
        outer_batch=_wide(problem.outer_batch),
    )
    tolerance = max(torch.finfo(dtype).eps for dtype in types) ** 0.5
    try:
        pairs = zip(losses(problem), losses(wide), strict=True)
        same = all(math.isclose(*pair, rel_tol=tolerance, abs_tol=tolerance**2) for pair in pairs)
    except Exception:  # a closure that runs in its own type only: so be it
        return problem
    return wide if same else problem


def _in_float64(function: Pure) -> Pure:
    def wide(params: Tree, hyper: Tree, batch: Batch, seed: int, *leading: Any) -> Any:
        with _float64():
            return function(params, hyper, batch, seed, *leading)

    return wide


def _wide_batches(batch: Batch | Batches) -> Batch | Batches:
    if isinstance(batch, Batches):
        return Batches(_wide(item) for item in batch.items)
    wide: Batch = _wide(batch)
    return wide
