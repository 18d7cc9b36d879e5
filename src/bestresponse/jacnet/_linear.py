"""Linear maps that are surely invertible: rotations, permutations, Kronecker products."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bestresponse._errors import InputError
from bestresponse._result import Solution
from bestresponse.jacnet._certificate import Certificate
from bestresponse.jacnet._newton import is_close, solution
from bestresponse.jacnet._structure import Structure


class Rotation(Structure):
    """f(x) = Qx + b with Q orthogonal: the exponential of a skew matrix times a fixed matrix.

    Its determinant is +1, or −1 with a `start` of −1, for good: a composition that is to turn
    space over needs an odd number of layers that do.

    Args:
        dim: n.
        start: the fixed matrix, orthogonal (n, n); None draws a rotation.
        learn: train Q and b; otherwise they stay as they are.
        seed: of the draw.

    Example:
        >>> f = Rotation(3)
        >>> float(f.log_abs_det(torch.zeros(3)).abs())
        0.0
    """

    start: Tensor

    def __init__(
        self,
        dim: int,
        *,
        start: Tensor | None = None,
        learn: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__(dim, dim)
        start = _drawn(dim, seed) if start is None else start
        if start.shape != (dim, dim) or not _is_orthogonal(start):
            raise InputError(f"start must be an orthogonal matrix ({dim}, {dim}).")
        self.register_buffer("start", start.to(torch.get_default_dtype()))
        self.turn = nn.Parameter(torch.zeros(dim, dim), requires_grad=learn)
        self.bias = nn.Parameter(torch.zeros(dim), requires_grad=learn)

    def matrix(self) -> Tensor:
        """Q, (n, n)."""
        matrix = torch.linalg.matrix_exp(self.turn - self.turn.T) @ self.start
        for _ in range(2):  # to rounding: the start may be of float32, the exponential is coarse
            matrix = 1.5 * matrix - 0.5 * matrix @ matrix.T @ matrix
        return matrix

    def _value(self, x: Tensor, context: Tensor | None) -> Tensor:
        return F.linear(x, self.matrix(), self.bias)

    def jacobian(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Q everywhere."""
        self._check(x, self.dim_in, context)
        return self.matrix().expand(*x.shape[:-1], -1, -1)

    def log_abs_det(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Zero."""
        self._check(x, self.dim_in, context)
        return x.new_zeros(x.shape[:-1])

    def inverse(self, y: Tensor, context: Tensor | None = None, *, throw: bool = True) -> Solution:
        """Qᵀ(y − b)."""
        self._check_output(y, context)
        return _exact(self, (y - self.bias) @ self.matrix(), y, throw)

    def certificate(self) -> Certificate:
        """An isometry."""
        return Certificate("proved", "orthogonal, one to one and onto", True, 1.0, 1.0)


def _drawn(dim: int, seed: int | None) -> Tensor:
    """A rotation, uniformly distributed."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    drawn = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(drawn)
    q = q * r.diagonal().sign()
    q[:, 0] *= torch.linalg.det(q).sign()
    return q


def _is_orthogonal(matrix: Tensor) -> bool:
    eye = torch.eye(len(matrix), dtype=torch.float64)
    wide = matrix.detach().double().cpu()
    return bool((wide @ wide.T - eye).abs().max() < 1e-5)


class Permutation(Structure):
    """f(x) = x in another order.

    Args:
        dim: n.
        order: f(x)ᵢ = x[orderᵢ]; None reverses.

    Example:
        >>> Permutation(3)(torch.tensor([1.0, 2.0, 3.0]))
        tensor([3., 2., 1.])
    """

    order: Tensor

    def __init__(self, dim: int, order: Tensor | None = None) -> None:
        super().__init__(dim, dim)
        order = torch.arange(dim).flip(0) if order is None else torch.as_tensor(order)
        whole = order.ndim == 1 and not order.is_floating_point() and order.dtype != torch.bool
        if not whole or sorted(order.tolist()) != list(range(dim)):
            raise InputError(f"{order.tolist()} is no order of {dim} entries.")
        self.register_buffer("order", order)

    def _value(self, x: Tensor, context: Tensor | None) -> Tensor:
        return x[..., self.order]

    def jacobian(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The permutation matrix everywhere."""
        self._check(x, self.dim_in, context)
        eye = torch.eye(self.dim_in, dtype=x.dtype, device=x.device)
        return eye[self.order].expand(*x.shape[:-1], -1, -1)

    def log_abs_det(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Zero."""
        self._check(x, self.dim_in, context)
        return x.new_zeros(x.shape[:-1])

    def inverse(self, y: Tensor, context: Tensor | None = None, *, throw: bool = True) -> Solution:
        """The order undone."""
        self._check_output(y, context)
        return _exact(self, y[..., self.order.argsort()], y, throw)

    def certificate(self) -> Certificate:
        """An isometry."""
        return Certificate("proved", "a permutation, one to one and onto", True, 1.0, 1.0)


class KroneckerLinear(Structure):
    """f(x) = (A ⊗ B)x + b, which costs p³ + q³ where a dense map costs (pq)³.

    x of p·q entries is a matrix X (p, q) row by row, and f(x) is AXBᵀ. A and B are products of
    triangular factors with positive diagonals, so that neither is ever singular.

    Args:
        rows: p.
        columns: q.
        floor: the least entry of the triangular factors' diagonals.

    Example:
        >>> f = KroneckerLinear(2, 3)
        >>> x = torch.randn(4, 6)
        >>> bool((f.inverse(f(x)).value - x).abs().max() < 1e-4)
        True
    """

    def __init__(self, rows: int, columns: int, *, floor: float = 1e-3) -> None:
        if min(rows, columns) < 1:
            raise InputError(f"KroneckerLinear({rows}, {columns}) needs two positive sizes.")
        super().__init__(rows * columns, rows * columns)
        if not 0 < floor < math.inf:
            raise InputError(f"KroneckerLinear(floor={floor}) must be positive, and finite.")
        self.rows, self.columns, self.floor = rows, columns, floor
        self.left = nn.Parameter(0.1 * torch.randn(rows, rows))
        self.right = nn.Parameter(0.1 * torch.randn(columns, columns))
        self.bias = nn.Parameter(torch.zeros(rows * columns))

    def _triangles(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """A lower one with a diagonal of ones, and an upper one with a positive diagonal."""
        shift = math.log(math.expm1(1.0))  # the diagonal starts near one
        diagonal = self.floor + F.softplus(raw.diagonal() + shift)
        eye = torch.eye(len(raw), dtype=raw.dtype, device=raw.device)
        return raw.tril(-1) + eye, raw.triu(1) + torch.diag(diagonal)

    def factors(self) -> tuple[Tensor, Tensor]:
        """A (p, p) and B (q, q)."""
        return tuple(lower @ upper for lower, upper in map(self._triangles, self._raw()))  # type: ignore[return-value]

    def _raw(self) -> tuple[Tensor, Tensor]:
        return self.left, self.right

    def _value(self, x: Tensor, context: Tensor | None) -> Tensor:
        left, right = self.factors()
        square = x.unflatten(-1, (self.rows, self.columns))
        return (left @ square @ right.T).flatten(-2) + self.bias

    def jacobian(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """A ⊗ B everywhere; dense, for those who want to see it."""
        self._check(x, self.dim_in, context)
        return torch.kron(*self.factors()).expand(*x.shape[:-1], -1, -1)

    def log_abs_det(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The factors' logarithms, each times the size of the other factor, (...)."""
        self._check(x, self.dim_in, context)
        left, right = (self._triangles(raw)[1].diagonal().log().sum() for raw in self._raw())
        return (self.columns * left + self.rows * right).expand(x.shape[:-1])

    def inverse(self, y: Tensor, context: Tensor | None = None, *, throw: bool = True) -> Solution:
        """A⁻¹YB⁻ᵀ by four triangular solves."""
        self._check_output(y, context)
        square = (y - self.bias).unflatten(-1, (self.rows, self.columns))
        square = self._solved(self.left, square)
        square = self._solved(self.right, square.mT).mT
        return _exact(self, square.flatten(-2), y, throw)

    def _solved(self, raw: Tensor, right_side: Tensor) -> Tensor:
        lower, upper = self._triangles(raw)
        half = torch.linalg.solve_triangular(lower, right_side, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, half, upper=True)

    def certificate(self) -> Certificate:
        """Singular values of a Kronecker product are products of those of its factors."""
        with torch.no_grad():
            left, right = (torch.linalg.svdvals(factor) for factor in self.factors())
        lower, upper = float(left[-1] * right[-1]), float(left[0] * right[0])
        return Certificate("proved", "linear, one to one and onto", True, lower, upper)


def _exact(structure: Structure, x: Tensor, y: Tensor, throw: bool) -> Solution:
    """A formula's answer, judged like any other."""
    with torch.no_grad():
        residual = structure(x) - y
    return solution(x, is_close(residual, y), residual, 1, 1, throw=throw)
