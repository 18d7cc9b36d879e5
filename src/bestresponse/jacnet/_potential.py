"""Conservative fields: the gradient of any network."""

from __future__ import annotations

from torch import Tensor, nn

from bestresponse.jacnet._certificate import Certificate
from bestresponse.jacnet._structure import Structure, gradient_of_sum


class Potential(Structure):
    """f = ∇u for a network u with one output: forces, slopes of a landscape.

    A line integral of f is the difference of u at its ends, whatever the path. Nothing else is
    guaranteed, so that it has no inverse.

    Args:
        dim: n.
        hidden: hidden units of u, in each of two layers.
        net: u itself, of (..., n) to (..., 1), twice differentiable; None is a perceptron.

    Example:
        >>> import torch
        >>> f = Potential(2)
        >>> J = f.jacobian(torch.zeros(2))
        >>> torch.allclose(J, J.T)
        True
    """

    def __init__(self, dim: int, hidden: int = 64, *, net: nn.Module | None = None) -> None:
        super().__init__(dim, dim)
        self.net = net or nn.Sequential(
            nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(),
            nn.Linear(hidden, 1),
        )  # fmt: skip

    def potential(self, x: Tensor) -> Tensor:
        """u(x), (...)."""
        self._check(x, self.dim_in, None)
        return self.net(x)[..., 0]

    def _value(self, x: Tensor, context: Tensor | None) -> Tensor:
        return gradient_of_sum(self.net, x)

    def certificate(self) -> Certificate:
        """Conservative, no more."""
        return Certificate("proved", "the gradient of a potential", conservative=True)
