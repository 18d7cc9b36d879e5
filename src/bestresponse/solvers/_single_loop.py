"""One step a call towards an answer that moves."""

from __future__ import annotations

from dataclasses import dataclass

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
from bestresponse.solvers._precondition import check_linear

_FAR = 100.0  # a residual this many times longer than b belongs to no approximation
_OVERSHOT = 0.5  # residuals that point back by this much tell of steps too long, not of noise
_KEPT = 0.9  # of what earlier calls have seen; a single call could not tell it from noise
_GROWTH = 1.001  # of a step in no doubt, to make up for doubts that were noise after all
_NUMBERS = ("rate", "back", "past")


@dataclass(frozen=True)
class SingleLoop(IterativeSolver):
    """A⁻¹b followed from call to call: q := q + lr·(b − Aq), one product, on today's batch.

    For a hypergradient at every training step: the answer changes little in between, so that the
    step of the last call goes on in this one; `Nested` carries q. By itself, without a memory, it
    is lr·b. With a preconditioner M the step is lr·M(b − Aq).

    A step without `lr` begins as the best one along b, 1/(its Rayleigh quotient). Steeper
    curvature shows at the next calls, as residuals that point back along the steps before them:
    the last step is then shortened after the fact, and lr with it, at no product. Otherwise lr
    grows, by a thousandth a call. (To believe the steepest quotient ever seen would be wrong:
    those of batch noise are around 1/lr, and the largest of many is larger, without end.)

    Args:
        lr: step size; below 2 / (largest eigenvalue of A, or of MA), half of that with noise.
            It says `diverging` when the residual grows far. None finds it.
        preconditioner: M, a linear one: `KFAC(...)`, `Nystrom(...)`, `Scale(...)`.

    The relative residual in the stats is that of q before its step.

    Source: Dagréou, Ablin, Vaiter, Moreau, "A Framework for Bilevel Optimization That Enables
    Stochastic and Global Variance Reduction Algorithms" (2022), https://arxiv.org/abs/2201.13409

    Example:
        >>> from bestresponse.operators import Diagonal
        >>> from bestresponse.solvers import linear_solve
        >>> A, solver = Diagonal(torch.tensor([1.0])), SingleLoop(lr=0.5)
        >>> first = linear_solve(A, torch.ones(1), solver)
        >>> linear_solve(A, torch.ones(1), solver, memory=first.memory).value  # 0.5·(1 + ½)
        tensor([0.7500])
    """

    lr: float | None = None
    preconditioner: Solver | None = None
    max_steps = 1
    rtol = None
    stochastic = True
    atol = None
    warm_start = True
    traced = ("relative", "quotient")

    def __post_init__(self) -> None:
        check_settings(self)
        check_linear(self)
        if self.lr is not None and not self.lr > 0:
            raise InputError(f"SingleLoop(lr={self.lr}) is not positive; use a small one, or None.")

    def start(self, system: System, memory: Memory) -> State:
        """The carried answer and its residual, which is this call's product."""
        value, residual = system.start()
        state: State = {
            "value": value,
            "residual": residual,
            "direction": residual if system.inverse is None else system.inverse.mv(residual),
            "quotient": _quotient(value, system.vector - residual),
        }
        if self.lr is not None:
            state["rate"] = residual.new_tensor(self.lr)
        elif system.guess is None or "rate" not in memory:
            state |= _first_rate(system, state)
        else:
            state |= _shortened(state, memory)
        norm = state["residual"].norm()
        relative = norm / system.vector.norm()
        # nothing to correct, or nothing to correct it by
        exact = torch.where(norm == 0, int(Status.converged), int(Status.running))
        return {**state, "residual_norm": norm, "relative": relative, "status": exact}

    def step(self, system: System, state: State) -> State:
        """The one step."""
        # what has come to rest has a residual of zero, and moves by nothing
        return {**state, "value": move(state["value"], state["direction"], state["rate"])}

    def judge(self, trace: Trace) -> tuple[Result, dict[str, float | None]]:
        """Whether the residual is far longer than b, and the answer's Rayleigh quotient."""
        quotient = trace["quotient"][0]
        stats = {"smallest_curvature": None if quotient == 0 else quotient}
        if trace["relative"][0] > _FAR:
            return Result.diverging, {**stats}
        return (Result.negative_curvature if quotient < 0 else Result.success), {**stats}

    def keep(self, state: State, memory: Memory) -> Memory:
        """The answer, and the step that led to it."""
        kept = super().keep(state, memory)
        if self.lr is not None:
            return kept
        numbers = torch.stack([state[name] for name in _NUMBERS]).tolist()
        step = dict(zip(_NUMBERS, numbers, strict=True))
        if not step["rate"]:  # there was no step: the next call is the first
            return {}
        return {**kept, **step, "residual": state["residual"], "direction": state["direction"]}


def _quotient(vector: Tensor, image: Tensor) -> Tensor:
    """The Rayleigh quotient; zero for a vector of zeros."""
    square = vector @ vector
    return torch.where(square > 0, vector @ image / square, 0)


def _first_rate(system: System, state: State) -> State:
    """The best step along the first direction; zero where there is none."""
    direction = state["direction"]
    image = system.operator.mv(direction)
    curvature = direction @ image
    best = (state["residual"] @ direction / curvature).abs()
    best = torch.where(curvature.isfinite(), best, torch.nan)  # to be reported, not a step of zero
    return {
        "rate": torch.where(curvature == 0, 0, best),
        "back": torch.zeros_like(best),
        "past": torch.zeros_like(best),
        "quotient": _quotient(direction, image),
    }


def _shortened(state: State, memory: Memory) -> State:
    """The carried answer, by the share of its last step that was not too long.

    With r the residual before that step, along z, the residual after it is (I − lr·AM)r for a
    system at rest, so that rᵀz/(r − rₙₑw)ᵀz is the best share of it: both ends are known, and so
    is what lies between.
    """
    value, residual, direction = state["value"], state["residual"], state["direction"]
    last, last_direction = memory["residual"].to(value), memory["direction"].to(value)
    along, whole = residual @ last_direction, last @ last_direction
    back, past = _KEPT * memory["back"] + along, _KEPT * memory["past"] + whole
    overshot = back < -_OVERSHOT * past
    undo = overshot & (along < -_OVERSHOT * whole)
    share = torch.where(undo, whole / (whole - along), 1)
    return {
        "value": move(value, last_direction, (share - 1) * memory["rate"]),
        "residual": torch.lerp(last, residual, share),
        "direction": torch.lerp(last_direction, direction, share),
        "rate": torch.where(overshot, past / (past - back), _GROWTH) * memory["rate"],
        "back": torch.where(overshot, 0, back),
        "past": torch.where(overshot, 0, past),
    }
