"""Residual layers that stretch by no more and no less than known factors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bestresponse._errors import InputError
from bestresponse._result import Solution
from bestresponse.jacnet._certificate import Certificate
from bestresponse.jacnet._newton import newton_solution
from bestresponse.jacnet._structure import Structure


class BiLipschitz(Structure):
    """f(x) = scale·(x + g(x)) with a perceptron g whose Lipschitz constant is below one.

    The constant is that of the product of its layers' spectral norms, exact and not by power
    iteration, so that (1 − contraction)·scale ≤ stretch ≤ (1 + contraction)·scale is proved.

    Args:
        dim: n.
        hidden: hidden units of g.
        contraction: the Lipschitz constant of g, below one.
        scaled: learn the scale; otherwise it is one.

    Source: Behrmann et al., "Invertible Residual Networks" (2019),
    https://arxiv.org/abs/1811.00995

    Example:
        >>> f = BiLipschitz(dim=2, contraction=0.9)
        >>> f.certificate().lower >= 0.1 - 1e-6, f.certificate().upper <= 1.9 + 1e-6
        (True, True)
    """

    def __init__(
        self, dim: int, hidden: int = 64, *, contraction: float = 0.9, scaled: bool = False
    ) -> None:
        super().__init__(dim, dim)
        if not 0 < contraction < 1:
            raise InputError(f"BiLipschitz(contraction={contraction}) must lie between 0 and 1.")
        self.contraction = contraction
        self.first, self.last = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        nn.init.orthogonal_(self.first.weight)
        nn.init.orthogonal_(self.last.weight, 0.5)
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=scaled)

    def _weights(self) -> tuple[Tensor, Tensor]:
        """Scaled so that the norms' product is at most the contraction."""
        norms = [torch.linalg.matrix_norm(w, 2) for w in (self.first.weight, self.last.weight)]
        # a hair less, since rounding must not lift the product above it
        limit = self.contraction * (1 - 8 * torch.finfo(norms[0].dtype).eps)
        excess = (norms[0] * norms[1] / limit).clamp(min=1)
        return self.first.weight / excess.sqrt(), self.last.weight / excess.sqrt()

    def _residual(self, x: Tensor) -> Tensor:
        first, last = self._weights()
        return F.linear(torch.tanh(F.linear(x, first, self.first.bias)), last, self.last.bias)

    def _value(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.log_scale.exp() * (x + self._residual(x))

    def jacobian(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """scale·(I + W₂ diag(tanh') W₁)."""
        self._check(x, self.dim_in, context)
        first, last = self._weights()
        steep = 1 - torch.tanh(F.linear(x, first, self.first.bias)).square()
        eye = torch.eye(self.dim_in, dtype=x.dtype, device=x.device)
        return self.log_scale.exp() * (eye + (last * steep[..., None, :]) @ first)

    def inverse(self, y: Tensor, context: Tensor | None = None, *, throw: bool = True) -> Solution:
        """By damped Newton steps from a few of the fixed-point iteration, which contracts."""
        self._check_output(y, context)
        with torch.no_grad():
            target = y / self.log_scale.exp()
            guess = target
            for _ in range(_FIXED_POINT):
                guess = target - self._residual(guess)
        return newton_solution(self, self.jacobian, y, guess, throw=throw, before=_FIXED_POINT)

    def certificate(self) -> Certificate:
        """By the product of the spectral norms of now."""
        with torch.no_grad():
            first, last = (torch.linalg.matrix_norm(w, 2) for w in self._weights())
            constant, scale = float(first * last), float(self.log_scale.exp())
        return Certificate(
            "proved",
            "the identity plus a contraction, one to one and onto",
            True,
            scale * (1 - constant),
            scale * (1 + constant),
        )


_FIXED_POINT = 5
