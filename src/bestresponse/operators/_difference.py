"""Second derivatives as central differences of first-order gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bestresponse._guards import check_used, no_activation_checkpointing
from bestresponse._tree import Layout, Partial, Space, Tree, leaves_of
from bestresponse.operators._base import LinearOperator


class Differences(LinearOperator):
    """The inner Hessian by central differences: no second derivative is ever taken.

    The step along v is `epsilon`·max(‖w‖, 1)/‖v‖, so that it is a fraction `epsilon` of the
    weights whatever the length of v. One product costs two gradients.

    Args:
        loss: the inner loss as a function of a parameter tree and a hyperparameter tree; it must
            draw the same randomness each time.
        params: the point w.
        hyper: the point λ.
        epsilon: relative step; None means the cube root of the type's machine epsilon, which
            balances truncation against rounding.
    """

    def __init__(
        self,
        loss: Callable[[Tree, Tree], Tensor],
        params: Tree,
        hyper: Tree,
        epsilon: float | None = None,
    ) -> None:
        self.layout = Layout.of(params)
        self._loss, self._hyper = loss, hyper
        self._center = self.layout.flatten(params)
        epsilon = epsilon or torch.finfo(self.layout.dtype).eps ** (1 / 3)
        self._reach = epsilon * self._center.norm().clamp(min=1)
        self.gradient = self._gradients(self._center)[0]

    @property
    def curvature(self) -> LinearOperator:
        """The Hessian: itself."""
        return self

    @property
    def space(self) -> Space:
        """Size, type and device of the flat vectors."""
        return self.layout.space

    def mv(self, vector: Tensor) -> Tensor:
        """(∂²L_T/∂w²) v: two gradients."""
        return self._difference(vector)[0]

    def mixed_product(self, vector: Tensor) -> Partial:
        """(∂²L_T/∂λ∂w) v by hyperparameter; None where the inner loss does not depend."""
        return self._difference(vector)[1]

    def _difference(self, vector: Tensor) -> tuple[Tensor, Partial]:
        norm = vector.norm()
        step = self._reach / torch.where(norm > 0, norm, 1)
        ahead, hyper_ahead = self._gradients(self._center + step * vector)
        behind, hyper_behind = self._gradients(self._center - step * vector)
        mixed = {
            name: None
            if (back := hyper_behind[name]) is None or front is None
            else (front - back) / (2 * step)
            for name, front in hyper_ahead.items()
        }
        return (ahead - behind) / (2 * step), mixed

    def _gradients(self, weights: Tensor) -> tuple[Tensor, Partial]:
        params, hyper = leaves_of(self.layout.unflatten(weights)), leaves_of(self._hyper)
        inputs = [*params.values(), *hyper.values()]
        # products are taken inside solves, which record nothing
        with torch.enable_grad(), no_activation_checkpointing("inner"):
            gradients = torch.autograd.grad(self._loss(params, hyper), inputs, allow_unused=True)
        inner = gradients[: len(params)]
        check_used(inner, params)
        flat = self.layout.flatten(dict(zip(params, inner, strict=True)))
        return flat, dict(zip(hyper, gradients[len(params) :], strict=True))
