"""Softmax regression with a weight for each example, and its best response to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import bestresponse as br
from bestresponse.apps.experiments._roles import Batch
from bestresponse.apps.experiments.cleaning._data import Roles

Tree = dict[str, Tensor]

_MOST = 100  # Newton steps
_SLACK = 1e-5  # relative rise of a loss that is rounding
_FORCING = 0.1  # relative residual of a Newton step's solve that is always enough
_PRODUCTS = 50  # in each, at the most
_SAFE = 0.3  # of what is left to the tolerance


@dataclass(frozen=True, eq=False)
class Cleaning:
    """Inner: the mean of weight times cross-entropy, plus decay·‖w‖². Outer: validation loss.

    Attributes:
        roles: the rows.
        decay: without a half, as in the benchmark; there is no bias.
    """

    roles: Roles
    decay: float

    @property
    def size(self) -> int:
        """The number of training examples."""
        return len(self.roles.true)

    def zeros(self) -> Tensor:
        """Weights (classes, d) to start from."""
        inputs = self.roles.train[0]
        return inputs.new_zeros(self.roles.classes, inputs.shape[1])

    def inner(self, shares: Tensor, batch: Batch | None = None) -> Callable[[Tree, Tree], Tensor]:
        """The inner loss as a function of trees.

        Args:
            shares: of each example in the loss, (b,): its weight over the number of examples.
            batch: the examples; by default those of training.
        """
        inputs, labels = batch or self.roles.train

        def loss(params: Tree, hyper: Tree) -> Tensor:
            own = hyper.get("shares", shares)
            fitted = (own * losses(params["w"], inputs, labels)).sum()
            return fitted + self.decay * params["w"].square().sum()

        return loss

    def fitted(self, weights: Tensor, start: Tensor, tolerance: float) -> Tensor:
        """The best response to weights (n,) of the training examples."""
        rows = weights > 0  # the others take no part
        batch = self.roles.train[0][rows], self.roles.train[1][rows]
        return reached(newton(self.inner(weights[rows] / self.size, batch), start, tolerance))

    def fitted_to(self, batch: Batch, tolerance: float) -> Tensor:
        """Plain training on some examples: their mean loss plus the decay."""
        inputs, labels = batch
        shares = inputs.new_full((len(labels),), 1 / len(labels))
        return reached(newton(self.inner(shares, batch), self.zeros(), tolerance))

    def outer(self, w: Tensor) -> float:
        """The validation loss."""
        return float(losses(w, *self.roles.validation).mean())

    def test_error(self, w: Tensor) -> float:
        """The share of test rows that get a wrong class."""
        inputs, labels = self.roles.test
        return float((predicted(w, inputs) != labels).double().mean())


def losses(w: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each row, (b,).

    Outputs are (classes, b): with few classes, products of this shape are several times as fast.
    """
    outputs = w @ inputs.T
    return torch.logsumexp(outputs, 0) - outputs.gather(0, labels[None])[0]


def predicted(w: Tensor, inputs: Tensor) -> Tensor:
    """The class of each row, (b,)."""
    return (w @ inputs.T).argmax(0)


def newton(
    loss: Callable[[Tree, Tree], Tensor], start: Tensor, tolerance: float
) -> br.Linearization:
    """Around the minimum of a convex loss, found by Newton's method.

    Each step is solved by conjugate gradients as well as the tolerance asks for, and halved where
    the loss would rise.

    Args:
        loss: of the trees of weights and of nothing.
        start: the weights w to begin with.
        tolerance: length of the gradient that ends it.

    Raises:
        SolveError: if a hundred steps do not get there.
    """
    w, step, lowest = start, torch.zeros_like(start), float("inf")
    for _ in range(_MOST):
        point = br.Linearization(loss, {"w": w}, {})
        value = float(point.loss)
        if value > lowest + _SLACK * abs(lowest):
            step = step / 2
            w = w + step
            continue
        length = float(point.gradient.norm())
        if length <= tolerance:
            return point
        rtol = max(_FORCING, _SAFE * tolerance / length)
        solved = br.linear_solve(br.Hessian(point), point.gradient, br.CG(_PRODUCTS, rtol=rtol))
        step, lowest = solved.value.view_as(w), min(lowest, value)
        w = w - step
    raise br.SolveError(br.Result.not_stationary, "(Newton's method for softmax regression)")


def reached(point: br.Linearization) -> Tensor:
    """The weights of a point."""
    return point.leaves["w"].detach()
