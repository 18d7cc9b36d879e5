"""What every structure is: a function that knows something of its Jacobian."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bestresponse._errors import InputError
from bestresponse._result import Solution
from bestresponse.jacnet._certificate import Certificate
from bestresponse.jacnet._line_integral import line_integral
from bestresponse.jacnet._paths import AXES, STRAIGHT
from bestresponse.jacnet._quadrature import GaussLegendre, Rule

_FINE = GaussLegendre(nodes=16, cells=8)


@dataclass(frozen=True)
class Conservativity:
    """How far a field of Jacobians is from one that belongs to a function.

    Attributes:
        antisymmetry: ‖(D − Dᵀ)/2‖ / ‖D‖ of the function's true Jacobian D, the median over the
            points: zero for gradients of potentials. None where D is not square.
        defect: ‖D − J‖ / ‖D‖ for the Jacobian network's J, the median: zero where J is the
            Jacobian of a function.
    """

    antisymmetry: float | None
    defect: float


class Structure(nn.Module, ABC):
    """A function f: ℝⁿ → ℝᵐ on the last dimension of its input, with a structured Jacobian.

    Attributes:
        dim_in: n.
        dim_out: m.
        dim_context: the size of the context that f also depends on; 0 for none.
    """

    def __init__(self, dim_in: int, dim_out: int, dim_context: int = 0) -> None:
        super().__init__()
        for name, size, least in (
            ("input", dim_in, 1),
            ("output", dim_out, 1),
            ("context", dim_context, 0),
        ):
            if size < least:
                raise InputError(
                    f"{type(self).__name__} was given the {name} size {size}; use {least} or more."
                )
        self.dim_in, self.dim_out, self.dim_context = dim_in, dim_out, dim_context

    @abstractmethod
    def _value(self, x: Tensor, context: Tensor | None) -> Tensor:
        """The function at inputs of the right shape."""

    @abstractmethod
    def certificate(self) -> Certificate:
        """What is guaranteed of f at its weights of now."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """f(x), (..., m).

        Args:
            x: (..., n).
            context: (..., c); its leading dimensions must fit those of x.
        """
        self._check(x, self.dim_in, context)
        return self._value(x, context)

    def inverse(self, y: Tensor, context: Tensor | None = None, *, throw: bool = True) -> Solution:
        """The x with f(x) = y, differentiable with respect to y and the weights.

        Args:
            y: (..., m).
            context: as in `forward`.
            throw: raise `SolveError` where some x was not found, instead of saying so in
                `result` and `converged`.

        Raises:
            InputError: if this structure cannot be inverted.
            SolveError: if some x was not found.
        """
        raise InputError(
            f"{type(self).__name__} has no inverse; use Monotone1d, ConvexGradient, Triangular, "
            "BiLipschitz or a composition of them."
        )

    def jacobian(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The Jacobian ∂f/∂x of the function that is evaluated, (..., m, n)."""
        self._check(x, self.dim_in, context)
        return autodiff_jacobian(lambda z: self._value(z, context), x)

    def field(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The Jacobian that the structure means, (..., m, n); its own, but for `PathIntegral`."""
        return self.jacobian(x, context)

    def log_abs_det(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The logarithm of the modulus of det ∂f/∂x, (...)."""
        self._check_square("has no determinant")
        return torch.linalg.slogdet(self.jacobian(x, context)).logabsdet

    def conservativity(self, x: Tensor, context: Tensor | None = None) -> Conservativity:
        """How far the field is from a function's Jacobian, and that from a symmetric one."""
        true = self.jacobian(x, context).detach().reshape(-1, self.dim_out, self.dim_in)
        field = self.field(x, context).detach().reshape(true.shape)
        lengths = true.flatten(1).norm(dim=1).clamp(min=torch.finfo(true.dtype).tiny)
        defect = float(((true - field).flatten(1).norm(dim=1) / lengths).median())
        if self.dim_in != self.dim_out:
            return Conservativity(None, defect)
        skew = (true - true.mT).flatten(1).norm(dim=1) / 2
        return Conservativity(float((skew / lengths).median()), defect)

    def path_gap(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        start: Tensor | None = None,
        rule: Rule = _FINE,
    ) -> Tensor:
        """What two paths disagree by, relative to what the straight one gives, (...).

        Both integrate the field from `start` (by default zero) to x. Zero for the Jacobian of a
        function, up to the rule's error, however it was made: the independent check.
        """
        self._check(x, self.dim_in, context)
        start = torch.zeros_like(x) if start is None else start
        with torch.no_grad():
            straight, around = (
                line_integral(lambda z: self.field(z, context), path, start, x, rule).value
                for path in (STRAIGHT, AXES)
            )
        length = straight.norm(dim=-1).clamp(min=torch.finfo(x.dtype).tiny)
        return (straight - around).norm(dim=-1) / length

    def _check(self, x: Tensor, size: int, context: Tensor | None) -> None:
        name = type(self).__name__
        if not isinstance(x, Tensor) or not x.ndim or x.shape[-1] != size:
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise InputError(
                f"{name} takes points whose last dimension is {size}; this is of shape {shape}."
            )
        sizes = None if context is None else tuple(context.shape)
        if self.dim_context and (not sizes or sizes[-1] != self.dim_context):
            given = "no context" if sizes is None else f"a context of shape {sizes}"
            raise InputError(
                f"{name} needs a context whose last dimension is {self.dim_context}, got {given}."
            )
        if context is not None and context.ndim:
            try:
                lead = torch.broadcast_shapes(x.shape[:-1], context.shape[:-1])
            except RuntimeError:
                lead = None
            if lead != x.shape[:-1]:
                raise InputError(
                    f"{name} got points {tuple(x.shape)} and contexts {tuple(context.shape)}; "
                    "expand the points to one for each context."
                )
        if not self.dim_context and context is not None:
            raise InputError(f"{name} was made without a context; pass context={{size}} to it.")

    def _check_output(self, y: Tensor, context: Tensor | None) -> None:
        """What `inverse` takes."""
        self._check(y, self.dim_out, context)
        if not bool(y.isfinite().all()):
            bad = int((~y.isfinite()).reshape(-1, self.dim_out).any(1).nonzero()[0])
            raise InputError(f"Output number {bad} is not finite and has no inverse.")

    def _check_square(self, words: str) -> None:
        if self.dim_in != self.dim_out:
            raise InputError(
                f"{type(self).__name__} from {self.dim_in} to {self.dim_out} dimensions {words}."
            )


def refuse_inference_mode() -> None:
    """Nothing can be differentiated there, not even silently."""
    if torch.is_inference_mode_enabled():
        raise InputError(
            "A Jacobian cannot be taken in inference mode; use torch.no_grad() instead."
        )


def gradient_of_sum(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """∂(Σf)/∂x: of a function that acts entry by entry its slopes; on a graph, if there is one."""
    refuse_inference_mode()
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        leaf = _leaf(x, keep)
        (gradient,) = torch.autograd.grad(function(leaf).sum(), leaf, create_graph=keep)
    return gradient


def _leaf(x: Tensor, keep: bool) -> Tensor:
    """What is differentiated by: x itself where its own graph is to go on."""
    return x if keep and x.requires_grad else x.detach().requires_grad_()


def autodiff_jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """∂f/∂x of a function that treats the rows of x by themselves, a backward pass an output."""
    refuse_inference_mode()
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        leaf = _leaf(x, keep)
        y = function(leaf)
        rows = [
            torch.autograd.grad(
                y[..., i].sum(), leaf, create_graph=keep, retain_graph=True, materialize_grads=True
            )[0]
            if y.requires_grad
            else torch.zeros_like(leaf)
            for i in range(y.shape[-1])
        ]
    return torch.stack(rows, dim=-2)
