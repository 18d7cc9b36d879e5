"""Functions of one dimension at a time, as the integral of a slope."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bestresponse._errors import InputError
from bestresponse._result import Solution
from bestresponse.jacnet._antiderivative import Antiderivative, Knots, Table
from bestresponse.jacnet._certificate import Certificate
from bestresponse.jacnet._newton import attached, is_close, solution
from bestresponse.jacnet._slope_net import Activation, SlopeNet
from bestresponse.jacnet._slopes import Interval, Slope, Softplus
from bestresponse.jacnet._structure import Structure, gradient_of_sum


class Integral1d(Structure):
    """Entry by entry: f(x) = f(0) + ∫₀ˣ slope(j(t, context)) dt.

    f(0) is a weight, or with a context a small network's output.
    """

    def __init__(
        self,
        dim: int,
        slope: Slope,
        table: Table | None,
        hidden: int | Sequence[int],
        context: int,
        activation: Activation,
        value: float,
        visible: Tensor | None = None,
    ) -> None:
        super().__init__(dim, dim, context)
        self.slope, self.table = slope, table or Knots()
        self.net = SlopeNet(dim, context, hidden, activation, visible)
        # the offset does not depend on t: the same kind of network, asked at t = 0
        self.offset_net = SlopeNet(dim, context, hidden, activation, visible) if context else None
        self.offset = nn.Parameter(torch.full((dim,), float(value)))

    def _antiderivative(self, context: Tensor | None) -> Antiderivative:
        return self.table.of(
            lambda times: self.slope(self.net(times, context)), self.offset, self.dim_in
        )

    def _offset(self, antiderivative: Antiderivative, context: Tensor | None) -> Tensor:
        """f(x) less the antiderivative at x."""
        start = self.offset - antiderivative(torch.zeros_like(self.offset))
        if self.offset_net is None:
            return start
        return start + self.offset_net(self.offset.new_zeros(self.dim_in, 1), context)[..., 0]

    def _value(self, x: Tensor, context: Tensor | None) -> Tensor:
        antiderivative = self._antiderivative(context)
        return self._offset(antiderivative, context) + antiderivative(x)

    def derivative(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The slope of the function that is evaluated, entry by entry, (..., dim)."""
        self._check(x, self.dim_in, context)
        return gradient_of_sum(lambda z: self._value(z, context), x)

    def jacobian(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Diagonal, (..., dim, dim)."""
        return torch.diag_embed(self.derivative(x, context))

    def log_abs_det(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The sum of the logarithms of the slopes, (...)."""
        return self.derivative(x, context).abs().log().sum(-1)

    def _slopes_of_now(self) -> tuple[float, float]:
        """Bounds of all slopes: of the weights of now, or, with a context, of any weights."""
        if self.dim_context:  # what a quadrature rule makes of them is known for no context
            known = self.table.proves
            return (self.slope.floor, self.slope.ceiling) if known else (-math.inf, math.inf)
        with torch.no_grad():
            smallest, largest = self._antiderivative(None).extremes()
        return float(smallest), float(largest)


class Monotone1d(Integral1d):
    """Increasing functions, entry by entry, whose slope is a positive network's output.

    With the default table every slope of f lies between the network's slopes at two knots, at any
    weights, so that f is increasing, onto, and its inverse a formula; `floor` and `ceiling` bound
    its slopes. Give the table the range of your data.

    Args:
        dim: how many functions.
        slope: `Softplus(floor)`, `Exp(floor)`, `Square(floor)`, or `Interval(floor, ceiling)` with
            a positive floor.
        table: `Knots(low, high, count)`, or `Cells(...)`: quadrature from the nearest knot.
        hidden: hidden units, of one layer or of several.
        context: size of a further input, on which f depends in any way; 0 for none.
        activation: of the hidden layers.
        value: f(0) before training.
        visible: (dim, context), which entries of the context each function sees; None is all.

    Raises:
        InputError: for a slope that need not be positive.

    Source: Lorraine, Hossain, "JacNet: Learning Functions with Structured Jacobians" (2019),
    https://arxiv.org/abs/2408.13237; with a context: Wehenkel, Louppe, "Unconstrained Monotonic
    Neural Networks" (2019), https://arxiv.org/abs/1908.05164

    Example:
        >>> f = Monotone1d(slope=Interval(0.5, 2.0))
        >>> x = torch.linspace(-2, 2, 5)[:, None]
        >>> bool((f.inverse(f(x)).value - x).abs().max() < 1e-5), f.certificate().invertible
        (True, True)
    """

    def __init__(
        self,
        dim: int = 1,
        *,
        slope: Slope | None = None,
        table: Table | None = None,
        hidden: int | Sequence[int] = 64,
        context: int = 0,
        activation: Callable[[Tensor], Tensor] = torch.tanh,
        value: float = 0.0,
        visible: Tensor | None = None,
    ) -> None:
        slope = slope or Softplus()
        _check_positive(slope)
        super().__init__(dim, slope, table, hidden, context, activation, value, visible)

    def inverse(self, y: Tensor, context: Tensor | None = None, *, throw: bool = True) -> Solution:
        """The x with f(x) = y: a formula for `Knots`, safeguarded Newton steps for `Cells`."""
        self._check_output(y, context)
        antiderivative = self._antiderivative(context)
        x, steps = antiderivative.inverse(y - self._offset(antiderivative, context))
        if not self.table.proves:  # the formula has a graph of its own
            x = attached(
                x, y, lambda z: self._value(z, context), lambda z: self.jacobian(z, context)
            )
        with torch.no_grad():
            residual = self._value(x, context) - y
            reach = antiderivative.meant(x).norm(dim=-1) * x.norm(dim=-1)
        return solution(x, is_close(residual, y, reach), residual, steps, steps + 1, throw=throw)

    def certificate(self) -> Certificate:
        """The bounds of its slopes: proved for `Knots`, checked at many points for `Cells`."""
        lower, upper = self._slopes_of_now()
        if lower == -math.inf:
            return _nothing(self.table)
        increasing, proves = lower > 0, self.table.proves
        words = "increasing, one to one and onto" if proves else "increasing where it was looked at"
        return Certificate(
            "proved" if proves else "checked",
            words if increasing else "its slope may fall to zero",
            increasing and proves,
            max(lower, 0.0),
            upper if math.isfinite(upper) else None,
            conservative=True,
        )


class Lipschitz1d(Integral1d):
    """Functions whose slope lies in [−bound, bound], entry by entry.

    Args:
        dim: how many functions.
        bound: the Lipschitz constant; or `slope`, for an interval of any two ends.
        slope: `Interval(floor, ceiling)`; None is `Interval(-bound, bound)`.
        table: as in `Monotone1d`.
        hidden: hidden units, of one layer or of several.
        context: size of a further input, in which f need not be Lipschitz; 0 for none.
        activation: of the hidden layers.
        value: f(0) before training.

    Source: Lorraine, Hossain, "JacNet: Learning Functions with Structured Jacobians" (2019),
    https://arxiv.org/abs/2408.13237

    Example:
        >>> f = Lipschitz1d(bound=1.0)
        >>> f.certificate().upper <= 1
        True
    """

    def __init__(
        self,
        dim: int = 1,
        bound: float = 1.0,
        *,
        slope: Interval | None = None,
        table: Table | None = None,
        hidden: int | Sequence[int] = 64,
        context: int = 0,
        activation: Callable[[Tensor], Tensor] = torch.tanh,
        value: float = 0.0,
    ) -> None:
        slope = slope or Interval(-bound, bound)
        super().__init__(dim, slope, table, hidden, context, activation, value)

    def certificate(self) -> Certificate:
        """The largest slope."""
        lower, upper = self._slopes_of_now()
        if upper == math.inf:
            return _nothing(self.table)
        constant = max(abs(lower), abs(upper))
        return Certificate(
            "proved" if self.table.proves else "checked",
            f"Lipschitz with constant {constant:.4g}",
            upper=constant,
            conservative=True,
        )


def _nothing(table: Table) -> Certificate:
    name = type(table).__name__
    return Certificate("none", f"with a context, {name} is not checked; use Knots")


def _check_positive(slope: Slope) -> None:
    if slope.floor < 0 or (isinstance(slope, Interval) and slope.floor == 0):
        raise InputError(
            f"{slope} allows slopes that are not positive; give Monotone1d a floor above zero, or "
            "use Lipschitz1d."
        )
