"""Compositions, inverted layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from bestresponse._errors import InputError
from bestresponse._result import Solution
from bestresponse.jacnet._certificate import Certificate, Kind
from bestresponse.jacnet._newton import is_close, solution
from bestresponse.jacnet._structure import Structure

_WEAKEST: tuple[Kind, ...] = ("none", "pointwise", "checked", "proved")


class Compose(Structure):
    """f = f_k ∘ … ∘ f₁: guarantees compose, constants multiply, log-determinants add.

    Products of positive definite Jacobians are any Jacobian of positive determinant, so that a few
    layers with rotations between them lift what a single structure cannot represent.

    Args:
        layers: structures, the first to be applied first.

    Example:
        >>> from bestresponse.jacnet import ConvexGradient, Rotation
        >>> f = Compose([ConvexGradient(2, floor=0.5), Rotation(2), ConvexGradient(2, floor=0.5)])
        >>> f.certificate().lower >= 0.25
        True
    """

    def __init__(self, layers: Iterable[Structure]) -> None:
        layers = list(layers)
        if not layers:
            raise InputError("Compose was given no layer.")
        for layer in layers:
            if not isinstance(layer, Structure):
                raise InputError(f"{type(layer).__name__} is no structure that can be composed.")
        for before, after in pairwise(layers):
            if before.dim_out != after.dim_in:
                raise InputError(
                    f"{type(before).__name__} gives {before.dim_out} dimensions, and "
                    f"{type(after).__name__} after it takes {after.dim_in}."
                )
        contexts = {layer.dim_context for layer in layers} - {0}
        if len(contexts) > 1:
            raise InputError(f"The layers want contexts of different sizes: {sorted(contexts)}.")
        super().__init__(layers[0].dim_in, layers[-1].dim_out, max(contexts, default=0))
        self.layers = nn.ModuleList(layers)

    def _layers(self) -> list[Structure]:
        return [layer for layer in self.layers if isinstance(layer, Structure)]

    def _own(self, layer: Structure, context: Tensor | None) -> Tensor | None:
        return context if layer.dim_context else None

    def _value(self, x: Tensor, context: Tensor | None) -> Tensor:
        for layer in self._layers():
            x = layer(x, self._own(layer, context))
        return x

    def jacobian(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The product of the layers' Jacobians."""
        self._check(x, self.dim_in, context)
        product: Tensor | None = None
        for layer in self._layers():
            own = self._own(layer, context)
            jacobian = layer.jacobian(x, own)
            product = jacobian if product is None else jacobian @ product
            x = layer(x, own)
        assert product is not None
        return product

    def log_abs_det(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The sum of the layers'."""
        self._check(x, self.dim_in, context)
        total = x.new_zeros(())
        for layer in self._layers():
            own = self._own(layer, context)
            total = total + layer.log_abs_det(x, own)
            x = layer(x, own)
        return total

    def inverse(self, y: Tensor, context: Tensor | None = None, *, throw: bool = True) -> Solution:
        """The last layer first; a sample counts as found if every layer found it."""
        self._check_output(y, context)
        x, steps, evaluations = y, 0, 0
        converged = torch.ones(y.shape[:-1], dtype=torch.bool, device=y.device)
        for layer in reversed(self._layers()):
            found = layer.inverse(x, self._own(layer, context), throw=False)
            assert found.converged is not None
            converged = converged & found.converged
            x = torch.where(found.value.isfinite(), found.value, 0.0)  # the next layer takes them
            steps, evaluations = steps + found.stats.steps, evaluations + found.stats.products
        with torch.no_grad():
            residual = self(x, context) - y
        converged = converged & is_close(residual / self._steepness(), y)
        return solution(x, converged, residual, steps, evaluations, throw=throw)

    def _steepness(self) -> float:
        """What a layer's residual may grow by on the way to the output."""
        certificates = [layer.certificate() for layer in self._layers()]
        return max(1.0, math.prod(max(1.0, c.upper or 1.0) for c in certificates))

    def certificate(self) -> Certificate:
        """As weak as its weakest layer."""
        layers = [layer.certificate() for layer in self._layers()]
        lower = _product([layer.lower for layer in layers])
        upper = _product([layer.upper for layer in layers])
        invertible = all(layer.invertible for layer in layers)
        words = "one to one and onto" if invertible else "not surely invertible"
        kind = min((layer.kind for layer in layers), key=_WEAKEST.index)
        return Certificate(
            kind,
            f"a composition of {len(layers)} layers, {words}",
            invertible,
            lower,
            upper,
            conservative=len(layers) == 1 and layers[0].conservative,
        )


def _product(constants: list[float | None]) -> float | None:
    known = [constant for constant in constants if constant is not None]
    return math.prod(known) if len(known) == len(constants) else None
