"""Curvature of a loss of the model's outputs, pulled back to the weights: JᵀMJ."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from bestresponse._context import autograd_errors
from bestresponse._errors import InputError
from bestresponse._tree import Space
from bestresponse.operators._base import LinearOperator
from bestresponse.operators._curvature import Hessian
from bestresponse.operators._linearize import Linearization
from bestresponse.operators._matrix import eigh
from bestresponse.operators._outputs import Outputs

_WIDEST = 256  # outputs of a row whose curvature is still decomposed
_ROUNDING = 100  # units of the last place that the blocks of a convex loss may be off by


class OutputCurvature(ABC):
    """A symmetric positive semidefinite map M of vectors in the outputs' shape."""

    @abstractmethod
    def mv(self, vector: Tensor) -> Tensor:
        """Mu."""

    @abstractmethod
    def roots(self, *, ordered: bool = False) -> Tensor:
        """R with M = R Rᵀ row by row: (columns, *outputs' shape), at least in float32.

        Args:
            ordered: orthogonal columns, the longest first.

        Raises:
            InputError: if the curvature couples too many outputs of a row.
        """

    @abstractmethod
    def is_semidefinite(self) -> bool:
        """Whether M is proved to be positive semidefinite, as this call found it."""


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

    def roots(self, *, ordered: bool = False) -> Tensor:
        """By a factorization of each row's block, which takes one product for each column."""
        shape = self._outputs.shape
        if not shape or not shape[0]:
            raise InputError(
                f"predict returned outputs of shape {tuple(shape)}, which have no rows; br.KFAC "
                "and br.Woodbury want one a row of the batch."
            )
        width = math.prod(shape[1:])
        if width > _WIDEST:
            raise InputError(
                f"Each row has {width} outputs, too many for the exact curvature of the loss; use "
                "br.Fisher, whose targets are drawn, or br.Nystrom."
            )
        blocks = self._blocks()
        blocks = blocks.to(_wide(blocks))  # no factorization is there for half precision
        factors = _eigen_roots(blocks) if ordered else _triangular_roots(blocks)
        return factors.permute(2, 0, 1).reshape(width, *shape)

    def is_semidefinite(self) -> bool:
        """By the eigenvalues of every row's block, where rows do not meet in the loss.

        That they do not is found by a random vector, with probability one.
        """
        shape = self._outputs.shape
        if not shape or math.prod(shape[1:]) > _WIDEST:
            return False
        blocks = self._blocks().double()
        probe = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self._outputs)
        by_blocks = (blocks @ probe.double().reshape(*blocks.shape[:2], 1)).reshape(shape)
        rounding = _ROUNDING * torch.finfo(self._outputs.dtype).eps * blocks.abs().max()
        if bool(((by_blocks - self.mv(probe)).abs() > rounding * probe.abs().max()).any()):
            return False
        return bool((torch.linalg.eigvalsh((blocks + blocks.mT) / 2) >= -rounding).all())

    def _blocks(self) -> Tensor:
        """Each row's own block, (rows, width, width), for a product a column."""
        shape = self._outputs.shape
        rows, width = shape[0], math.prod(shape[1:])
        units = torch.eye(width, dtype=self._outputs.dtype, device=self._outputs.device)
        columns = [self.mv(unit.expand(rows, width).reshape(shape)) for unit in units]
        return torch.stack([column.reshape(rows, width) for column in columns], dim=2)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _eigen_roots(blocks: Tensor) -> Tensor:
    values, vectors = eigh((blocks + blocks.mT) / 2)
    return (vectors * values.clamp(min=0).sqrt()[:, None, :]).flip(2)


def _triangular_roots(blocks: Tensor) -> Tensor:
    """Cholesky factors, a fifth of the time; eigenvalues where some block does not have one."""
    diagonal = blocks.diagonal(dim1=1, dim2=2)
    shift = 8 * torch.finfo(blocks.dtype).eps * diagonal.sum(1)
    factors, failed = torch.linalg.cholesky_ex(
        blocks + torch.diag_embed(shift[:, None] + 0 * diagonal)
    )
    usable = bool((failed == 0).all() & factors.isfinite().all())
    return factors if usable else _eigen_roots(blocks)


class Scores(OutputCurvature):
    """The Fisher information of the outputs from gradients of log-likelihoods.

    Args:
        scores: ∂log p(yₙ|fₙ)/∂fₙ for each draw of targets, (draws, rows, ...).
    """

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores.contiguous()
        self._weight = 1 / (scores.shape[0] * scores.shape[1])

    def is_semidefinite(self) -> bool:
        """A sum of outer products is."""
        return True

    def mv(self, vector: Tensor) -> Tensor:
        """The mean over draws and rows of s (s·u)."""
        flat = self.scores.flatten(2) if self.scores.ndim > 2 else self.scores[..., None]
        u = vector.reshape(1, vector.shape[0], -1)
        along = (flat * u).sum(2, keepdim=True)
        return self._weight * (flat * along).sum(0).reshape(vector.shape)

    def roots(self, *, ordered: bool = False) -> Tensor:
        """The scores themselves."""
        return self.scores.to(_wide(self.scores)) * self._weight**0.5


class PulledBack(LinearOperator):
    """JᵀMJ for the outputs' Jacobian J = ∂f/∂w and a curvature M of the outputs.

    With M the Hessian of the loss it is the generalized Gauss-Newton matrix.

    Source: Schraudolph, "Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent"
    (2002), https://doi.org/10.1162/08997660260028683

    Args:
        outputs: the model's outputs on their graph.
        middle: M.
        on_rows: makes the same operator of the given rows of the batch alone, with its layers
            recorded; for approximations that look inside. Its outputs have all rows where the
            batch cannot be cut.

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
        on_rows: Callable[[Tensor], PulledBack] | None = None,
    ) -> None:
        self.outputs, self.middle, self._on_rows = outputs, middle, on_rows

    @property
    def rows(self) -> int:
        """Rows of the outputs."""
        return len(self.outputs.value) if self.outputs.value.ndim else 1

    def on_rows(self, rows: Tensor) -> PulledBack:
        """The operator of these rows alone, with its layers recorded."""
        if self._on_rows is None:
            raise InputError(
                "This Gauss-Newton operator does not know its rows; give br.KFAC and br.Woodbury "
                "a curvature=br.GaussNewton(...) or br.Fisher(...)."
            )
        with torch.enable_grad():
            return self._on_rows(rows)

    @property
    def space(self) -> Space:
        """Size, type and device of the flat vectors."""
        return self.outputs.layout.space

    def share(self, part: PulledBack, rows: Tensor) -> float:
        """Curvature of the given rows in this operator over that in `part`, which has them alone.

        Their number over that of all rows for a mean, one for a sum.
        """
        if part.rows != len(rows):
            return 1.0
        probe = torch.zeros_like(self.outputs.value)
        signs = 1 - 2 * (torch.arange(part.outputs.value.numel(), device=probe.device) % 2)
        signs = signs.to(probe.dtype).reshape(part.outputs.value.shape)
        probe[rows.to(probe.device)] = signs
        inside = float((signs * part.middle.mv(signs)).double().sum())
        outside = float((probe * self.middle.mv(probe)).double().sum())
        # what is not convex in the outputs may have any sign
        return outside / inside if inside and outside / inside > 0 else 1.0

    def mv(self, vector: Tensor) -> Tensor:
        """JᵀMJv: about one forward and one backward pass."""
        image = self.outputs.jvp(vector)
        curved = self.middle.mv(image)
        product = self.outputs.vjp(curved)
        # ⟨v, Jᵀ(MJv)⟩ = ⟨Jv, MJv⟩ tests one direction of differentiation by the other
        if self.outputs.untested and not self.outputs.check(vector, image, curved, product):
            return self.mv(vector)
        return product


class Penalized(LinearOperator):
    """JᵀMJ plus the Hessian of a penalty on the same leaves: one backward pass for both.

    Args:
        model: JᵀMJ.
        penalty: the penalty's graph, made with the same leaves (`shared`).
    """

    def __init__(self, model: PulledBack, penalty: Linearization) -> None:
        self._model, self._penalty = model, penalty

    @property
    def space(self) -> Space:
        """Size, type and device of the flat vectors."""
        return self._model.space

    def terms(self) -> list[tuple[float, LinearOperator]]:
        """Both."""
        return [*self._model.terms(), *Hessian(self._penalty).terms()]

    def mv(self, vector: Tensor) -> Tensor:
        """Both at once, unless one direction of differentiation has yet to test the other."""
        model = self._model
        if model.outputs.untested:
            return model.mv(vector) + self._penalty.hessian_product(vector)
        curved = model.middle.mv(model.outputs.jvp(vector))
        return self._penalty.hessian_product(vector, (model.outputs.graph, curved))
