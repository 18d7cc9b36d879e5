"""The inner gradient at one point on a graph that is kept for all products of a solve."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from bestresponse._context import autograd_errors
from bestresponse._guards import check_used
from bestresponse._tree import Layout, Partial, Tree, leaves_of


class Linearization:
    """∂L_T/∂w at a point, as a graph through which products are taken (reverse over reverse).

    One product costs one backward pass through the graph of the gradient; the forward pass is
    never repeated, so all products see the same dropout masks.

    Args:
        loss: the inner loss as a function of a parameter tree and a hyperparameter tree.
        params: the point w.
        hyper: the point λ; may be empty.
        partial: the loss is a part of the inner loss and may leave parameters out.
        shared: `params` and `hyper` are leaves already, which other graphs use too.

    Attributes:
        leaves: w on the graph.
        loss: its value, detached.

    Raises:
        InputError: if the loss does not use some parameter (unless `partial`), or has no second
            derivative.

    Example:
        >>> quadratic = lambda params, hyper: (params["w"] ** 2 * hyper["a"]).sum()
        >>> point = Linearization(quadratic, {"w": torch.ones(2)}, {"a": torch.tensor([1.0, 3.0])})
        >>> point.hessian_product(torch.ones(2))
        tensor([2., 6.])
        >>> point.mixed_product(torch.ones(2))["a"]
        tensor([2., 2.])
    """

    def __init__(
        self,
        loss: Callable[[Tree, Tree], Tensor],
        params: Tree,
        hyper: Tree,
        *,
        partial: bool = False,
        shared: bool = False,
    ) -> None:
        self.layout = Layout.of(params)
        self.leaves, self._hyper = (
            (params, hyper) if shared else (leaves_of(params), leaves_of(hyper))
        )
        value = loss(self.leaves, self._hyper)
        with autograd_errors():
            gradients = torch.autograd.grad(
                value, list(self.leaves.values()), create_graph=True, allow_unused=True
            )
        if not partial:
            check_used(gradients, self.leaves)
        self.loss = value.detach()
        self._gradients = {
            name: torch.zeros_like(leaf) if gradient is None else gradient
            for (name, leaf), gradient in zip(self.leaves.items(), gradients, strict=True)
        }

    @cached_property
    def gradient(self) -> Tensor:
        """∂L_T/∂w as a flat vector (n,); made when asked for, since solves do without."""
        return self.layout.flatten(
            {name: gradient.detach() for name, gradient in self._gradients.items()}
        )

    def hessian_product(
        self, vector: Tensor, beside: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """(∂²L_T/∂w²) v as a flat vector (n,).

        Args:
            vector: v, (n,).
            beside: another graph on the same leaves, and a cotangent of it: what it pulls back is
                added in the same backward pass.
        """
        product = self._vjp(vector, self.leaves, beside)
        zero_where_none = {
            name: torch.zeros_like(self.leaves[name]) if leaf is None else leaf
            for name, leaf in product.items()
        }
        return self.layout.flatten(zero_where_none)

    def mixed_product(self, vector: Tensor) -> Partial:
        """(∂²L_T/∂λ∂w) v by hyperparameter; None where the inner gradient does not depend."""
        return self._vjp(vector, self._hyper)

    def _vjp(
        self, vector: Tensor, inputs: Tree, beside: tuple[Tensor, Tensor] | None = None
    ) -> Partial:
        """The gradient of ⟨∂L_T/∂w, v⟩ with respect to `inputs`."""
        cotangents = self.layout.unflatten(vector)
        # a gradient that is constant in everything carries no graph and contributes nothing
        active = [name for name, gradient in self._gradients.items() if gradient.requires_grad]
        roots = [(self._gradients[name], cotangents[name]) for name in active]
        roots += [] if beside is None else [beside]
        if not roots or not inputs:
            return dict.fromkeys(inputs)
        with autograd_errors():
            products = torch.autograd.grad(
                [root for root, _ in roots],
                list(inputs.values()),
                grad_outputs=[cotangent for _, cotangent in roots],
                retain_graph=True,
                allow_unused=True,
            )
        return dict(zip(inputs, products, strict=True))
