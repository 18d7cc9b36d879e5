"""`agreement`: a learned best response beside the implicit one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from bestresponse._context import autograd_errors
from bestresponse._errors import InputError
from bestresponse._nested import Nested, next_problem
from bestresponse._problem import Batches, Problem
from bestresponse._purify import Batch
from bestresponse._tree import Layout, Tree, leaves_of
from bestresponse.methods import Implicit
from bestresponse.operators import Identity
from bestresponse.solvers import linear_solve

_COSINE, _LONGEST, _DISTANCE, _RESIDUAL = 0.9, 2.0, 0.2, 0.1


class Learned(Protocol):
    """A learned response that knows its weights at any hyperparameters."""

    def best_response(self, hyper: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The weights at `hyper`, both by name."""
        ...


@dataclass(frozen=True)
class Direction:
    """How the two responses move with one hyperparameter.

    Attributes:
        name: which, or which random direction of all of them.
        cosine: of the angle between the two movements of the weights.
        length: that of the learned one over that of the implicit one.
        residual: relative, of the solve that the implicit one took.
    """

    name: str
    cosine: float
    length: float
    residual: float


@dataclass(frozen=True)
class Agreement:
    """What `agreement` found; `print(agreement)` is a table that ends in one sentence.

    Attributes:
        cosine: between the two response Jacobians dw*/dλ, as vectors.
        length: of the learned one over that of the implicit one.
        hypergradient_cosine: between what the two make of the outer gradient, Jᵀ ∂L_V/∂w; along
            the directions of the table.
        distance: of the learned weights at λ from the live ones, relative.
        stationarity: length of the inner gradient over that of the outer one.
        directions: the same by hyperparameter.
        trusted: whether the learned response says what the implicit one says.
        verdict: the sentence.
    """

    cosine: float
    length: float
    hypergradient_cosine: float
    distance: float
    stationarity: float
    directions: tuple[Direction, ...]
    trusted: bool
    verdict: str

    def __str__(self) -> str:
        wide = max(len(d.name) for d in self.directions)
        lines = [f"{'hyperparameter':<{max(wide, 14)}}  cosine  length  residual"]
        lines += [
            f"{d.name:<{max(wide, 14)}}  {d.cosine:6.3f}  {d.length:6.3g}  {d.residual:8.1e}"
            for d in self.directions
        ]
        return "\n".join([*lines, self.verdict])


def agreement(
    nested: Nested,
    response: Learned | Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    inner_batch: Batch | Batches = (),
    outer_batch: Batch = (),
    *,
    directions: int = 16,
    seed: int = 0,
) -> Agreement:
    """Whether a learned response moves with the hyperparameters as the implicit one does.

    The implicit theorem gives the Jacobian of the best response at a minimum of the inner loss,
    dw*/dλ = −A⁻¹ ∂²L_T/∂w∂λ; a learned response has one by differentiating it. They are compared
    as movements of the weights, one hyperparameter at a time. It is a test of the learned response
    where the inner loss can be differentiated in λ, and where weights are near a minimum: the
    report says how near.

    Nothing of the user's changes, `nested` included.

    Args:
        nested: the problem, with `br.Implicit` as its method, over the weights that the response
            gives; of a `SelfTuning` network over those of `net.freeze()`.
        response: a `SelfTuning` network, or anything else with `best_response`, or a function from
            hyperparameters to weights; both by the names that they have in `nested`.
        inner_batch: as for a call.
        outer_batch: as for a call.
        directions: up to how many hyperparameters each is looked at by itself; of more, so many
            random directions.
        seed: of the random directions.

    Raises:
        InputError: for another method, names that do not fit, or an inner loss without λ.

    Example:
        The minimum of ½(w − λ²)² is w = λ², which moves by 2λ.

        >>> import bestresponse as br
        >>> model, knob = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
        >>> _ = model.weight.data.fill_(9.0), knob.weight.data.fill_(3.0)
        >>> nested = br.Nested(
        ...     params=model, hyper=knob,
        ...     inner=lambda: 0.5 * (model.weight - knob.weight**2).square().sum(),
        ...     outer=lambda: model.weight.square().sum(),
        ...     method=br.Implicit(br.CG()),
        ... )
        >>> tangent = lambda hyper: {"weight": 9 + 6 * (hyper["weight"] - 3)}
        >>> found = agreement(nested, tangent)
        >>> found.trusted, round(found.cosine, 3), round(found.length, 3)
        (True, 1.0, 1.0)
    """
    if not isinstance(nested.method, Implicit):
        raise InputError(
            f"agreement compares with the implicit response, not {type(nested.method).__name__}; "
            "give nested the method br.Implicit(...)."
        )
    if directions < 1:
        raise InputError(f"directions={directions} looks nowhere; use 1 or more.")
    if hasattr(response, "best_response"):
        response = response.best_response
    learned = cast("Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]", response)
    with next_problem(nested, inner_batch, outer_batch) as problem:
        named = _directions(problem.hyper, directions, seed)
        outer = problem.outer_gradients(problem.params)
        weights, theirs = _learned(learned, problem, list(named.values()))
        ours, residuals, gradient = _implicit(nested.method, problem, list(named.values()))
        flat = outer.layout.flatten(problem.params)
        return _found(
            tuple(
                Direction(name, _cosine(a, b), _length(a, b), residual)
                for name, a, b, residual in zip(named, theirs, ours, residuals, strict=True)
            ),
            (theirs, ours),
            outer.flat,
            float((weights - flat).norm() / flat.norm()),
            float(gradient.norm() / outer.flat.norm()),
        )


def _directions(hyper: Tree, most: int, seed: int) -> dict[str, Tree]:
    """Each hyperparameter, or random directions of all of them."""
    layout = Layout.of(hyper)
    if layout.size > most:
        stream = torch.Generator().manual_seed(seed)
        drawn = torch.randn(most, layout.size, generator=stream).to(layout.device, layout.dtype)
        return {f"random {i}": layout.unflatten(row) for i, row in enumerate(drawn)}
    return {
        name: layout.unflatten(row)
        for name, row in zip(_entries(hyper), layout.space.eye(), strict=True)
    }


def _entries(hyper: Tree) -> list[str]:
    """A name for each number, in the order of the flat vector."""
    return [
        name if leaf.numel() == 1 else f"{name}[{i}]"
        for name, leaf in hyper.items()
        for i in range(leaf.numel())
    ]


def _learned(
    response: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    problem: Problem,
    directions: list[Tree],
) -> tuple[Tensor, list[Tensor]]:
    """The learned weights at λ, and how they move."""
    layout, names = Layout.of(problem.params), [*problem.hyper]

    def flat(*leaves: Tensor) -> Tensor:
        weights = response(dict(zip(names, leaves, strict=True)))
        for name, leaf in problem.params.items():
            if name not in weights or weights[name].shape != leaf.shape:
                raise InputError(
                    f"The response gives no '{name}' of shape {tuple(leaf.shape)}; it must give "
                    "every weight of nested, by its name."
                )
        return layout.flatten({name: weights[name] for name in problem.params})

    leaves = tuple(problem.hyper.values())
    moves, at = [], flat(*leaves).detach()
    for direction in directions:
        _, move = torch.autograd.functional.jvp(flat, leaves, tuple(direction.values()))
        moves.append(move.detach())
    return at, moves


def _implicit(
    method: Implicit, problem: Problem, directions: list[Tree]
) -> tuple[list[Tensor], list[float], Tensor]:
    """How the best response moves, how well that is solved for, and the inner gradient."""
    point = method.point(problem)
    operator = point.curvature
    if method.damping:
        operator = operator + method.damping * Identity.of(operator)
    moves, residuals = [], []
    for mixed in _mixed(problem, directions):
        solution = linear_solve(operator, mixed, method.solver, throw=False)
        moves.append(-solution.value)
        left, right = (operator.mv(solution.value) - mixed).norm(), mixed.norm()
        residuals.append(float(left / right) if right else 0.0)
    return moves, residuals, point.gradient


def _mixed(problem: Problem, directions: list[Tree]) -> list[Tensor]:
    """∂/∂w of ⟨∂L_T/∂λ, u⟩ for each direction u: columns of what `Implicit` takes products with."""
    params, hyper = leaves_of(problem.params), leaves_of(problem.hyper)
    layout = Layout.of(params)
    with autograd_errors():
        loss = problem.inner_loss(params, hyper)
        found = torch.autograd.grad(loss, [*hyper.values()], create_graph=True, allow_unused=True)
        slopes = {n: s for n, s in zip(hyper, found, strict=True) if s is not None}
        if not any(slope.requires_grad for slope in slopes.values()):
            raise InputError(
                "The inner loss cannot be differentiated in the hyperparameters, so there is no "
                "implicit response to compare with; compare losses instead."
            )
        columns = []
        for direction in directions:
            along = torch.stack([(s * direction[n]).sum() for n, s in slopes.items()]).sum()
            column = torch.autograd.grad(
                along, [*params.values()], retain_graph=True, materialize_grads=True
            )
            columns.append(layout.flatten(dict(zip(params, column, strict=True))).detach())
    return columns


def _found(
    directions: tuple[Direction, ...],
    moves: tuple[list[Tensor], list[Tensor]],
    outer_gradient: Tensor,
    distance: float,
    stationarity: float,
) -> Agreement:
    theirs, ours = (torch.stack(each) for each in moves)
    cosine, length = _cosine(theirs.flatten(), ours.flatten()), _length(theirs, ours)
    residual = max(direction.residual for direction in directions)
    trusted, verdict = _verdict(cosine, length, distance, stationarity, residual)
    return Agreement(
        cosine=cosine,
        length=length,
        hypergradient_cosine=_cosine(theirs @ outer_gradient, ours @ outer_gradient),
        distance=distance,
        stationarity=stationarity,
        directions=directions,
        trusted=trusted,
        verdict=verdict,
    )


def _verdict(
    cosine: float, length: float, distance: float, stationarity: float, residual: float
) -> tuple[bool, str]:
    """Whether to trust the learned response, and why not; doubts of the yardstick come first."""
    if not residual < _RESIDUAL:
        return False, (
            f"The solves for the implicit response end at a relative residual of {residual:.1g}; "
            "nothing can be said: give Implicit more steps, or damping."
        )
    if not stationarity < 1:
        return False, (
            f"The inner gradient is {stationarity:.2g} times as long as the outer one, too far "
            "from a minimum for the implicit response to mean much; train on."
        )
    if not distance < _DISTANCE:
        return False, (
            f"The learned weights are {100 * distance:.0f} % away from the live ones; train the "
            "response on, or compare at the weights that it gives."
        )
    if not cosine > _COSINE:
        return False, (
            f"The learned response moves another way than the implicit one (cosine {cosine:.3f}); "
            "train it on, with a wider spread, before its hypergradients are followed."
        )
    if not 1 / _LONGEST < length < _LONGEST:
        return False, (
            f"The learned response moves {length:.2g} times as far as the implicit one, though in "
            "its direction; train it on, or lower the learning rate of the hyperparameters."
        )
    return True, (
        f"The learned response can be trusted here: cosine {cosine:.3f} with the implicit one, "
        f"{length:.2f} times its length."
    )


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()))


def _length(one: Tensor, other: Tensor) -> float:
    return float(one.norm() / other.norm())
