"""The Gauss-Newton matrix as the inner curvature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bestresponse._context import autograd_errors
from bestresponse._errors import InputError
from bestresponse._guards import check_scalar, check_used, names
from bestresponse._problem import Problem
from bestresponse._purify import Batch
from bestresponse._tree import Partial, Tree, leaves_of
from bestresponse.methods._curvature import (
    Curvature,
    Leaves,
    check_functions,
    inner_at,
    of_part,
    outputs_at,
    penalty_at,
)
from bestresponse.methods._points import Point, SplitPoint
from bestresponse.operators import OutputHessian, PulledBack, check_outputs

_SAME = 0.6  # power of machine epsilon that two evaluations of one loss differ by: 7e-5 in float32


@dataclass(frozen=True)
class GaussNewton(Curvature):
    """JᵀH_LJ of loss∘predict, plus the exact Hessian of the penalty.

    Positive semidefinite for a loss that is convex in the outputs, so that CG never meets negative
    curvature; equal to the Hessian where the outputs are linear in the weights or fit perfectly.
    That `inner` = loss∘predict + penalty is checked at call 1, 2, 4, 8, …, by value and by
    gradients with respect to w and λ.

    Args:
        predict: `predict(*inner_batch)`, the model's outputs, one tensor whose first dimension
            are the rows.
        loss: `loss(outputs, *inner_batch)`, a scalar; may depend on λ (weights of examples), not
            on w but through the outputs.
        penalty: `penalty()`, a scalar of w and λ, such as weight decay; None for none.

    With `br.hypergradient` they are `predict(params, hyper, *inner_batch)`,
    `loss(outputs, params, hyper, *inner_batch)` and `penalty(params, hyper)`.

    Source: Schraudolph, "Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent"
    (2002), https://doi.org/10.1162/08997660260028683

    Example:
        >>> import bestresponse as br
        >>> predict = lambda params, hyper: 3 * params["w"]
        >>> loss = lambda outputs, params, hyper: 0.5 * (outputs - hyper["a"]).square().sum()
        >>> inner = lambda params, hyper: loss(predict(params, hyper), params, hyper)
        >>> outer = lambda params, hyper: params["w"].sum()  # w* = a/3
        >>> at = {"w": torch.tensor([1.0])}, {"a": torch.tensor([3.0])}
        >>> method = br.Implicit(br.CG(), curvature=br.GaussNewton(predict, loss))
        >>> br.hypergradient(inner, outer, *at, method).value["a"]
        tensor([0.3333])
    """

    predict: Callable[..., Tensor]
    loss: Callable[..., Tensor]
    penalty: Callable[..., Tensor] | None = None

    def __post_init__(self) -> None:
        check_functions(predict=self.predict, loss=self.loss, penalty=self.penalty)

    @property
    def closures(self) -> tuple[Callable[..., Any], ...]:
        """predict, loss and penalty."""
        return tuple(f for f in (self.predict, self.loss, self.penalty) if f is not None)

    def at(self, problem: Problem, number: int) -> Point:
        """The forward graph of the outputs, the loss on them, and the penalty's own graph."""
        batch, seed = problem.inner_batches[number], problem.seeds[0] + number
        if problem.checked:  # first, while no other graph takes memory
            self._check_sum(problem, number)
        leaves = leaves_of(problem.params), leaves_of(problem.hyper)
        point = self._pulled_back(problem, batch, seed, leaves)
        penalty = penalty_at(problem, self.penalty, seed, leaves)
        if problem.checked:
            assert isinstance(point.middle, OutputHessian)
            self._check_loss(problem, point.outputs.value, batch, seed)
        whole = inner_at(problem, number) if point.outputs.depends_on_hyper() else None
        return SplitPoint(point, penalty, leaves[1], whole)

    def _check_sum(self, problem: Problem, number: int) -> None:
        """Refuse parts that do not add up to the inner loss: the curvature would be another's.

        By value, and by gradients, which see a part that is small beside the others.
        """
        leaves = leaves_of(problem.params), leaves_of(problem.hyper)
        at = (*leaves, problem.inner_batches[number], problem.seeds[0] + number)
        outputs = check_outputs(problem.pure(self.predict)(*at))
        problem.check(outputs.sum(), "predict")
        parts = {"loss": problem.pure(self.loss)(*at, outputs)}
        if self.penalty is not None:
            parts["penalty"] = problem.pure(self.penalty)(*leaves, (), at[-1])
        for role, part in parts.items():
            problem.check(check_scalar(part, role), role)
        found = [_gradients(part, leaves) for part in parts.values()]
        values = [part.detach() for part in parts.values()]
        del outputs, parts, part
        inner = problem.inner_batch_loss(*leaves, number)
        expected = _gradients(inner, leaves)
        check_used([expected[name] for name in _owned("params", leaves[0])], leaves[0])
        _check_values(inner.detach(), values)
        for name, gradient in expected.items():
            _check_gradients(name, gradient, [part[name] for part in found])

    def _pulled_back(
        self, problem: Problem, batch: Batch, seed: int, leaves: Leaves | None = None
    ) -> PulledBack:
        """On the given leaves, or on some of the rows, with their layers recorded."""
        loss, record = problem.pure(self.loss), leaves is None
        hyper = leaves[1] if leaves else problem.hyper

        def of_outputs(outputs: Tensor) -> Tensor:
            return check_scalar(loss(problem.params, hyper, batch, seed, outputs), "loss")

        outputs = outputs_at(problem, self.predict, batch, seed, record=record, leaves=leaves)
        middle = OutputHessian(of_outputs, outputs.value)
        count = len(outputs.value) if outputs.value.ndim else 1

        def on_rows(rows: Tensor) -> PulledBack:
            def of(part: Batch) -> PulledBack:
                return self._pulled_back(problem, part, seed)

            return of_part(of, batch, count, rows)

        return PulledBack(outputs, middle, on_rows)

    def _check_loss(self, problem: Problem, outputs: Tensor, batch: Batch, seed: int) -> None:
        """Refuse a loss that depends on w past the outputs: that part would have no curvature."""
        params = leaves_of(problem.params)
        loss = problem.pure(self.loss)(
            params, problem.hyper, batch, seed, outputs.clone().requires_grad_()
        )
        gradients = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        direct = [n for n, g in zip(params, gradients, strict=True) if g is not None]
        if direct:
            raise InputError(
                f"The loss of the outputs depends on the parameter {names(direct)} itself; "
                "move that part of it into penalty."
            )


def _owned(level: str, tree: Tree) -> list[str]:
    return [f"{level}: {name}" for name in tree]


def _gradients(value: Tensor, leaves: Leaves) -> Partial:
    """By level and name."""
    params, hyper = leaves  # a wrong λ says more than what it does to the weights
    labels = [*_owned("hyper", hyper), *_owned("params", params)]
    tensors = [*hyper.values(), *params.values()]
    if not value.requires_grad:
        return dict.fromkeys(labels)
    with autograd_errors():
        gradients = torch.autograd.grad(value, tensors, allow_unused=True)
    return dict(zip(labels, gradients, strict=True))


def _check_values(inner: Tensor, parts: Sequence[Tensor]) -> None:
    expected, found = float(inner), float(sum(parts))
    if abs(expected - found) > _tolerance(inner) * max(abs(expected), abs(found), 1e-8):
        raise InputError(
            f"predict, loss and penalty give {found:.9g} where the inner loss is {expected:.9g}; "
            "inner(*batch) must equal loss(predict(*batch), *batch) + penalty()."
        )


def _check_gradients(name: str, expected: Tensor | None, parts: Sequence[Tensor | None]) -> None:
    known = [part for part in parts if part is not None]
    if expected is None and not known:
        return
    rest = [part.neg() for part in known] + ([] if expected is None else [expected])
    difference = float(sum(rest[1:], start=rest[0]).norm())
    # parts may cancel, at a minimum they do: rounding is relative to their lengths
    scale = max(float(part.norm()) for part in rest)
    if difference > _tolerance(rest[0]) * scale:
        raise InputError(
            f"predict, loss and penalty add up to the inner loss, but their gradient with respect "
            f"to {name} does not: it is off by {difference / scale:.2g} of its length; "
            "inner(*batch) must equal loss(predict(*batch), *batch) + penalty() for all weights "
            "and hyperparameters."
        )


def _tolerance(like: Tensor) -> float:
    return float(torch.finfo(like.dtype).eps ** _SAME)
