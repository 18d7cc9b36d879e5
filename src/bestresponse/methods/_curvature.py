"""Curvatures that a method may put in the place of the inner Hessian: recipes, built at a point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._guards import check_callable, check_scalar
from bestresponse._problem import Problem
from bestresponse._purify import Batch
from bestresponse._tree import Tree
from bestresponse.methods._points import HessianPoint, Point
from bestresponse.operators import Linearization, Outputs, PulledBack


class Curvature(ABC):
    """A recipe for a stand-in of the inner Hessian. Frozen settings."""

    @property
    @abstractmethod
    def closures(self) -> tuple[Callable[..., Any], ...]:
        """The functions it calls, in which modules may be captured."""

    @abstractmethod
    def at(self, problem: Problem, number: int) -> Point:
        """The inner loss around the problem's point, on inner batch `number`."""


@dataclass(frozen=True)
class ExactHessian(Curvature):
    """∂²L_T/∂w² itself: what `Implicit` uses where no curvature is given."""

    @property
    def closures(self) -> tuple[Callable[..., Any], ...]:
        """None but the inner loss."""
        return ()

    def at(self, problem: Problem, number: int) -> Point:
        """One retained graph of the inner gradient serves every product."""
        return HessianPoint(inner_at(problem, number))


def cut(batch: Any, count: int, rows: Tensor) -> Any:
    """The given rows of whatever in the batch has one for each of `count`."""
    if isinstance(batch, Tensor):
        has_rows = batch.ndim > 0 and len(batch) == count
        return batch[rows.to(batch.device)] if has_rows else batch
    if isinstance(batch, Mapping):
        return {key: cut(value, count, rows) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        parts = [cut(value, count, rows) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def of_part(
    make: Callable[[Batch], PulledBack], batch: Batch, count: int, rows: Tensor
) -> PulledBack:
    """The curvature of the given rows; of all, where closures hold a part of the batch."""
    try:
        return make(cut(batch, count, rows))
    except InputError:
        raise
    except (RuntimeError, ValueError, IndexError):  # shapes that do not fit each other
        return make(batch)


def inner_at(problem: Problem, number: int) -> Linearization:
    """The whole inner loss's graph."""
    return Linearization(
        lambda params, hyper: problem.inner_batch_loss(params, hyper, number),
        problem.params,
        problem.hyper,
    )


Leaves = tuple[Tree, Tree]
"""w and λ as leaves that the graphs of several parts share: each copy is a vector of memory."""


def penalty_at(
    problem: Problem,
    penalty: Callable[..., Tensor] | None,
    seed: int,
    leaves: Leaves | None = None,
) -> Linearization | None:
    """The penalty's graph, if there is a penalty."""
    if penalty is None:
        return None
    pure = problem.pure(penalty)

    def of_trees(params: Tree, hyper: Tree) -> Tensor:
        value = check_scalar(pure(params, hyper, (), seed), "penalty")
        problem.check(value, "penalty")
        return value

    at = leaves or (problem.params, problem.hyper)
    return Linearization(of_trees, *at, partial=True, shared=leaves is not None)


def outputs_at(
    problem: Problem,
    predict: Callable[..., Tensor],
    batch: Batch,
    seed: int,
    *,
    record: bool = False,
    leaves: Leaves | None = None,
) -> Outputs:
    """The outputs' graph."""
    pure = problem.pure(predict)
    return Outputs(
        lambda params, hyper: pure(params, hyper, batch, seed),
        *(leaves or (problem.params, problem.hyper)),
        record=record,
        shared=leaves is not None,
    )


def check_functions(**functions: Any) -> None:
    """Refuse what cannot be called; None may stand for what is left out."""
    for name, function in functions.items():
        if function is not None:
            check_callable(function, name)
