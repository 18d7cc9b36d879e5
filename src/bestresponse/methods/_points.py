"""The inner loss around one point: its gradient, its curvature, its mixed product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from bestresponse._context import autograd_errors
from bestresponse._tree import Layout, Partial, Space, Tree
from bestresponse.operators import (
    Hessian,
    Linearization,
    LinearOperator,
    OutputHessian,
    Penalized,
    PulledBack,
)


class Point(Protocol):
    """What the implicit function theorem needs to know of the inner loss."""

    @property
    def layout(self) -> Layout:
        """Of the weights."""
        ...

    @property
    def gradient(self) -> Tensor:
        """∂L_T/∂w, flat."""
        ...

    @property
    def curvature(self) -> LinearOperator:
        """∂²L_T/∂w² or its stand-in."""
        ...

    def mixed_product(self, vector: Tensor) -> Partial:
        """(∂²L_T/∂λ∂w) v."""
        ...


class HessianPoint:
    """The inner loss by one retained graph of its gradient."""

    def __init__(self, whole: Linearization) -> None:
        self._whole, self.layout = whole, whole.layout
        self.curvature: LinearOperator = Hessian(whole)
        self.mixed_product = whole.mixed_product

    @property
    def gradient(self) -> Tensor:
        """∂L_T/∂w, flat."""
        return self._whole.gradient


class SplitPoint:
    """The inner loss as loss∘predict + penalty, each on a graph of its own.

    Where the outputs do not depend on λ, the mixed product goes forward through the model,
    ⟨∂loss/∂f, Jv⟩, and differentiates the loss alone: no graph of the inner gradient is needed.

    Args:
        model: curvature of loss∘predict.
        penalty: the penalty's graph, if there is one.
        hyper: leaves λ in the graph of the loss.
        whole: the inner loss's own graph, where the parts do not suffice.
    """

    def __init__(
        self,
        model: PulledBack,
        penalty: Linearization | None,
        hyper: Tree,
        whole: Linearization | None,
    ) -> None:
        self._model, self._penalty, self._hyper, self._whole = model, penalty, hyper, whole
        self.layout = model.outputs.layout
        self.curvature: LinearOperator = model
        if penalty is not None:
            same = all(penalty.leaves[n] is leaf for n, leaf in model.outputs.params.items())
            self.curvature = Penalized(model, penalty) if same else model + Hessian(penalty)

    @cached_property
    def gradient(self) -> Tensor:
        """∂L_T/∂w, flat."""
        if self._whole is not None:
            return self._whole.gradient
        assert isinstance(self._model.middle, OutputHessian)
        gradient = self._model.outputs.vjp(self._model.middle.gradient.detach())
        return gradient if self._penalty is None else gradient + self._penalty.gradient

    def mixed_product(self, vector: Tensor) -> Partial:
        """(∂²L_T/∂λ∂w) v by hyperparameter; None where there is no dependence."""
        if self._whole is not None:
            return self._whole.mixed_product(vector)
        return _sum(self._through_loss(vector), self._through_penalty(vector))

    def _through_loss(self, vector: Tensor) -> Partial:
        assert isinstance(self._model.middle, OutputHessian)
        gradient = self._model.middle.gradient
        nothing: Partial = dict.fromkeys(self._hyper)
        if not gradient.requires_grad or not self._hyper:
            return nothing
        leaves = list(self._hyper.values())
        # a probe without the model's cost: most losses do not depend on λ at all
        probe = torch.autograd.grad(gradient.sum(), leaves, retain_graph=True, allow_unused=True)
        if all(leaf is None for leaf in probe):
            return nothing
        with autograd_errors():
            products = torch.autograd.grad(
                gradient,
                leaves,
                self._model.outputs.tested_jvp(vector),
                retain_graph=True,
                allow_unused=True,
            )
        return dict(zip(self._hyper, products, strict=True))

    def _through_penalty(self, vector: Tensor) -> Partial:
        if self._penalty is None:
            return dict.fromkeys(self._hyper)
        return self._penalty.mixed_product(vector)


class AveragedPoint:
    """The mean over several batches, all of whose graphs are kept."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._points = points
        self.layout = points[0].layout
        self.gradient = _mean([point.gradient for point in points])
        first, *others = (point.curvature for point in points)
        self.curvature = sum(others, start=first) * (1 / len(points))

    def mixed_product(self, vector: Tensor) -> Partial:
        """The mean of the mixed products."""
        return _mean_partial([point.mixed_product(vector) for point in self._points])


class ChunkedPoint:
    """The mean over several batches, one graph at a time: memory for one, time for twice.

    Args:
        makers: build the point of each batch anew.
    """

    def __init__(self, makers: Sequence[Callable[[], Point]]) -> None:
        self._makers = makers
        ends = [_end(make()) for make in makers]
        self.layout = ends[0][0]
        self.gradient = _mean([gradient for _, gradient in ends])
        self.curvature: LinearOperator = _Rebuilt(self.layout.space, self._mv, makers[0])

    def _mv(self, vector: Tensor) -> Tensor:
        return _mean([make().curvature.mv(vector) for make in self._makers])

    def mixed_product(self, vector: Tensor) -> Partial:
        """The mean of the mixed products."""
        return _mean_partial([make().mixed_product(vector) for make in self._makers])


class ResampledPoint:
    """A fresh batch for each product, in turn: what a stochastic series wants.

    Args:
        makers: build the point of each batch anew.
    """

    def __init__(self, makers: Sequence[Callable[[], Point]]) -> None:
        self._makers, self._turn = makers, 0
        first = self._next()
        self.layout, self.gradient = first.layout, first.gradient
        self.curvature: LinearOperator = _Rebuilt(self.layout.space, self._mv, makers[0])

    def _next(self) -> Point:
        self._turn += 1
        return self._makers[(self._turn - 1) % len(self._makers)]()

    def _mv(self, vector: Tensor) -> Tensor:
        return self._next().curvature.mv(vector)

    def mixed_product(self, vector: Tensor) -> Partial:
        """That of the next batch."""
        return self._next().mixed_product(vector)


class _Rebuilt(LinearOperator):
    """Products that build their graphs anew; its structure is that of the first batch."""

    def __init__(
        self, space: Space, product: Callable[[Tensor], Tensor], first: Callable[[], Point]
    ) -> None:
        self._space, self._product, self._first = space, product, first

    @property
    def space(self) -> Space:
        return self._space

    def mv(self, vector: Tensor) -> Tensor:
        with torch.enable_grad():
            return self._product(vector).detach()

    def terms(self) -> list[tuple[float, LinearOperator]]:
        with torch.enable_grad():
            return self._first().curvature.terms()


def _end(point: Point) -> tuple[Layout, Tensor]:
    """What is kept of a point whose graph is not."""
    return point.layout, point.gradient


def _sum(one: Partial, other: Partial) -> Partial:
    total: Partial = {}
    for name in {**one, **other}:
        parts = [part for part in (one.get(name), other.get(name)) if part is not None]
        total[name] = sum(parts[1:], start=parts[0]) if parts else None
    return total


def _mean(vectors: Sequence[Tensor]) -> Tensor:
    return sum(vectors[1:], start=vectors[0]) / len(vectors)


def _mean_partial(partials: Sequence[Partial]) -> Partial:
    total = partials[0]
    for partial in partials[1:]:
        total = _sum(total, partial)
    return {name: None if leaf is None else leaf / len(partials) for name, leaf in total.items()}
