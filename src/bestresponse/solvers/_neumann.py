"""The truncated Neumann series."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._result import Result
from bestresponse.operators import LinearOperator
from bestresponse.solvers._base import IterativeSolver, State, Status, Trace, check_settings

_FAR_TOO_LARGE = 100.0  # a term this many times longer than b is no correction any more


@dataclass(frozen=True)
class Neumann(IterativeSolver):
    """A⁻¹b ≈ lr·Σ_{j=0..K} (I − lr·A)^j b with K = `max_steps` products.

    Equal to differentiating K + 1 steps of gradient descent of size `lr` from the optimum. It
    converges when 0 < lr·λ < 2 for every eigenvalue λ of A, and says `diverging` when it does not.

    Args:
        lr: step size; below 2 / (largest eigenvalue of A).
        max_steps: products at the most.
        rtol: stop when the last term but the factor lr is ≤ rtol·‖b‖ long.
        atol: stop when it is ≤ atol long.

    Source: Lorraine, Vicol, Duvenaud, "Optimizing Millions of Hyperparameters by Implicit
    Differentiation" (2020), https://arxiv.org/abs/1911.02590

    Example:
        >>> from bestresponse.operators import Diagonal
        >>> from bestresponse.solvers import linear_solve
        >>> A = Diagonal(torch.tensor([1.0]))
        >>> linear_solve(A, torch.ones(1), Neumann(lr=0.5, max_steps=2)).value  # 0.5·(1 + ½ + ¼)
        tensor([0.8750])
    """

    lr: float
    max_steps: int = 20
    rtol: float | None = None
    atol: float | None = None
    traced = ("residual_norm", "energy")

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.lr > 0:
            raise InputError(f"Neumann(lr={self.lr}) is not positive; use the inner step size.")

    def start(self, operator: LinearOperator, vector: Tensor) -> State:
        """The first term, lr·b."""
        norm = vector.norm()
        return {
            "value": self.lr * vector,
            "term": vector.clone(),
            "residual_norm": norm,
            "energy": torch.zeros_like(norm),
            "floor": torch.finfo(vector.dtype).eps * norm,  # below it is rounding noise
            "status": torch.where(norm == 0, int(Status.converged), int(Status.running)),
        }

    def step(self, operator: LinearOperator, state: State) -> State:
        """One more term. A series that has ended only gets terms too small to matter."""
        term = state["term"]
        image = operator.mv(term)
        energy = term @ image
        term = term.add_(image, alpha=-self.lr)
        length = term.norm()
        return {
            "value": state["value"].add_(term, alpha=self.lr),
            "term": term,
            "residual_norm": length,
            "energy": energy,
            "floor": state["floor"],
            "status": (length <= state["floor"]).long(),  # False is running, True converged
        }

    def judge(self, trace: Trace) -> tuple[Result, dict[str, float | None]]:
        """Whether the terms shrink, judged by their lengths and Rayleigh quotients."""
        lengths, energies = trace["residual_norm"], trace["energy"][1:]
        if not energies or not lengths[0] > 0:  # nothing to judge, or not a number
            return Result.success, {}
        # a term's Rayleigh quotient; its length is that of the step before
        quotients = [e / n**2 for e, n in zip(energies, lengths, strict=False) if n**2 > 0]
        growth = lengths[-1] / lengths[-2] if lengths[-2] else 0.0
        shrinkage = lengths[-1] / lengths[0]
        stats: dict[str, float | None] = {
            "growth": growth,
            "largest_curvature": max(quotients) if max(quotients) > 0 else None,
        }
        # ‖(I − lr·A)p‖ ≥ |1 − lr·ρ|·‖p‖, so a Rayleigh quotient ρ above 2/lr proves divergence
        too_steep = self.lr * max(quotients) > 2
        longer = shrinkage > 1 and growth > 1 and quotients[-1] > 0
        if too_steep or longer or shrinkage > _FAR_TOO_LARGE:
            return Result.diverging, stats
        return (Result.negative_curvature if min(quotients) < 0 else Result.success), stats
