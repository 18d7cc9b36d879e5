"""Conjugate gradients: preconditioned, flexible, warm-started, deflated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._result import Memory, Result
from bestresponse.solvers._base import (
    IterativeSolver,
    Solver,
    State,
    Status,
    System,
    Trace,
    check_settings,
    move,
)
from bestresponse.solvers._recycle import Deflated, ritz


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
        if self.recycle < 0:
            raise InputError(f"CG(recycle={self.recycle}) is negative; use 0 for none.")

    def prepare(self, system: System, memory: Memory) -> System:
        """The last answer as a guess, and the last Krylov spaces' Ritz vectors in M."""
        guess = memory.get("value") if self.warm_start else None
        if guess is not None and guess.shape == system.vector.shape:
            system = replace(system, guess=guess)
        pairs = memory.get("ritz", {}) if self.recycle else {}
        if pairs and pairs["vectors"].shape[1] == len(system.vector):
            inverse = Deflated(system.inverse, pairs["vectors"], pairs["images"])
            system = replace(system, inverse=inverse)
        return system

    def start(self, system: System, memory: Memory) -> State:
        """The guess and its residual: without a guess, zero and b."""
        value, residual = system.start()
        direction = system.precondition(residual)
        square = residual @ residual
        floor = (system.vector @ system.vector) * torch.finfo(residual.dtype).eps ** 2
        nothing = torch.zeros_like(square)
        state: State = {
            "value": value,
            "residual": residual,
            "direction": direction,
            "energy": square if system.inverse is None else residual @ direction,
            "floor": floor,
            "residual_norm": square.sqrt(),
            "alpha": nothing,
            "beta": nothing,
            "quotient": nothing,
            "status": torch.where(square <= floor, int(Status.converged), int(Status.running)),
            "pairs": [],
        }
        return state

    def step(self, system: System, state: State) -> State:
        """The minimizer along one more conjugate direction."""
        direction, energy = state["direction"], state["energy"]
        image = system.operator.mv(direction)
        curvature = direction @ image
        if len(state["pairs"]) < self.recycle:
            state["pairs"].append((direction.clone(), image.clone()))
        # what is not finite goes on, to be reported as such
        convex = ~((curvature <= 0) & curvature.isfinite())
        definite = ~((energy <= 0) & energy.isfinite())
        running = state["status"] == Status.running
        moves = running & convex & definite
        alpha = torch.where(moves, energy / torch.where(moves, curvature, 1), 0)
        before = state["residual"].clone() if system.flexible else None
        residual = move(state["residual"], image, -alpha)
        square = torch.where(moves, residual @ residual, state["residual_norm"] ** 2)
        conditioned, new_energy, along = self._conditioned(system, residual, before, square)
        beta = torch.where(moves, along / torch.where(moves, energy, 1), 0)
        return {
            **state,
            "value": move(state["value"], direction, alpha),
            "residual": residual,
            "quotient": curvature / (direction @ direction),
            "direction": direction.mul_(beta).add_(conditioned),
            "energy": torch.where(moves, new_energy, energy),
            "residual_norm": square.sqrt(),
            "alpha": alpha,
            "beta": beta,
            "status": torch.where(
                running, _ended(convex, definite, square <= state["floor"]), state["status"]
            ),
        }

    @staticmethod
    def _conditioned(
        system: System, residual: Tensor, before: Tensor | None, square: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mr, rᵀMr, and the numerator of the step that makes directions conjugate."""
        if system.inverse is None:
            return residual, square, square
        conditioned = system.inverse.mv(residual)
        energy = residual @ conditioned
        return conditioned, energy, energy if before is None else energy - conditioned @ before

    def judge(self, trace: Trace) -> tuple[Result, dict[str, float | None]]:
        """Extreme Ritz values, from the Lanczos matrix that CG builds in passing."""
        if self.preconditioner is None and not self.recycle:
            smallest, largest = _extreme_ritz_values(trace)
        else:  # its Lanczos matrix is that of MA; a Rayleigh quotient is one of A
            quotients = [q for q, a in zip(trace["quotient"], trace["alpha"], strict=True) if a > 0]
            smallest, largest = (min(quotients), max(quotients)) if quotients else (None, None)
        return Result.success, {"largest_curvature": largest, "smallest_curvature": smallest}

    def keep(self, state: State, memory: Memory) -> Memory:
        """The answer, and Ritz vectors of this and the earlier Krylov spaces."""
        kept: Memory = {"value": state["value"]} if self.warm_start else {}
        if self.recycle and state["pairs"]:
            directions, images = (torch.stack(side) for side in zip(*state["pairs"], strict=True))
            earlier = memory.get("ritz", {})
            if earlier and earlier["vectors"].shape[1] == directions.shape[1]:
                directions = torch.cat([earlier["vectors"], directions])
                images = torch.cat([earlier["images"], images])
            kept["ritz"] = ritz(directions, images, self.recycle)
        return kept


def _ended(convex: Tensor, definite: Tensor, exact: Tensor) -> Tensor:
    ended = torch.where(exact, int(Status.converged), int(Status.running))
    ended = torch.where(definite, ended, int(Status.preconditioner_indefinite))
    return torch.where(convex, ended, int(Status.negative_curvature))


def _extreme_ritz_values(trace: Trace) -> tuple[float | None, float | None]:
    pairs = list(zip(trace["alpha"], trace["beta"], strict=True))
    steps = [(alpha, beta) for alpha, beta in pairs if alpha > 0]
    if not steps:
        return None, None
    alphas, betas = torch.tensor(steps, dtype=torch.float64).T
    diagonal = 1 / alphas
    diagonal[1:] += betas[:-1] / alphas[:-1]
    off = betas[:-1].sqrt() / alphas[:-1]
    lanczos = torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1)
    if not bool(torch.isfinite(lanczos).all()):
        return None, None
    values = torch.linalg.eigvalsh(lanczos)
    return float(values[0]), float(values[-1])
