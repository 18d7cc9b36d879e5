"""Conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._result import Result
from bestresponse.operators import LinearOperator
from bestresponse.solvers._base import IterativeSolver, State, Status, Trace, check_settings, move


@dataclass(frozen=True)
class CG(IterativeSolver):
    """A⁻¹b by conjugate gradients: the best answer in the Krylov space of `max_steps` products.

    Differs from a textbook's in three points: it starts from zero; it stops at a direction of
    negative curvature and returns the iterate so far (zero, if it is met at the first product);
    and an iterate at working precision is frozen instead of iterated into rounding noise.

    Args:
        max_steps: products at the most. Without a tolerance, spending them is success.
        rtol: stop when ‖r‖ ≤ rtol·‖b‖.
        atol: stop when ‖r‖ ≤ atol.

    Source: Hestenes, Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems" (1952),
    https://doi.org/10.6028/jres.049.044

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
    traced = ("alpha", "beta")

    def __post_init__(self) -> None:
        check_settings(self)

    def start(self, operator: LinearOperator, vector: Tensor) -> State:
        """Zero, whose residual is b."""
        square = vector @ vector
        status = torch.where(square == 0, int(Status.converged), int(Status.running))
        nothing = torch.zeros_like(square)
        return {
            "value": torch.zeros_like(vector),
            "residual": vector.clone(),
            "direction": vector.clone(),
            "square": square,
            "floor": square * torch.finfo(vector.dtype).eps ** 2,
            "residual_norm": square.sqrt(),
            "alpha": nothing,
            "beta": nothing,
            "status": status,
        }

    def step(self, operator: LinearOperator, state: State) -> State:
        """The minimizer along one more conjugate direction."""
        direction, square = state["direction"], state["square"]
        image = operator.mv(direction)
        curvature = direction @ image
        # what is not finite goes on, to be reported as such
        convex = ~((curvature <= 0) & curvature.isfinite())
        running = state["status"] == Status.running
        moves = running & convex
        alpha = torch.where(moves, square / torch.where(moves, curvature, 1), 0)
        residual = move(state["residual"], image, -alpha)
        new_square = torch.where(moves, residual @ residual, square)
        beta = torch.where(moves, new_square / square, 0)
        ended = torch.where(
            convex,
            torch.where(new_square <= state["floor"], int(Status.converged), int(Status.running)),
            int(Status.negative_curvature),
        )
        return {
            "value": move(state["value"], direction, alpha),
            "residual": residual,
            "direction": direction.mul_(beta).add_(residual),
            "square": new_square,
            "floor": state["floor"],
            "residual_norm": new_square.sqrt(),
            "alpha": alpha,
            "beta": beta,
            "status": torch.where(running, ended, state["status"]),
        }

    def judge(self, trace: Trace) -> tuple[Result, dict[str, float | None]]:
        """The largest Ritz value, from the Lanczos matrix that CG builds in passing."""
        return Result.success, {"largest_curvature": _largest_ritz_value(trace)}


def _largest_ritz_value(trace: Trace) -> float | None:
    pairs = list(zip(trace["alpha"], trace["beta"], strict=True))
    steps = [(alpha, beta) for alpha, beta in pairs if alpha > 0]
    if not steps:
        return None
    alphas, betas = torch.tensor(steps, dtype=torch.float64).T
    diagonal = 1 / alphas
    diagonal[1:] += betas[:-1] / alphas[:-1]
    off = betas[:-1].sqrt() / alphas[:-1]
    lanczos = torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1)
    if not bool(torch.isfinite(lanczos).all()):
        return None
    return float(torch.linalg.eigvalsh(lanczos)[-1])
