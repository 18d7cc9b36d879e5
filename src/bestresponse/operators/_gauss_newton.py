"""Curvature of a loss of the model's outputs, pulled back to the weights: JᵀMJ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from bestresponse._context import autograd_errors
from bestresponse._tree import Space
from bestresponse.operators._base import LinearOperator
from bestresponse.operators._outputs import Outputs


class OutputCurvature(ABC):
    """A symmetric positive semidefinite map M of vectors in the outputs' shape."""

    @abstractmethod
    def mv(self, vector: Tensor) -> Tensor:
        """Mu."""


class OutputHessian(OutputCurvature):
    """H_L = ∂²loss/∂f² at the outputs f, on a retained graph of the loss alone.

    Args:
        loss: the loss as a function of the outputs, a scalar.
        value: the outputs f.
    """

    def __init__(self, loss: Callable[[Tensor], Tensor], value: Tensor) -> None:
        self._outputs = value.detach().clone().requires_grad_()
        self.loss = loss(self._outputs)
        with autograd_errors():
            (self.gradient,) = torch.autograd.grad(
                self.loss, self._outputs, create_graph=True, materialize_grads=True
            )

    def mv(self, vector: Tensor) -> Tensor:
        """H_L u."""
        if not self.gradient.requires_grad:  # a loss that is linear in the outputs
            return torch.zeros_like(vector)
        with autograd_errors():
            (product,) = torch.autograd.grad(
                self.gradient, self._outputs, vector, retain_graph=True, materialize_grads=True
            )
        return product


class Scores(OutputCurvature):
    """The Fisher information of the outputs from gradients of log-likelihoods.

    Args:
        scores: ∂log p(yₙ|fₙ)/∂fₙ for each draw of targets, (draws, rows, ...).
    """

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores
        self._weight = 1 / (scores.shape[0] * scores.shape[1])

    def mv(self, vector: Tensor) -> Tensor:
        """The mean over draws and rows of s (s·u)."""
        flat = self.scores.flatten(2) if self.scores.ndim > 2 else self.scores[..., None]
        u = vector.reshape(1, vector.shape[0], -1)
        along = (flat * u).sum(2, keepdim=True)
        return self._weight * (flat * along).sum(0).reshape(vector.shape)


class PulledBack(LinearOperator):
    """JᵀMJ for the outputs' Jacobian J = ∂f/∂w and a curvature M of the outputs.

    With M the Hessian of the loss it is the generalized Gauss-Newton matrix.

    Source: Schraudolph, "Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent"
    (2002), https://doi.org/10.1162/08997660260028683

    Args:
        outputs: the model's outputs on their graph.
        middle: M.
        on_rows: makes the same operator of at most that many rows of the batch, with its layers
            recorded; for approximations that look inside.

    Example:
        >>> outputs = Outputs(lambda params, hyper: 2 * params["w"], {"w": torch.ones(2)}, {})
        >>> half_square = OutputHessian(lambda f: 0.5 * (f * f).sum(), outputs.value)
        >>> PulledBack(outputs, half_square).as_matrix()
        tensor([[4., 0.],
                [0., 4.]])
    """

    def __init__(
        self,
        outputs: Outputs,
        middle: OutputCurvature,
        on_rows: Callable[[int], PulledBack] | None = None,
    ) -> None:
        self.outputs, self.middle, self.on_rows = outputs, middle, on_rows

    @property
    def space(self) -> Space:
        """Size, type and device of the flat vectors."""
        return self.outputs.layout.space

    def mv(self, vector: Tensor) -> Tensor:
        """JᵀMJv: about one forward and one backward pass."""
        image = self.outputs.jvp(vector)
        curved = self.middle.mv(image)
        product = self.outputs.vjp(curved)
        if self.outputs.untested:
            # ⟨v, Jᵀ(MJv)⟩ = ⟨Jv, MJv⟩ tests one direction of differentiation by the other
            self.outputs.untested = False
            if not _agree(vector @ product, image.flatten() @ curved.flatten()):
                self.outputs.distrust_forward_mode()
                return self.mv(vector)
        return product


def _agree(one: Tensor, other: Tensor) -> bool:
    tolerance = 1e3 * torch.finfo(one.dtype).eps ** 0.75
    return bool((one - other).abs() <= tolerance * torch.maximum(one.abs(), other.abs()))
