"""Ways to find the weights: each is an iterator that yields them, (n,), after every outer step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor, nn

import bestresponse as br
from bestresponse.apps import _figures
from bestresponse.apps._examples import Order
from bestresponse.apps.experiments.cleaning._box import descend
from bestresponse.apps.experiments.cleaning._problem import Cleaning, losses, newton, reached

_PRODUCTS = 100  # of an adjoint's solve, at the most
_EXACT = 1e-4  # inner gradient at which a hypergradient is called exact
# the best of a few, on the benchmark's draw with 90 % random labels
_RAW_MOVE = 2.0  # of the median λ in a step of L-BFGS that knows no curvature
_ADAM_RATE = 1.0  # of λ, whose gradient is exact
_BATCH, _SINGLE_RATE, _SINGLE_HYPER_RATE = 1024, 0.05, 0.5

_FIRST_ROWS = 0.2  # share of the rows that the first look takes
_COARSEST, _FINEST, _TIGHTER = 1e-2, 1e-5, 0.8  # inner gradients, from call to call
_ADJOINT = 10.0  # relative residual of the adjoint, in units of the same tolerance
_WORTH = 0.8  # rows are gathered anew when so few of those at hand have a weight
_MOVE = 0.5  # of the median weight in a step that knows no curvature


class Modules:
    """The problem as live modules: weights σ(λ), with λ = 0 at first."""

    def __init__(self, problem: Cleaning, method: br.Implicit, seed: int = 0) -> None:
        self.problem = problem
        self.model = nn.ParameterDict({"w": nn.Parameter(problem.zeros())})
        self.weights = br.hyper.ExampleWeights(problem.size)
        self.nested = br.Nested(
            self.model, self.weights, self._inner, self._outer, method, seed=seed
        )

    def _inner(self, inputs: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        w = self.model["w"]
        fitted = (self.weights(index) * losses(w, inputs, labels)).mean()
        return fitted + self.problem.decay * w.square().sum()

    def _outer(self, inputs: Tensor, labels: Tensor) -> Tensor:
        return losses(self.model["w"], inputs, labels).mean()

    def current(self) -> Tensor:
        """The weights (n,)."""
        return torch.sigmoid(self.weights.raw.detach())

    def exact(self) -> tuple[float, Tensor]:
        """The outer loss at the best response, and dL_V/dλ."""
        inputs, labels = self.problem.roles.train
        w = self.model["w"].detach()  # shares its memory
        w.copy_(self.problem.fitted(self.current(), w.clone(), _EXACT))
        index = torch.arange(self.problem.size)
        self.weights.zero_grad()
        loss, _ = self.nested((inputs, labels, index), self.problem.roles.validation)
        loss.backward()
        gradient = self.weights.raw.grad
        assert gradient is not None
        return float(loss.detach()), gradient


def _exact_modules(problem: Cleaning) -> Modules:
    return Modules(problem, br.Implicit(br.CG(max_steps=_PRODUCTS, rtol=1e-3, warm_start=True)))


def exact_lbfgs(problem: Cleaning, seed: int) -> Iterator[Tensor]:
    """L-BFGS on λ with exact hypergradients."""
    modules = _exact_modules(problem)
    raw = modules.weights.raw

    def function(at: Tensor) -> tuple[float, Tensor]:
        with torch.no_grad():
            raw.copy_(at)
        loss, gradient = modules.exact()
        return loss, gradient.clone()

    for at in descend(function, torch.zeros(problem.size).to(raw), -inf, inf, _RAW_MOVE):
        yield torch.sigmoid(at)


def exact_adam(problem: Cleaning, seed: int) -> Iterator[Tensor]:
    """Adam on λ with exact hypergradients."""
    modules = _exact_modules(problem)
    adam = torch.optim.Adam(modules.weights.parameters(), lr=_ADAM_RATE)
    while True:
        modules.exact()
        adam.step()
        yield modules.current()


def single_loop(problem: Cleaning, seed: int) -> Iterator[Tensor]:
    """One step of w, of the adjoint and of λ on each pair of batches."""
    modules = Modules(problem, br.Implicit(br.SingleLoop()), seed)
    (inputs, labels), (held, truth) = problem.roles.train, problem.roles.validation
    order = Order(problem.size, _BATCH, seed, "cleaning")
    held_order = Order(len(held), _BATCH, seed, "cleaning, validation")
    sgd = torch.optim.SGD(modules.model.parameters(), lr=_SINGLE_RATE)
    outer = torch.optim.Adam(modules.weights.parameters(), lr=_SINGLE_HYPER_RATE)
    while True:
        index, held_index = order.next(), held_order.next()
        batch = inputs[index], labels[index], index
        sgd.zero_grad()
        modules.nested.inner_loss(*batch).backward()
        sgd.step()
        outer.zero_grad()
        modules.nested(batch, (held[held_index], truth[held_index]))[0].backward()
        outer.step()
        yield modules.current()


class Response:
    """Outer loss and hypergradient over weights in [0, 1], followed from call to call.

    Best response and adjoint q start from those of the last call, solved a little better each
    time. What the inner gradient g still lacks is taken out of the value, L_V − qᵀg, whose error
    is then of second order. Examples of weight zero take part in no product, only in the slopes.
    """

    def __init__(self, problem: Cleaning) -> None:
        self._problem, self._w = problem, problem.zeros()
        self._memory: dict[str, object] = {}
        self._tolerance = _COARSEST
        self._rows = torch.ones(problem.size, dtype=torch.bool)
        self._batch = problem.roles.train

    def first(self, weights: Tensor, rows: Tensor) -> Tensor:
        """The hypergradient as some rows see it, which stand for all."""
        inputs, labels = self._problem.roles.train
        shares = weights[rows] / len(rows)
        _, q = self._solved(shares, (inputs[rows], labels[rows]))
        return self._slopes(weights, q)

    def __call__(self, weights: Tensor) -> tuple[float, Tensor]:
        """The outer loss and its gradient with respect to the weights, (n,)."""
        self._gather(weights > 0)
        value, q = self._solved(weights[self._rows] / self._problem.size, self._batch)
        self._tolerance = max(_FINEST, _TIGHTER * self._tolerance)
        return value, self._slopes(weights, q)

    def sharpen(self) -> bool:
        """Solve ten times as well from now on; whether that is still to be had."""
        if self._tolerance <= _FINEST:
            return False
        self._tolerance = max(_FINEST, self._tolerance / 10)
        return True

    def _gather(self, used: Tensor) -> None:
        """The rows that have a weight, copied when that saves more than it costs."""
        if bool((used & ~self._rows).any()) or int(used.sum()) < _WORTH * int(self._rows.sum()):
            inputs, labels = self._problem.roles.train
            self._rows, self._batch = used, (inputs[used], labels[used])

    def _solved(self, shares: Tensor, batch: tuple[Tensor, Tensor]) -> tuple[float, Tensor]:
        """The outer loss at the best response, and q."""
        point = newton(self._problem.inner(shares, batch), self._w, self._tolerance)
        self._w = reached(point)
        w = self._w.clone().requires_grad_()
        loss = losses(w, *self._problem.roles.validation).mean()
        (outer,) = torch.autograd.grad(loss, w)
        solver = br.CG(max_steps=_PRODUCTS, rtol=_ADJOINT * self._tolerance, warm_start=True)
        solution = br.linear_solve(
            br.Hessian(point), outer.reshape(-1), solver, memory=self._memory
        )
        self._memory = solution.memory
        return float(loss.detach() - solution.value @ point.gradient), solution.value

    def _slopes(self, weights: Tensor, q: Tensor) -> Tensor:
        """−(∂²L_T/∂a∂w) q for every example, used or not."""
        shares = weights / self._problem.size
        everyone = br.Linearization(self._problem.inner(shares), {"w": self._w}, {"shares": shares})
        mixed = everyone.mixed_product(q)["shares"]
        assert mixed is not None
        return -mixed / self._problem.size


def followed(problem: Cleaning, seed: int) -> Iterator[Tensor]:
    """L-BFGS on the weights themselves, in the box [0, 1], with hypergradients that sharpen."""
    response = Response(problem)
    start = torch.full((problem.size,), 0.5).to(problem.zeros())
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(problem.size, generator=generator)[: int(_FIRST_ROWS * problem.size) + 1]
    slopes = response.first(start, rows)
    weights = (start - slopes * (_MOVE / slopes.abs().median())).clamp(0, 1)
    yield weights
    move = _MOVE
    while True:  # where no step pays, values may be too inexact to tell
        for point in descend(response, weights, 0.0, 1.0, move):
            weights = point
            yield point
        if not response.sharpen():
            return
        move /= 10


@dataclass(frozen=True)
class Contender:
    """Who takes part.

    Attributes:
        key: its name in files.
        label: its name for people.
        color: of its line.
        start: from a problem and a seed to its iterator.
    """

    key: str
    label: str
    color: str
    start: Callable[[Cleaning, int], Iterator[Tensor]]


FOLLOWED = Contender("followed", "weights in the box, followed", _figures.BLUE, followed)
CONTENDERS = (
    FOLLOWED,
    Contender("single_loop", "single loop on λ", _figures.ORANGE, single_loop),
    Contender("exact_lbfgs", "exact, L-BFGS on λ", _figures.GREEN, exact_lbfgs),
    Contender("exact_adam", "exact, Adam on λ", _figures.PINK, exact_adam),
)
