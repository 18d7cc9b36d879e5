"""Inverses by damped Newton steps, a batch at a time, each sample with its own end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._result import Result, Solution, SolveError, Stats

Map = Callable[[Tensor], Tensor]

_HALVINGS = 40
_STEEPEST = 1e4  # times as long as 1 + ‖y‖ may ‖J‖‖x‖ be to excuse a residual
_CLOSE = 0.75  # power of machine epsilon that a residual may be left with


@dataclass(frozen=True)
class Roots:
    """Where a search ended.

    Attributes:
        value: x, (..., n).
        converged: whether each f(x) is y, (...).
        steps: of the longest search.
        evaluations: of f, a batch at a time.
    """

    value: Tensor
    converged: Tensor
    steps: int
    evaluations: int


def newton(function: Map, jacobian: Map, y: Tensor, guess: Tensor, max_steps: int = 100) -> Roots:
    """Solve f(x) = y by Newton steps, halved until ‖f(x) − y‖ falls.

    Where the Jacobian is nowhere singular and ‖f‖ grows without bound, as for strongly monotone f,
    every start leads to the solution. A sample rests where no step makes it better.

    Args:
        function: f, of (..., n).
        jacobian: (..., n, n).
        y: (..., n).
        guess: where to start, (..., n).
        max_steps: Newton steps at the most.
    """
    with torch.no_grad():
        x = guess.detach().clone()
        residual = function(x) - y
        length, active = _length(residual), torch.ones(x.shape[:-1], dtype=torch.bool)
        active = active.to(x.device)
        steps = evaluations = 0
        while steps < max_steps and bool(active.any()):
            steps += 1
            move = solve(jacobian(x), residual)
            share = torch.ones_like(length)
            waiting = active.clone()
            for _ in range(_HALVINGS):
                trial = x - share[..., None] * move
                found = function(trial) - y
                evaluations += 1
                nearer = waiting & (_length(found) < length)
                x = torch.where(nearer[..., None], trial, x)
                residual = torch.where(nearer[..., None], found, residual)
                waiting = waiting & ~nearer
                length = torch.where(nearer, _length(found), length)
                if not bool((waiting & (length > _floor(y))).any()):
                    break
                share = torch.where(waiting, share / 2, share)
            active = active & ~waiting & (length > 0)
        reach = jacobian(x).flatten(-2).norm(dim=-1) * x.norm(dim=-1)
        return Roots(x, is_close(residual, y, reach), steps, evaluations + 1)


def solve(matrices: Tensor, vectors: Tensor) -> Tensor:
    """M⁻¹v for each of a batch, (..., n); not a number for a singular M."""
    found, failed = torch.linalg.solve_ex(matrices, vectors[..., None])
    return torch.where((failed == 0)[..., None], found[..., 0], torch.nan)


def is_close(residual: Tensor, y: Tensor, reach: Tensor | float = 0.0) -> Tensor:
    """Whether f(x) is y, up to what rounding leaves.

    Args:
        residual: f(x) − y, (..., n).
        y: (..., n).
        reach: ‖J‖‖x‖, (...): rounding x moves f(x) by so many units of the last place.
    """
    rounding, unit = torch.finfo(y.dtype).eps, 1 + y.norm(dim=-1)
    reach = torch.minimum(torch.as_tensor(reach).to(unit), _STEEPEST * unit)
    return _length(residual) <= rounding**_CLOSE * unit + 8 * rounding * reach


def _length(residual: Tensor) -> Tensor:
    return residual.norm(dim=-1).nan_to_num(torch.inf)


def _floor(y: Tensor) -> Tensor:
    """Below it a residual is rounding, and no step is looked for."""
    return 4 * torch.finfo(y.dtype).eps * (1 + y.norm(dim=-1))


def attached(x: Tensor, y: Tensor, function: Map, jacobian: Map) -> Tensor:
    """The answer x on a graph that is twice differentiable.

    Two Newton steps that move x by nothing: the first has the inverse's derivative,
    ∂x = J⁻¹(∂y − ∂f), the second, with J on the graph too, also its second one.
    """
    if not torch.is_grad_enabled():
        return x
    x = x.detach()
    with torch.no_grad():
        slopes = jacobian(x)
    residual = function(x) - y
    if not residual.requires_grad:
        return x
    once = x - solve(slopes, residual - residual.detach())
    residual = function(once) - y
    return once - solve(jacobian(once), residual - residual.detach())


def solution(
    value: Tensor, converged: Tensor, residual: Tensor, steps: int, evaluations: int, *, throw: bool
) -> Solution:
    """A batch of inverses with how it ended; raised if `throw` and some are missing."""
    missing = int((~converged).sum())
    result = Result.no_inverse if missing else Result.success
    relative = residual.detach().norm(dim=-1) / (1 + value.detach().norm(dim=-1))
    worst = float(relative.max()) if relative.numel() else 0.0
    if missing and throw:
        first = int((~converged).reshape(-1).nonzero()[0])
        raise SolveError(
            result,
            f"({missing} of {converged.numel()} are missing, the first is number {first}; "
            f"largest relative residual {worst:.2g})",
        )
    return Solution(value, result, Stats(steps, evaluations, worst), converged=converged)


def newton_solution(
    function: Map, jacobian: Map, y: Tensor, guess: Tensor, *, throw: bool, before: int = 0
) -> Solution:
    """The x with f(x) = y by Newton steps, on a graph, with how it ended.

    Args:
        function: f, of (..., n).
        jacobian: (..., n, n).
        y: (..., n).
        guess: where to start, (..., n).
        throw: raise where some x was not found.
        before: steps, of one evaluation each, that led to the guess.
    """
    found = newton(function, jacobian, y, guess)
    x = attached(found.value, y, function, jacobian)
    with torch.no_grad():
        residual = function(x) - y
    steps, evaluations = found.steps + before, found.evaluations + before
    return solution(x, found.converged, residual, steps, evaluations, throw=throw)
