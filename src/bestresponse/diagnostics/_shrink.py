"""A smaller problem of the same kind: fewer rows, fewer parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._guards import names
from bestresponse._problem import Batches, Problem
from bestresponse._tree import Partial, Tree, leaves_of


def shrunk(problem: Problem, rows: int | None, keep: Callable[[str], bool] | None) -> Problem:
    """The problem on the first `rows` of its batches, with the parameters that `keep` keeps.

    Other parameters are held where they are, with the hyperparameters that then decide nothing.
    """
    if rows is not None:
        problem = replace(
            problem,
            inner_batch=_first_rows(problem.inner_batch, rows),
            outer_batch=_first_rows(problem.outer_batch, rows),
        )
    if keep is not None:
        problem = _with_idle_frozen(_with_params(problem, keep))
    return problem if rows is None and keep is None else replace(problem, memory={})


def _first_rows(batch: Any, rows: int) -> Any:
    """The batch with every tensor cut that is as long as its first one."""
    if isinstance(batch, Batches):
        return Batches(_first_rows(item, rows) for item in batch.items)
    length = next((len(tensor) for tensor in _tensors(batch) if tensor.ndim), None)

    def cut(item: Any) -> Any:
        if isinstance(item, Tensor):
            return item[:rows] if item.ndim and len(item) == length else item
        if isinstance(item, Mapping):
            return {key: cut(value) for key, value in item.items()}
        return type(item)(map(cut, item)) if type(item) in (list, tuple) else item

    return cut(batch)


def _tensors(item: Any) -> Iterator[Tensor]:
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, Mapping | list | tuple):
        for part in item.values() if isinstance(item, Mapping) else item:
            yield from _tensors(part)


def _with_params(problem: Problem, keep: Callable[[str], bool]) -> Problem:
    kept = [name for name in problem.params if keep(name)]
    if not kept:
        raise InputError(
            f"keep keeps no parameter; params has {names(problem.params)}, write a filter that "
            "is true for some of them."
        )
    return replace(
        problem,
        params={name: problem.params[name] for name in kept},
        live={name: problem.live[name] for name in kept},
    )


def _with_idle_frozen(problem: Problem) -> Problem:
    """Without the hyperparameters that then decide nothing."""
    idle = idle_hyper(problem)
    return replace(
        problem,
        hyper={name: leaf for name, leaf in problem.hyper.items() if name not in idle},
        live_hyper={name: leaf for name, leaf in problem.live_hyper.items() if name not in idle},
    )


def idle_hyper(problem: Problem) -> set[str]:
    """The hyperparameters that reach neither the outer loss nor the inner gradient."""
    params, hyper = leaves_of(problem.params), leaves_of(problem.hyper)
    loss = problem.inner_loss(params, hyper)
    gradients = torch.autograd.grad(
        loss, list(params.values()), create_graph=True, allow_unused=True
    )
    mixed = _derivative([g for g in gradients if g is not None and g.requires_grad], hyper)
    direct = problem.outer_gradients(problem.params).direct
    return {name for name in hyper if mixed[name] is None and direct[name] is None}


def _derivative(outputs: list[Tensor], inputs: Tree) -> Partial:
    """Of the sum of the outputs; None where there is no dependence."""
    if not outputs:
        return dict.fromkeys(inputs)
    gradients = torch.autograd.grad(
        [output.sum() for output in outputs], list(inputs.values()), allow_unused=True
    )
    return dict(zip(inputs, gradients, strict=True))
