"""Minimal residuals: for a curvature that is not positive definite."""

from __future__ import annotations

from dataclasses import dataclass

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
    move,
)
from bestresponse.solvers._lanczos import extremes, ritz_values
from bestresponse.solvers._precondition import check_linear

_ROUNDING = 10.0  # so many rounding errors are no number


@dataclass(frozen=True)
class MINRES(IterativeSolver):
    """A⁻¹b by minimal residuals: the smallest ‖b − Aq‖ in the Krylov space of `max_steps` products.

    For symmetric systems that may be indefinite or singular: where `CG` stops at a direction of
    negative curvature, this goes on to the stationary point. With a preconditioner M what is
    smallest is rᵀMr; the residual it reports and stops at is the Euclidean one all the same.

    Args:
        max_steps: products at the most. Without a tolerance, spending them is success.
        rtol: stop when ‖r‖ ≤ rtol·‖b‖.
        atol: stop when ‖r‖ ≤ atol.
        preconditioner: M, linear and positive definite: `KFAC(...)`, `Nystrom(...)`, `Scale(...)`.
        warm_start: start from the answer of the last call (one product more for its residual);
            `Nested` carries it. Changes the cost, not the limit.

    Source: Paige, Saunders, "Solution of Sparse Indefinite Systems of Linear Equations" (1975),
    https://doi.org/10.1137/0712047

    Example:
        >>> from bestresponse.operators import Diagonal
        >>> from bestresponse.solvers import linear_solve
        >>> A = Diagonal(torch.tensor([2.0, -1.0]))
        >>> linear_solve(A, torch.ones(2), MINRES(max_steps=2)).value
        tensor([ 0.5000, -1.0000])
    """

    max_steps: int = 20
    rtol: float | None = None
    atol: float | None = None
    preconditioner: Solver | None = None
    warm_start: bool = False
    traced = ("diagonal", "coupling", "quotient")

    def __post_init__(self) -> None:
        check_settings(self)
        check_linear(self)

    def start(self, system: System, memory: Memory) -> State:
        """The guess, its residual as the first Lanczos vector, and no rotation yet."""
        value, residual = system.start_from(_nearest)
        basis = residual.clone()
        conditioned = basis if system.inverse is None else system.inverse.mv(basis)
        square, energy = residual @ residual, basis @ conditioned
        rounding = (_ROUNDING * torch.finfo(residual.dtype).eps) ** 2
        whole = system.vector @ system.vector
        one, nothing = torch.ones_like(square), torch.zeros_like(square)
        indefinite = (energy <= 0) & energy.isfinite()
        status = torch.where(indefinite, int(Status.preconditioner_indefinite), int(Status.running))
        return {
            "value": value,
            "residual": residual,
            "basis": basis,  # Lanczos vectors, this and the last, of length `coupling` in M
            "basis_before": torch.zeros_like(basis),
            "conditioned": conditioned,
            "direction": torch.zeros_like(basis),  # along which the value moves, likewise
            "direction_before": torch.zeros_like(basis),
            "coupling": energy.clamp(min=0).sqrt(),
            "coupling_before": one,
            "cosine": one,
            "cosine_before": one,
            "sine": nothing,
            "sine_before": nothing,
            "remaining": energy.clamp(min=0).sqrt(),  # the residual's length in M, signed
            "scale": nothing,  # the largest entry of the Lanczos matrix, and of A's quotients
            "steepest": nothing,
            "diagonal": nothing,
            "quotient": nothing,
            "vector_norm": whole.sqrt(),
            "floor": whole * rounding,
            "residual_norm": square.sqrt(),
            "status": torch.where(square <= whole * rounding, int(Status.converged), status),
        }

    def step(self, system: System, state: State) -> State:
        """One more Lanczos vector, one more rotation, one more direction."""
        image = system.operator.mv(state["conditioned"])
        lanczos, definite = _lanczos(system, state, image)
        rotation, moves, regular = _rotated(state, lanczos, definite)
        direction = _direction(state, rotation)
        length = rotation["cosine"] * state["remaining"]
        value = move(state["value"], direction, torch.where(moves, length, 0))
        # r := sine²·r − (cosine·remaining/pivot)·v needs no product
        residual = state["residual"].mul_(torch.where(moves, rotation["sine"] ** 2, 1))
        residual = move(residual, lanczos["basis"], -length * rotation["inverse_pivot"])
        square = torch.where(moves, residual @ residual, state["residual_norm"] ** 2)
        remaining = torch.where(moves, -rotation["sine"] * state["remaining"], 0)
        ended = torch.where(square <= state["floor"], int(Status.converged), int(Status.running))
        ended = torch.where(regular, ended, int(Status.breakdown))
        ended = torch.where(definite, ended, int(Status.preconditioner_indefinite))
        running = state["status"] == Status.running
        return {
            **state,
            **lanczos,
            "value": value,
            "residual": residual,
            "direction": direction,
            "direction_before": state["direction"],
            "cosine": rotation["cosine"],
            "cosine_before": state["cosine"],
            "sine": rotation["sine"],
            "sine_before": state["sine"],
            "remaining": remaining,
            "residual_norm": square.sqrt(),
            "status": torch.where(running, ended, state["status"]),
        }

    def judge(self, trace: Trace) -> tuple[Result, dict[str, float | None]]:
        """Extreme Ritz values; with a preconditioner, Rayleigh quotients of A."""
        whole = self.preconditioner is None
        values = ritz_values(trace["diagonal"][1:], trace["coupling"][1:-1]) if whole else None
        return Result.success, extremes(trace["quotient"][1:], values)


def _nearest(guess: Tensor, image: Tensor, vector: Tensor) -> Tensor:
    """The multiple of q at which ‖b − Aq‖ is least."""
    return vector @ image / (image @ image)


def _lanczos(system: System, state: State, image: Tensor) -> tuple[State, Tensor]:
    """The next Lanczos vector, and whether M is positive on it."""
    conditioned, basis, coupling = state["conditioned"], state["basis"], state["coupling"]
    inverse = _inverse(coupling)
    energy = conditioned @ image
    diagonal = energy * inverse**2
    following = state["basis_before"].mul_(-coupling * _inverse(state["coupling_before"]))
    following = move(following, image, inverse)
    following = move(following, basis, -diagonal * inverse)
    if system.inverse is None:
        next_conditioned, quotient = following, diagonal
    else:
        next_conditioned = system.inverse.mv(following)
        quotient = energy / (conditioned @ conditioned)
    square = following @ next_conditioned
    next_coupling = square.clamp(min=0).sqrt()
    scale = torch.maximum(state["scale"], torch.maximum(diagonal.abs(), next_coupling))
    # at the end of the Krylov space what is left is rounding, of either sign
    rounding = torch.finfo(image.dtype).eps * scale
    lanczos = {
        "basis": following,
        "basis_before": basis,
        "conditioned": next_conditioned,
        "coupling": next_coupling,
        "coupling_before": coupling,
        "diagonal": diagonal,
        "quotient": quotient,
        "scale": scale,
        "steepest": torch.maximum(state["steepest"], quotient.abs()),
    }
    return lanczos, ~((square < -(rounding**2)) & square.isfinite())


def _rotated(state: State, lanczos: State, definite: Tensor) -> tuple[State, Tensor, Tensor]:
    """The next rotation, whether it moves the iterate, and whether the system looks regular.

    It does not where the residual has no image, Ar = 0, and so nothing makes it smaller; nor where
    the iterate is so long that the rounding of its image is about as long as b.
    """
    cosine, cosine_before = state["cosine"], state["cosine_before"]
    sine, coupling, diagonal = state["sine"], state["coupling"], lanczos["diagonal"]
    left = cosine * diagonal - cosine_before * sine * coupling
    pivot = torch.hypot(left, lanczos["coupling"])
    image = torch.hypot(left, cosine * lanczos["coupling"])  # ‖Ar‖/‖r‖, in M
    rounding = _ROUNDING * torch.finfo(pivot.dtype).eps
    too_long = rounding * lanczos["steepest"] * state["value"].norm() > state["vector_norm"]
    # what is not finite goes on, to be reported
    regular = ~((image <= rounding * lanczos["scale"]) | too_long)
    moves = (state["status"] == Status.running) & definite & regular
    inverse_pivot = torch.where(moves, 1 / pivot, 0)
    rotation = {
        "inverse_pivot": inverse_pivot,
        "cosine": left * inverse_pivot,
        "sine": lanczos["coupling"] * inverse_pivot,
        "above": sine * diagonal + cosine_before * cosine * coupling,
        "far_above": state["sine_before"] * coupling,
    }
    return rotation, moves, regular


def _direction(state: State, rotation: State) -> Tensor:
    """The next direction, in the memory of the one before the last."""
    inverse_pivot = rotation["inverse_pivot"]
    direction = state["direction_before"].mul_(-rotation["far_above"] * inverse_pivot)
    direction = move(direction, state["direction"], -rotation["above"] * inverse_pivot)
    return move(direction, state["conditioned"], inverse_pivot * _inverse(state["coupling"]))


def _inverse(length: Tensor) -> Tensor:
    return torch.where(length == 0, 0, 1 / length)
