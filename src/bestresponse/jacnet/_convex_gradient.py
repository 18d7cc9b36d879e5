"""Gradients of strongly convex functions: the structure of optimal transport maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bestresponse._errors import InputError
from bestresponse._result import Solution
from bestresponse.jacnet._certificate import Certificate
from bestresponse.jacnet._newton import newton_solution
from bestresponse.jacnet._potentials import ConvexPotential, Ridge
from bestresponse.jacnet._structure import Structure


class ConvexGradient(Structure):
    """f(x) = ∇φ(x) + VᵀVx + floor·x + Sx + b with φ convex and S = −Sᵀ constant.

    A true Jacobian, symmetric but for S, whose symmetric part is at least `floor`: f is strongly
    monotone, so one to one and onto, and ‖f(x) − f(x')‖ ≥ floor‖x − x'‖.

    Args:
        dim: n.
        hidden: units of the default potential, `Ridge(dim, hidden)`.
        potential: `Ridge`, `LogSumExp` or `InputConvex`; the last is universal for gradients of
            convex functions.
        floor: the least symmetric slope, positive.
        skew: with a constant skew part, which rotates: no longer a gradient, no less invertible.

    Source: Lorraine, Hossain, "JacNet" (2019), https://arxiv.org/abs/2408.13237; Richter-Powell,
    Lorraine, Amos, "Input Convex Gradient Networks" (2021), https://arxiv.org/abs/2111.12187

    Example:
        >>> f = ConvexGradient(dim=2, floor=0.1)
        >>> x = torch.randn(5, 2)
        >>> bool((f.inverse(f(x)).value - x).abs().max() < 1e-4), f.certificate().conservative
        (True, True)
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 64,
        *,
        potential: ConvexPotential | None = None,
        floor: float = 0.01,
        skew: bool = False,
    ) -> None:
        super().__init__(dim, dim)
        if not 0 < floor < float("inf"):
            raise InputError(f"ConvexGradient(floor={floor}) must be positive, and finite.")
        if potential is not None and potential.dim != dim:
            raise InputError(
                f"The potential is of {potential.dim} dimensions, ConvexGradient of {dim}."
            )
        self.floor = floor
        self.potential = Ridge(dim, hidden) if potential is None else potential
        self.root = nn.Parameter(0.3 * torch.eye(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.rotation = nn.Parameter(torch.zeros(dim, dim)) if skew else None

    def _linear(self) -> Tensor:
        """The constant part of the Jacobian."""
        eye = torch.eye(self.dim_in, dtype=self.bias.dtype, device=self.bias.device)
        symmetric = self.root.T @ self.root + self.floor * eye
        if self.rotation is None:
            return symmetric
        return symmetric + self.rotation - self.rotation.T

    def _value(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.potential.gradient(x) + x @ self._linear().T + self.bias

    def jacobian(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """∇²φ and the constant part."""
        self._check(x, self.dim_in, context)
        return self.potential.hessian(x) + self._linear()

    def inverse(self, y: Tensor, context: Tensor | None = None, *, throw: bool = True) -> Solution:
        """By damped Newton steps, which strong monotonicity leads to the solution."""
        self._check_output(y, context)
        guess = torch.linalg.solve(self._linear().detach(), (y.detach() - self.bias)[..., None])
        # the constant part alone is too flat: where it leads is drawn towards the origin
        guess = guess[..., 0] * (self.floor / (1 + self.floor))
        return newton_solution(self, self.jacobian, y, guess, throw=throw)

    def certificate(self) -> Certificate:
        """Strongly monotone with the floor, smooth with the potential's bound."""
        with torch.no_grad():
            quadratic = self.root.T @ self.root
            lower = self.floor + float(torch.linalg.eigvalsh(quadratic)[0].clamp(min=0))
            symmetric = torch.linalg.eigvalsh(self.potential.smoothness() + quadratic)[-1]
            upper = self.floor + float(symmetric)
            if self.rotation is not None:
                upper += float(torch.linalg.matrix_norm(self.rotation - self.rotation.T, 2))
        conservative = self.rotation is None
        kind = "the gradient of a strongly convex function" if conservative else "strongly monotone"
        return Certificate(
            "proved", f"{kind}, one to one and onto", True, lower, upper, conservative
        )
