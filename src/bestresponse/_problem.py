"""A nested problem at one point, as pure functions: what a method differentiates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bestresponse._context import autograd_errors
from bestresponse._errors import InputError
from bestresponse._guards import check_escapes, check_graph, check_scalar
from bestresponse._purify import Batch
from bestresponse._result import Memory
from bestresponse._tree import Layout, Partial, Tree, leaves_of

Pure = Callable[..., Any]
"""A closure as a pure function of (params, hyper, batch, seed, *leading arguments)."""


@dataclass(frozen=True)
class Batches:
    """Several inner batches: `Unroll` takes one a step, `Implicit` averages their losses.

    Args:
        items: the batches; an iterable is read to its end when this is made.

    Example:
        >>> len(Batches([(torch.zeros(2),), (torch.ones(2),)]).items)
        2
    """

    items: tuple[Batch, ...]

    def __init__(self, items: Iterable[Batch]) -> None:
        object.__setattr__(self, "items", tuple(items))
        if not self.items:
            raise InputError("Batches got no batch; pass at least one.")


@dataclass(frozen=True)
class Problem:
    """A nested problem at one point (w, λ), as pure functions: what a method differentiates.

    Attributes:
        inner: L_T.
        outer: L_V.
        params: w, detached.
        hyper: λ, detached.
        inner_batch: one batch, or `Batches`.
        outer_batch: one batch.
        seeds: (inner, outer): every evaluation with the same seed draws the same randomness.
        read: a setting's value at a hyperparameter tree.
        live: the tensors that the user calls w, for looking up a live optimizer.
        live_hyper: the tensors that the user calls λ.
        outer_mode: what surrounds the outer closure, its backward pass included.
        pure: makes a further closure of the method's a pure function.
        checked: whether the graphs of the closures are searched for what would go wrong silently.
        memory: what the last call left for this one.
        watched: whether someone asks for the largest curvature, at the price of a product.
    """

    inner: Pure
    outer: Pure
    params: Tree
    hyper: Tree
    inner_batch: Batch | Batches
    outer_batch: Batch
    seeds: tuple[int, int]
    read: Callable[[Any, Tree], Any]
    live: Tree
    live_hyper: Tree
    outer_mode: Callable[[], AbstractContextManager[None]]
    pure: Callable[[Callable[..., Any]], Pure]
    checked: bool = True
    memory: Memory = field(default_factory=dict)
    watched: bool = False

    @property
    def inner_batches(self) -> tuple[Batch, ...]:
        """The inner batches, one or several."""
        batches = self.inner_batch
        return batches.items if isinstance(batches, Batches) else (batches,)

    def inner_loss(self, params: Tree, hyper: Tree) -> Tensor:
        """The mean of the inner loss over the batches, checked; `params` are leaves."""
        losses = [self.inner_batch_loss(params, hyper, i) for i in range(len(self.inner_batches))]
        return torch.stack(losses).mean() if len(losses) > 1 else losses[0]

    def inner_batch_loss(self, params: Tree, hyper: Tree, number: int) -> Tensor:
        """The inner loss of one of the batches, checked; `params` are leaves."""
        loss = self.inner_step_loss(params, hyper, self.inner_batches[number], number)
        self.check(loss, "inner")
        return loss

    def inner_step_loss(self, params: Tree, hyper: Tree, batch: Batch, draw: int) -> Tensor:
        """The inner loss of one batch with the call's draw of that number."""
        return check_scalar(self.inner(params, hyper, batch, self.seeds[0] + draw), "inner")

    def outer_gradients(self, params: Tree) -> OuterGradients:
        """The outer loss and its two partial derivatives at (params, λ)."""
        params, hyper = leaves_of(params), leaves_of(self.hyper)
        with self.outer_mode():
            loss = self.outer(params, hyper, self.outer_batch, self.seeds[1])
            loss = check_scalar(loss, "outer")
            self.check(loss, "outer")
            inputs = [*params.values(), *hyper.values()]
            with autograd_errors():
                gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        by_params = {
            name: torch.zeros_like(leaf) if gradient is None else gradient
            for (name, leaf), gradient in zip(params.items(), gradients, strict=False)
        }
        direct: Partial = dict(zip(hyper, gradients[len(params) :], strict=True))
        layout = Layout.of(params)
        return OuterGradients(loss.detach(), layout, layout.flatten(by_params), direct)

    def check(self, loss: Tensor, role: str) -> None:
        """Refuse a loss at leaves whose graph would be differentiated wrongly."""
        if not self.checked:
            return
        check_escapes(loss, self.live | self.live_hyper, role)
        check_graph(loss, role)


@dataclass(frozen=True)
class OuterGradients:
    """L_V, ∂L_V/∂w as one flat vector, and ∂L_V/∂λ (None where L_V does not depend)."""

    loss: Tensor
    layout: Layout
    flat: Tensor
    direct: Partial

    @property
    def params(self) -> Tree:
        """∂L_V/∂w by parameter: views of the flat vector."""
        return self.layout.unflatten(self.flat)
