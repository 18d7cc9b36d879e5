"""Quadrature rules on [0, 1]: fixed, composite, and adaptive with an estimate of their error."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from bestresponse._errors import InputError

Integrand = Callable[[Tensor], Tensor]
"""Values (nodes, ...) at times (nodes,)."""


@dataclass(frozen=True)
class Integral:
    """A value with what it took.

    Attributes:
        value: the integral.
        error: an estimate of its largest error over the batch; None where the rule makes none.
        nodes: evaluations for each sample.
        reached: whether the error is within the tolerance that was asked for.
    """

    value: Tensor
    error: float | None
    nodes: int
    reached: bool = True


class Rule(ABC):
    """How to integrate over [0, 1]. Frozen settings."""

    @abstractmethod
    def integrate(self, integrand: Integrand, like: Tensor, low: float, high: float) -> Integral:
        """∫ integrand over [low, high].

        Args:
            integrand: its values at given times.
            like: gives type and device of the times.
            low: where to begin.
            high: where to end.
        """


@dataclass(frozen=True)
class GaussLegendre(Rule):
    """`nodes` Gauss-Legendre nodes in each of `cells` equal parts: exact for degree 2·nodes − 1.

    Source: Golub, Welsch, "Calculation of Gauss Quadrature Rules" (1969),
    https://doi.org/10.1090/S0025-5718-69-99647-1

    Example:
        >>> time = torch.tensor(0.0)
        >>> GaussLegendre(2).integrate(lambda t: t ** 3, time, 0.0, 1.0).value
        tensor(0.2500)
    """

    nodes: int = 16
    cells: int = 1

    def __post_init__(self) -> None:
        _check_counts(self, nodes=1, cells=1)

    def integrate(self, integrand: Integrand, like: Tensor, low: float, high: float) -> Integral:
        """One batched evaluation of all nodes."""
        times, weights = gauss_legendre(self.nodes)
        starts = np.arange(self.cells)[:, None] / self.cells
        times = (starts + times / self.cells).reshape(-1)
        weights = np.tile(weights / self.cells, self.cells)
        value = _weighted(integrand, like, low, high, times, weights)
        return Integral(value, None, len(times))


@dataclass(frozen=True)
class ClenshawCurtis(Rule):
    """Nested Chebyshev points, doubled until two sums agree; each is used again by the next.

    Args:
        tolerance: what two following sums may differ by, absolutely, over all of [0, 1].
        max_nodes: where to stop in any case.

    Source: Clenshaw, Curtis, "A Method for Numerical Integration on an Automatic Computer" (1960),
    https://doi.org/10.1007/BF01386223

    Example:
        >>> time = torch.tensor(0.0, dtype=torch.float64)
        >>> found = ClenshawCurtis(1e-9).integrate(lambda t: t.exp(), time, 0.0, 1.0)
        >>> bool(abs(found.value - torch.e + 1) < 1e-9), found.nodes
        (True, 17)
    """

    tolerance: float = 1e-6
    max_nodes: int = 513

    def __post_init__(self) -> None:
        _check_tolerance(self)
        _check_counts(self, max_nodes=5)

    def integrate(self, integrand: Integrand, like: Tensor, low: float, high: float) -> Integral:
        """From 5 nodes on."""
        count = 4
        values = integrand(_times(_chebyshev(count), like, low, high))
        before, error = _sum(values, _clenshaw_curtis(count), high - low), math.inf
        while True:
            if 2 * count + 1 > self.max_nodes:
                return Integral(before, error, count + 1, reached=False)
            count *= 2
            fresh = integrand(_times(_chebyshev(count)[1::2], like, low, high))
            values = _interleaved(values, fresh)
            after = _sum(values, _clenshaw_curtis(count), high - low)
            error = _largest(after - before)
            if error <= self.tolerance * (high - low):
                return Integral(after, error, count + 1)
            before = after


@dataclass(frozen=True)
class GaussKronrod(Rule):
    """7 Gauss and 15 Kronrod nodes; the worst part is halved until the errors are small enough.

    The estimate of a part's error is the difference of its two sums, the largest over the batch,
    which shares the parts. It is pessimistic: the true error of the longer sum is far smaller.

    Args:
        tolerance: absolute, for the integral over all of [0, 1].
        max_cells: parts at the most.

    Source: Piessens et al., "QUADPACK" (1983), https://doi.org/10.1007/978-3-642-61786-7

    Example:
        >>> time = torch.tensor(0.0, dtype=torch.float64)
        >>> found = GaussKronrod(1e-9).integrate(lambda t: t.sqrt(), time, 0.0, 1.0)
        >>> bool(abs(found.value - 2 / 3) < 1e-9), found.reached
        (True, True)
    """

    tolerance: float = 1e-6
    max_cells: int = 200

    def __post_init__(self) -> None:
        _check_tolerance(self)
        _check_counts(self, max_cells=1)

    def integrate(self, integrand: Integrand, like: Tensor, low: float, high: float) -> Integral:
        """All parts that are too rough are halved in one batched evaluation."""
        done: list[tuple[Tensor, float]] = []
        cells, nodes = [(low, high)], 0
        while True:
            found = _kronrod(integrand, like, cells)
            nodes += 15 * len(cells)
            # of the tolerance, which is that of all of [0, 1], each part gets its length's share
            rough = [
                not error <= self.tolerance * (end - start)
                for (start, end), (_, error) in zip(cells, found, strict=True)
            ]
            everything = [*done, *found]
            error = sum(error for _, error in everything)
            allowed = self.tolerance * (high - low)
            settled = not any(rough) or error <= allowed
            if settled or len(everything) + sum(rough) > self.max_cells:
                value = torch.stack([value for value, _ in everything]).sum(0)
                return Integral(value, error, nodes, reached=bool(error <= allowed))
            done += [one for one, is_rough in zip(found, rough, strict=True) if not is_rough]
            split = [cell for cell, is_rough in zip(cells, rough, strict=True) if is_rough]
            cells = [half for cell in split for half in _halved(cell)]


def _halved(cell: tuple[float, float]) -> tuple[tuple[float, float], tuple[float, float]]:
    start, end = cell
    middle = (start + end) / 2
    return (start, middle), (middle, end)


def _kronrod(
    integrand: Integrand, like: Tensor, cells: list[tuple[float, float]]
) -> list[tuple[Tensor, float]]:
    """Integral and error of each cell."""
    times, weights, gauss = gauss_kronrod()
    ends = np.array(cells)
    every = (ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * times).reshape(-1)
    values = integrand(torch.tensor(every, dtype=torch.float64).to(like)).unflatten(
        0, (len(cells), len(times))
    )
    found = []
    for (start, end), part in zip(cells, values, strict=True):
        value = _sum(part, weights, end - start)
        short = _sum(part[1::2], gauss, end - start)
        error = _largest(value - short)
        found.append((value, error))
    return found


def _largest(error: Tensor) -> float:
    return float(error.detach().abs().max()) if error.numel() else 0.0


def _weighted(
    integrand: Integrand, like: Tensor, low: float, high: float, times: np.ndarray, w: np.ndarray
) -> Tensor:
    return _sum(integrand(_times(times, like, low, high)), w, high - low)


def _times(times: np.ndarray, like: Tensor, low: float, high: float) -> Tensor:
    """Nodes computed in float64, and only then rounded."""
    return torch.tensor(low + (high - low) * times, dtype=torch.float64).to(like)


def _sum(values: Tensor, weights: np.ndarray, length: float) -> Tensor:
    scaled = torch.tensor(length * weights, dtype=torch.float64).to(values)
    return torch.tensordot(scaled, values, dims=([0], [0]))


def _interleaved(old: Tensor, new: Tensor) -> Tensor:
    """a₀ b₀ a₁ b₁ … a_k."""
    pairs = torch.stack([old[:-1], new], dim=1).flatten(0, 1)
    return torch.cat([pairs, old[-1:]])


@cache
def gauss_legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2


@cache
def _chebyshev(count: int) -> np.ndarray:
    """The count + 1 extreme points on [0, 1]."""
    return (1 - np.cos(np.pi * np.arange(count + 1) / count)) / 2


@cache
def _clenshaw_curtis(count: int) -> np.ndarray:
    """Their weights, for an even count."""
    angles = np.pi * np.arange(count + 1) / count
    total = np.ones(count + 1)
    for k in range(1, count // 2 + 1):
        factor = 1.0 if 2 * k == count else 2.0
        total -= factor * np.cos(2 * k * angles) / (4 * k * k - 1)
    weights = total / count
    weights[[0, -1]] /= 2
    return weights


@cache
def gauss_kronrod() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """15 nodes on [0, 1], their weights, and those of the 7 Gauss nodes, every second one.

    The Kronrod nodes are the roots of the Stieltjes polynomial of degree 8, which is orthogonal to
    all lower degrees with the Legendre polynomial P₇ as weight; the weights follow from exactness.
    """
    legendre = np.polynomial.legendre
    nodes, weights = legendre.leggauss(40)
    basis = legendre.legvander(nodes, 8)
    seventh = basis[:, 7]
    moments = basis[:, :8].T @ (weights[:, None] * seventh[:, None] * basis)
    kernel = np.linalg.svd(moments)[2][-1]  # the one combination of degree 8 in the null space
    ends = np.sort(np.concatenate([legendre.legroots(kernel).real, legendre.leggauss(7)[0]]))
    ends = (ends - ends[::-1]) / 2  # symmetric, but for rounding
    exact = np.zeros(15)
    exact[0] = 2.0
    kronrod = np.linalg.solve(legendre.legvander(ends, 14).T, exact)
    return (ends + 1) / 2, kronrod / 2, legendre.leggauss(7)[1] / 2


def _check_counts(rule: Rule, **least: int) -> None:
    for name, smallest in least.items():
        value = getattr(rule, name)
        if not (isinstance(value, int) and value >= smallest):
            raise InputError(f"{type(rule).__name__}({name}={value!r}) must be {smallest} or more.")


def _check_tolerance(rule: GaussKronrod | ClenshawCurtis) -> None:
    if not rule.tolerance > 0:
        raise InputError(
            f"{type(rule).__name__}(tolerance={rule.tolerance}) is not positive; use 1e-6."
        )
