"""Complex differentiable maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bestresponse._errors import InputError
from bestresponse._result import Solution
from bestresponse.jacnet._certificate import Certificate
from bestresponse.jacnet._newton import newton_solution
from bestresponse.jacnet._structure import Structure


class Holomorphic(Structure):
    """f(z) = Mz + C sin(Wz + b) + d with complex weights: entire, on ℂⁿ as ℝ²ⁿ.

    The input's first half are real parts, its second half imaginary ones; so are the output's. The
    Cauchy-Riemann equations hold exactly. It need not be one to one.

    Args:
        dim: 2n, even.
        hidden: units.

    Example:
        >>> f = Holomorphic(2)
        >>> J = f.jacobian(torch.tensor([0.3, -0.2]))
        >>> torch.allclose(J[0, 0], J[1, 1]), torch.allclose(J[0, 1], -J[1, 0])
        (True, True)
    """

    def __init__(self, dim: int, hidden: int = 32) -> None:
        super().__init__(dim, dim)
        if dim % 2:
            raise InputError(f"Holomorphic(dim={dim}) must be even: real and imaginary parts.")
        half = dim // 2
        self.weight = _complex(hidden, half, scale=1 / math.sqrt(half))
        self.bias = _complex(hidden, scale=1.0)
        self.last = _complex(half, hidden, scale=0.3 / math.sqrt(hidden))
        self.shift = _complex(half, scale=0.0)
        self.linear = nn.Parameter(torch.view_as_real(torch.eye(half, dtype=_complex_type())))

    def _at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        half = self.dim_in // 2
        z = torch.complex(x[..., :half].contiguous(), x[..., half:].contiguous())
        weight, bias = torch.view_as_complex(self.weight), torch.view_as_complex(self.bias)
        return z, z @ weight.T + bias

    def _value(self, x: Tensor, context: Tensor | None) -> Tensor:
        z, inner = self._at(x)
        linear, last = torch.view_as_complex(self.linear), torch.view_as_complex(self.last)
        value = z @ linear.T + torch.sin(inner) @ last.T + torch.view_as_complex(self.shift)
        return torch.cat([value.real, value.imag], dim=-1)

    def derivative(self, x: Tensor) -> Tensor:
        """f'(z), complex, (..., n, n)."""
        _, inner = self._at(x)
        weight, last = torch.view_as_complex(self.weight), torch.view_as_complex(self.last)
        return torch.view_as_complex(self.linear) + (last * inner.cos()[..., None, :]) @ weight

    def jacobian(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """[[a, −b], [b, a]] for f' = a + ib."""
        self._check(x, self.dim_in, context)
        slope = self.derivative(x)
        top = torch.cat([slope.real, -slope.imag], dim=-1)
        return torch.cat([top, torch.cat([slope.imag, slope.real], dim=-1)], dim=-2)

    def log_abs_det(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Twice the logarithm of the modulus of det f', (...)."""
        self._check(x, self.dim_in, context)
        return 2 * torch.linalg.slogdet(self.derivative(x)).logabsdet

    def inverse(self, y: Tensor, context: Tensor | None = None, *, throw: bool = True) -> Solution:
        """One x with f(x) = y, by damped Newton steps, where they find one; there may be others."""
        self._check_output(y, context)
        return newton_solution(self, self.jacobian, y, y.detach(), throw=throw)

    def certificate(self) -> Certificate:
        """Complex differentiable, no more."""
        return Certificate("proved", "complex differentiable; not surely one to one")


def _complex_type() -> torch.dtype:
    return torch.promote_types(torch.get_default_dtype(), torch.complex32)


def _complex(*shape: int, scale: float) -> nn.Parameter:
    """A complex weight as pairs of real ones, so that `.double()` and optimizers work as usual."""
    return nn.Parameter(scale * torch.randn(*shape, 2))
