"""The paper's general form: a network's output as Jacobian, integrated along a path."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bestresponse._errors import InputError
from bestresponse._result import Solution
from bestresponse.jacnet._certificate import Certificate
from bestresponse.jacnet._fields import FieldActivation, Gram, Tanh
from bestresponse.jacnet._line_integral import line_integral
from bestresponse.jacnet._newton import attached, newton, solution, solve
from bestresponse.jacnet._paths import STRAIGHT, Path
from bestresponse.jacnet._quadrature import GaussLegendre, Integral, Rule
from bestresponse.jacnet._structure import Structure

_FEWEST_STEPS, _MOST_STEPS = 32, 1024


class PathIntegral(Structure):
    """f(x) = y₀ + ∫ J(c) dc along a path from x₀ to x, for a network J with a structured output.

    In one dimension f' is J, but for the rule's error. In more, J is the Jacobian of f only if it
    is the Jacobian of anything: then `certificate()` says `pointwise`, the first call warns, and
    `conservativity(x)` and `path_gap(x)` measure how far it is from that. Of the structures with
    guarantees use `ConvexGradient`, `Triangular`, `BiLipschitz` or a composition.

    Args:
        dim_in: n.
        dim_out: m.
        activation: what the output becomes: `Free()`, `Gram(floor)` (the paper's JJᵀ + εI),
            `Tanh(bound)`, `SpectralCap`, `DefinitePlusSkew`, `LowerUpper`, `Exponential`,
            `CauchyRiemann`, `KroneckerProduct`.
        hidden: hidden units of one layer.
        nonlinearity: after it.
        net: the network itself, of (..., n) to (..., activation.size(m, n)); None is that
            perceptron.
        rule: how the integral is taken.
        path: `STRAIGHT`, `AXES`, or a `Path` of your own.
        start: x₀, (n,); or several, (k, n), of which each x takes the nearest.
        value: y₀, (m,) or (k, m): constants, so give f there if it is known, or a mean of the data.
        chunk: samples that are integrated at once; None is all.

    Source: Lorraine, Hossain, "JacNet: Learning Functions with Structured Jacobians" (2019),
    https://arxiv.org/abs/2408.13237

    Example:
        >>> f = PathIntegral(1, 1, activation=Gram(1e-4))
        >>> f(torch.zeros(3, 1)).shape, f.certificate().kind
        (torch.Size([3, 1]), 'pointwise')
    """

    start: Tensor
    value: Tensor

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        activation: FieldActivation | None = None,
        hidden: int = 64,
        nonlinearity: Callable[[], nn.Module] = nn.Tanh,
        net: nn.Module | None = None,
        rule: Rule | None = None,
        path: Path = STRAIGHT,
        start: Tensor | None = None,
        value: Tensor | None = None,
        chunk: int | None = None,
    ) -> None:
        super().__init__(dim_in, dim_out)
        self.activation = activation or Gram()
        self.activation.check(dim_out, dim_in)
        size = self.activation.size(dim_out, dim_in)
        self.net = net or nn.Sequential(
            nn.Linear(dim_in, hidden), nonlinearity(), nn.Linear(hidden, size)
        )
        self.rule, self.path, self.chunk = rule or GaussLegendre(16), path, chunk
        starts = torch.zeros(1, dim_in) if start is None else torch.atleast_2d(start)
        values = torch.zeros(len(starts), dim_out) if value is None else torch.atleast_2d(value)
        if starts.shape[1] != dim_in or values.shape != (len(starts), dim_out):
            raise InputError(
                f"start has the shape {tuple(starts.shape)} and value {tuple(values.shape)}; they "
                f"must be (k, {dim_in}) and (k, {dim_out})."
            )
        self.register_buffer("start", starts.clone())
        self.register_buffer("value", values.clone())
        self._warned = False

    def field(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """J(x), (..., m, n): what the network means, in more than one dimension not ∂f/∂x."""
        self._check(x, self.dim_in, context)
        return self.activation(self.net(x), self.dim_out, self.dim_in)

    def integral(self, x: Tensor, rule: Rule | None = None) -> Integral:
        """f(x) with an estimate of its error and the number of nodes.

        Args:
            x: (..., n).
            rule: another one than the module's.
        """
        self._check(x, self.dim_in, None)
        if self.dim_in > 1 and not self._warned:
            self._warned = True
            warnings.warn(
                f"PathIntegral in {self.dim_in} dimensions: what its activation ensures of the "
                "network's Jacobian is not true of the function; see conservativity(x).",
                stacklevel=4,
            )
        start, value = self._initial(x)
        found = line_integral(self.field, self.path, start, x, rule or self.rule, chunk=self.chunk)
        return Integral(value + found.value, found.error, found.nodes, found.reached)

    def _initial(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x₀ and y₀ of each point: the nearest of what is known."""
        if len(self.start) == 1:
            nearest = torch.zeros(x.shape[:-1], dtype=torch.long, device=x.device)
        else:
            flat = x.detach().reshape(-1, self.dim_in)
            nearest = torch.cdist(flat, self.start.to(flat)).argmin(1).reshape(x.shape[:-1])
        return self.start.to(x)[nearest], self.value.to(x)[nearest]

    def _value(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.integral(x).value

    def inverse(
        self,
        y: Tensor,
        context: Tensor | None = None,
        *,
        throw: bool = True,
        tolerance: float = 1e-6,
        polish: bool = True,
    ) -> Solution:
        """By the ordinary differential equation x'(t) = J(x(t))⁻¹(y − y₀), then Newton steps on f.

        The equation is that of the paper with the Jacobian at x(t); as printed there, at a point of
        the path from y₀ to y, it is not the inverse.

        Args:
            y: (..., n).
            context: none.
            throw: raise `SolveError` where some x was not found.
            tolerance: of the differential equation.
            polish: with Newton steps, on the function that is evaluated.
        """
        self._check_output(y, context)
        self._check_square("has no inverse")
        if not self.activation.invertible:
            raise InputError(
                f"{type(self.activation).__name__} allows singular Jacobians, so that there need "
                "not be an inverse; use Gram, LowerUpper, Exponential or DefinitePlusSkew."
            )
        # a rough start is enough for Newton's method
        x, steps = self._flow(y, tolerance, _FEWEST_STEPS if polish else _MOST_STEPS)
        evaluations = 8 * steps  # four a step, and as many for all fewer steps together
        if polish:
            found = newton(self, self.jacobian, y, x.nan_to_num())
            x, steps = found.value, steps + found.steps
            evaluations += found.evaluations
        with torch.no_grad():
            residual = self(x) - y
        loose = tolerance**0.5 * (1 + y.norm(dim=-1))
        converged = found.converged if polish else residual.norm(dim=-1) <= loose
        x = attached(x, y, self, self.jacobian) if polish else x
        return solution(x, converged, residual, steps, evaluations, throw=throw)

    def _flow(self, y: Tensor, tolerance: float, most: int) -> tuple[Tensor, int]:
        """Where the equation leads, with steps halved until the end moves by less, and how many.

        It is stiff where the Jacobian is nearly singular; then the last of the steps count.
        """
        steps, before = _FEWEST_STEPS, self._runge_kutta(y, _FEWEST_STEPS)
        while steps < most:
            steps *= 2
            after = self._runge_kutta(y, steps)
            if bool(((after - before).abs() <= tolerance * (1 + after.abs())).all()):
                return after, steps
            before = after
        return before, steps

    def _runge_kutta(self, y: Tensor, steps: int) -> Tensor:
        """The classical method from the first initial condition."""
        with torch.no_grad():
            start, value = self.start[0].to(y), self.value[0].to(y)
            x, towards, h = start.expand(y.shape).clone(), y - value, 1 / steps

            def slope(x: Tensor) -> Tensor:
                return solve(self.field(x), towards)

            for _ in range(steps):
                k1 = slope(x)
                k2 = slope(x + h / 2 * k1)
                k3 = slope(x + h / 2 * k2)
                k4 = slope(x + h * k3)
                x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            return x

    def curl_penalty(self, x: Tensor) -> Tensor:
        """The mean square of ∂ₖJᵢⱼ − ∂ⱼJᵢₖ, to be added to a loss; zero for true Jacobians.

        It lowers the defect by one to two orders, at the expense of the fit, and proves nothing.
        """
        self._check(x, self.dim_in, None)
        flat = x.reshape(-1, self.dim_in)
        slopes = torch.func.vmap(torch.func.jacrev(lambda z: self.field(z)))(flat)
        return (slopes - slopes.mT).square().sum((1, 2, 3)).mean()

    def certificate(self) -> Certificate:
        """What the activation says of J at each point; of f only up to the rule, if n is one."""
        if self.dim_in > 1:
            return Certificate(
                "pointwise",
                f"the network's Jacobian: {self.activation.words}; of the function, nothing",
            )
        lower = self.activation.floor if isinstance(self.activation, Gram) else None
        upper = self.activation.bound if isinstance(self.activation, Tanh) else None
        return Certificate(
            "pointwise" if lower or upper else "none",
            f"slope: {self.activation.words}, but for the error of {self.rule}",
            conservative=self.dim_out == 1,
        )


class Annealing:
    """The paper's tolerance schedule: halved whenever the training loss is below it.

    Args:
        start: the first tolerance.
        floor: the last one.

    Example:
        >>> schedule = Annealing(start=1.0)
        >>> [schedule.step(loss) for loss in (2.0, 0.7, 0.3)]
        [1.0, 0.5, 0.25]
    """

    def __init__(self, start: float = 1.0, floor: float = 1e-8) -> None:
        if not 0 < floor <= start:
            raise InputError(f"Annealing(start={start}, floor={floor}) needs 0 < floor ≤ start.")
        self.tolerance, self.floor = start, floor

    def step(self, loss: float) -> float:
        """The tolerance after an iteration of this loss."""
        if loss < self.tolerance:
            self.tolerance = max(self.tolerance / 2, self.floor)
        return self.tolerance
