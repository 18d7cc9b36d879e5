"""Convex functions whose gradients are known in closed form, or by one backward pass."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bestresponse.jacnet._structure import autodiff_jacobian


class ConvexPotential(nn.Module, ABC):
    """A convex function φ: ℝⁿ → ℝ, known by its gradient."""

    dim: int

    @abstractmethod
    def gradient(self, x: Tensor) -> Tensor:
        """∇φ, (..., n)."""

    @abstractmethod
    def hessian(self, x: Tensor) -> Tensor:
        """∇²φ, (..., n, n), positive semidefinite."""

    @abstractmethod
    def smoothness(self) -> Tensor:
        """A matrix (n, n) that no Hessian exceeds."""


class Ridge(ConvexPotential):
    """φ(x) = Σ aₖ² log cosh(wₖᵀx + bₖ), with the gradient Wᵀ(a² tanh(Wx + b)).

    Args:
        dim: n.
        hidden: how many ridges.

    Example:
        >>> ridge = Ridge(dim=2, hidden=8)
        >>> bool((torch.linalg.eigvalsh(ridge.hessian(torch.randn(2))) >= -1e-6).all())
        True
    """

    def __init__(self, dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.dim = dim
        self.weight = nn.Parameter(torch.randn(hidden, dim) / math.sqrt(dim))
        self.bias = nn.Parameter(torch.randn(hidden))
        self.gain = nn.Parameter(torch.full((hidden,), (dim / hidden) ** 0.5))

    def gradient(self, x: Tensor) -> Tensor:
        """Two products with W."""
        return (self.gain.square() * torch.tanh(F.linear(x, self.weight, self.bias))) @ self.weight

    def hessian(self, x: Tensor) -> Tensor:
        """Wᵀ diag(a² tanh') W."""
        steep = 1 - torch.tanh(F.linear(x, self.weight, self.bias)).square()
        return self.weight.T @ ((self.gain.square() * steep)[..., None] * self.weight)

    def smoothness(self) -> Tensor:
        """Wᵀ diag(a²) W: all slopes at their largest at once."""
        return self.weight.T @ (self.gain.square()[:, None] * self.weight)


class LogSumExp(ConvexPotential):
    """φ(x) = c log Σ exp(wₖᵀx + bₖ), a soft maximum of planes, with the gradient c Wᵀp.

    Args:
        dim: n.
        hidden: how many planes.

    Example:
        >>> LogSumExp(dim=2, hidden=8).gradient(torch.zeros(3, 2)).shape
        torch.Size([3, 2])
    """

    def __init__(self, dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.dim = dim
        self.weight = nn.Parameter(torch.randn(hidden, dim))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def _shares(self, x: Tensor) -> Tensor:
        return torch.softmax(F.linear(x, self.weight, self.bias), dim=-1)

    def gradient(self, x: Tensor) -> Tensor:
        """The mean of the planes' slopes."""
        return self.log_scale.exp() * (self._shares(x) @ self.weight)

    def hessian(self, x: Tensor) -> Tensor:
        """Their covariance."""
        shares = self._shares(x)
        mean = shares @ self.weight
        second = torch.einsum("...k,ki,kj->...ij", shares, self.weight, self.weight)
        return self.log_scale.exp() * (second - mean[..., :, None] * mean[..., None, :])

    def smoothness(self) -> Tensor:
        """A variance is at most a quarter of the square of the widest range."""
        # a plane twice, so that there is always a pair
        widest = torch.pdist(torch.cat([self.weight, self.weight[:1]])).max()
        eye = torch.eye(self.dim, dtype=self.weight.dtype, device=self.weight.device)
        return self.log_scale.exp() * widest.square() / 4 * eye


class InputConvex(ConvexPotential):
    """An input-convex network: weights between hidden layers are positive, activations convex.

    z₁ = s(W₀x + b₀), zₗ₊₁ = s(Uₗzₗ + Wₗx + bₗ), φ = aᵀz_L with U, a ≥ 0 and s softplus.

    Args:
        dim: n.
        hidden: units of a layer.
        layers: hidden layers.

    Source: Amos, Xu, Kolter, "Input Convex Neural Networks" (2017),
    https://arxiv.org/abs/1609.07152

    Example:
        >>> InputConvex(dim=2, hidden=8).gradient(torch.zeros(3, 2)).shape
        torch.Size([3, 2])
    """

    def __init__(self, dim: int, hidden: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.dim = dim
        self.inputs = nn.ModuleList(nn.Linear(dim, hidden) for _ in range(layers))
        self.between = nn.ParameterList(_positive(0.2, hidden, hidden) for _ in range(layers - 1))
        for inputs in [self._first(), *(inputs for _, inputs in self._following())]:
            # wide enough that some units are steep and some are flat: PyTorch's own start is so
            # flat that training stays there
            nn.init.normal_(inputs.weight, std=4 / math.sqrt(dim))
            nn.init.normal_(inputs.bias, std=4.0)
        self.last = nn.Parameter(_positive(0.1, hidden))

    def _first(self) -> nn.Linear:
        first = self.inputs[0]
        assert isinstance(first, nn.Linear)
        return first

    def _following(self) -> Iterator[tuple[Tensor, nn.Linear]]:
        """Weights from the layer before, and from the input."""
        for weight, inputs in zip(self.between, list(self.inputs)[1:], strict=True):
            assert isinstance(inputs, nn.Linear)
            yield weight, inputs

    def forward(self, x: Tensor) -> Tensor:
        """φ(x), (...)."""
        z = F.softplus(self._first()(x))
        for weight, inputs in self._following():
            z = F.softplus(z @ F.softplus(weight).T + inputs(x))
        return z @ F.softplus(self.last)

    def gradient(self, x: Tensor) -> Tensor:
        """By hand, layer by layer, so that it is a graph like any other."""
        z = self._first()(x)
        # the Jacobian of the layer's values is carried along: (..., hidden, n)
        slopes = torch.sigmoid(z)[..., None] * self._first().weight
        z = F.softplus(z)
        for weight, inputs in self._following():
            positive = F.softplus(weight)
            before = z @ positive.T + inputs(x)
            slopes = torch.sigmoid(before)[..., None] * (positive @ slopes + inputs.weight)
            z = F.softplus(before)
        return F.softplus(self.last) @ slopes

    def hessian(self, x: Tensor) -> Tensor:
        """By differentiating the gradient."""
        return autodiff_jacobian(self.gradient, x)

    def smoothness(self) -> Tensor:
        """Bounds of each unit's slope g and curvature h, from layer to layer.

        h ≤ g²/4 + U h, since softplus' ≤ 1 and softplus'' ≤ 1/4.
        """
        slope = self._first().weight.norm(dim=1)
        curvature = slope.square() / 4
        for weight, inputs in self._following():
            positive = F.softplus(weight)
            slope = positive @ slope + inputs.weight.norm(dim=1)
            curvature = slope.square() / 4 + positive @ curvature
        eye = torch.eye(self.dim, dtype=slope.dtype, device=slope.device)
        return (F.softplus(self.last) @ curvature) * eye


def _positive(total: float, *shape: int) -> Tensor:
    """Such that the softplus of the last dimension's entries sums to about `total`."""
    return math.log(math.expm1(total / shape[-1])) + 0.5 * torch.randn(shape)
