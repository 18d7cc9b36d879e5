"""Conjugate gradients: preconditioned, flexible, warm-started, deflated."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from bestresponse._result import Memory, Result
from bestresponse.solvers._base import (
    IterativeSolver,
    Solver,
    State,
    Status,
    System,
    Trace,
    check_settings,
    check_whole,
    move,
)
from bestresponse.solvers._lanczos import extremes, ritz_values
from bestresponse.solvers._recycle import Deflated, recycled


@dataclass(frozen=True)
class CG(IterativeSolver):
    """A⁻¹b by conjugate gradients: the best answer in the Krylov space of `max_steps` products.

    It stops at a direction of negative curvature and returns the iterate so far (where it started,
    if it is met at the first product); an iterate at working precision is frozen instead of
    iterated into rounding noise. With a preconditioner that is itself an inner solve it is
    flexible: directions are made conjugate to the last one whatever the preconditioner did.

    Args:
        max_steps: products at the most. Without a tolerance, spending them is success.
        rtol: stop when ‖r‖ ≤ rtol·‖b‖.
        atol: stop when ‖r‖ ≤ atol.
        preconditioner: `KFAC(...)`, `Nystrom(...)` or any other solver, applied once a product.
        warm_start: start from the answer of the last call (one product more for its residual);
            `Nested` carries it. Changes the cost, not the limit.
        recycle: deflate by so many Ritz vectors of the last calls' Krylov spaces; takes twice that
            many vectors of memory.

    Source: Hestenes, Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems" (1952),
    https://doi.org/10.6028/jres.049.044; flexible: Golub, Ye, "Inexact Preconditioned Conjugate
    Gradient Method with Inner-Outer Iteration" (1999), https://doi.org/10.1137/S1064827597323415

    Example:
        >>> from bestresponse.operators import Diagonal
        >>> from bestresponse.solvers import linear_solve
        >>> A = Diagonal(torch.tensor([1.0, 2.0, 4.0]))
        >>> linear_solve(A, torch.ones(3), CG(rtol=1e-6)).stats.steps
        3
    """

    max_steps: int = 20
    rtol: float | None = None
    atol: float | None = None
    preconditioner: Solver | None = None
    warm_start: bool = False
    recycle: int = 0
    traced = ("alpha", "beta", "quotient")

    def __post_init__(self) -> None:
        check_settings(self)
        check_whole(self, 0, "recycle")

    def prepare(self, system: System, memory: Memory) -> System:
        """The last answer as a guess, and the last Krylov spaces' Ritz vectors in M."""
        system = super().prepare(system, memory)
        pairs = self._pairs(memory, system.vector)
        if not pairs:
            return system
        return replace(system, inverse=Deflated(system.inverse, **pairs))

    def _pairs(self, memory: Memory, like: Tensor) -> dict[str, Tensor]:
        """The Ritz vectors of earlier solves and their images, if they fit this one."""
        pairs = memory.get("ritz", {}) if self.recycle else {}
        if not pairs or pairs["vectors"].shape[1] != len(like):
            return {}
        return {name: side.to(like) for name, side in pairs.items()}

    def start(self, system: System, memory: Memory) -> State:
        """The guess and its residual: without a guess, zero and b."""
        value, residual = system.start_from(_lowest)
        square = residual @ residual
        floor = (system.vector @ system.vector) * torch.finfo(residual.dtype).eps ** 2
        nothing = torch.zeros_like(square)
        return {
            "value": value,
            "residual": residual,
            "direction": None,
            "energy": nothing,
            "floor": floor,
            "residual_norm": square.sqrt(),
            "alpha": nothing,
            "beta": nothing,
            "quotient": nothing,
            "status": torch.where(square <= floor, int(Status.converged), int(Status.running)),
            "pairs": [],
        }

    def step(self, system: System, state: State) -> State:
        """The minimizer along one more conjugate direction."""
        # formed here and not at the end of the last step, which would apply M once more than needed
        direction, energy, beta = _next_direction(system, state)
        image = system.operator.mv(direction)
        curvature = direction @ image
        if len(state["pairs"]) < self.recycle:
            state["pairs"].append((direction.clone(), image.clone()))
        # what is not finite goes on, to be reported as such
        convex = ~((curvature <= 0) & curvature.isfinite())
        definite = ~((energy <= 0) & energy.isfinite())
        running = state["status"] == Status.running
        moves = running & convex & definite
        # rᵀp = rᵀMr, but for rounding, which a flexible M would let grow
        descent = state["residual"] @ direction if system.flexible else energy
        alpha = torch.where(moves, descent / torch.where(moves, curvature, 1), 0)
        residual = move(state["residual"], image, -alpha)
        square = torch.where(moves, residual @ residual, state["residual_norm"] ** 2)
        return {
            **state,
            "value": move(state["value"], direction, alpha),
            "residual": residual,
            "quotient": curvature / (direction @ direction),
            "direction": direction,
            "image": image if system.flexible else None,
            "curvature": curvature,
            "energy": energy,
            "residual_norm": square.sqrt(),
            "alpha": alpha,
            "beta": beta,
            "status": torch.where(
                running, _ended(convex, definite, square <= state["floor"]), state["status"]
            ),
        }

    def judge(self, trace: Trace) -> tuple[Result, dict[str, float | None]]:
        """Extreme Ritz values, from the Lanczos matrix that CG builds in passing."""
        quotients = trace["quotient"][1:]  # also where the step was refused
        whole = self.preconditioner is None and not self.recycle
        return Result.success, extremes(quotients, _ritz_values(trace) if whole else None)

    def keep(self, state: State, memory: Memory) -> Memory:
        """The answer, and Ritz vectors of this and the earlier Krylov spaces."""
        kept = super().keep(state, memory)
        pairs = self._pairs(memory, state["value"])
        if state["pairs"]:
            directions, images = (torch.stack(side) for side in zip(*state["pairs"], strict=True))
            pairs = recycled(pairs, directions, images, self.recycle)
        return {**kept, "ritz": pairs} if pairs else kept


def _lowest(guess: Tensor, image: Tensor, vector: Tensor) -> Tensor:
    """The multiple of q at which ½qᵀAq − bᵀq is lowest; none where it has no minimum."""
    curvature = guess @ image
    return torch.where(curvature > 0, (guess @ vector) / curvature, 0)


def _ended(convex: Tensor, definite: Tensor, exact: Tensor) -> Tensor:
    ended = torch.where(exact, int(Status.converged), int(Status.running))
    ended = torch.where(definite, ended, int(Status.preconditioner_indefinite))
    return torch.where(convex, ended, int(Status.negative_curvature))


def _next_direction(system: System, state: State) -> tuple[Tensor, Tensor, Tensor]:
    """The direction conjugate to the last one, rᵀMr, and the share of the last one in it."""
    residual, last = state["residual"], state["direction"]
    if last is None:
        direction = system.precondition(residual)
        return direction, residual @ direction, state["beta"]
    conditioned = residual if system.inverse is None else system.inverse.mv(residual)
    energy = residual @ conditioned
    if system.flexible:
        beta = -(conditioned @ state["image"]) / state["curvature"]
    else:
        beta = energy / state["energy"]
    beta = torch.where(state["status"] == Status.running, beta, 0)
    return last.mul_(beta).add_(conditioned), energy, beta


def _ritz_values(trace: Trace) -> list[float]:
    """Those of the Lanczos matrix, which the step lengths determine."""
    pairs = list(zip(trace["alpha"], trace["beta"], strict=True))
    steps = [(alpha, beta) for alpha, beta in pairs if alpha > 0]
    diagonal = [1 / alpha for alpha, _ in steps]
    beside = []
    for i, ((alpha, _), (_, beta)) in enumerate(pairwise(steps)):
        diagonal[i + 1] += beta / alpha
        beside.append(math.sqrt(beta) / alpha)
    return ritz_values(diagonal, beside)
