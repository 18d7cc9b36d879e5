"""Outer steps with the weights re-fitted after each, and the true hypergradient at every one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import bestresponse as br
from bestresponse._nested import next_problem
from bestresponse.apps.experiments.inverse._accuracy_problems import AccuracyProblem, Point
from bestresponse.apps.experiments.inverse._explicit import Objective

Map = Callable[[Tensor], Tensor]

_RATE = 0.05  # of Adam on the log decays
_RTOL = 1e-8  # of the references
_EVALUATIONS = 100  # of the inner loss of a network between two outer steps


@dataclass(frozen=True)
class Aid:
    """What makes the references of a problem quick; they are judged by their residual alone.

    Attributes:
        preconditioner: an approximate inverse of the curvature.
        refit: minimizes the inner loss from given weights, given that inverse.
    """

    preconditioner: br.KFAC | br.Woodbury
    refit: Callable[[Objective, Tensor, Map], Tensor]


def follow(problem: AccuracyProblem, steps: int) -> list[Point]:
    """The problem's own point, and those after each of `steps` steps of Adam on λ."""
    points = [problem.point]
    leaf = nn.Parameter(problem.point.log_decays.clone())
    optimizer = torch.optim.Adam([leaf], lr=_RATE)
    for _ in range(steps):
        leaf.grad = problem.in_model_order(points[-1].reference)
        optimizer.step()
        points.append(_best_response(problem, leaf.detach().clone(), points[-1]))
    problem.move_to(problem.point)
    return points


def _best_response(problem: AccuracyProblem, log_decays: Tensor, near: Point) -> Point:
    """Re-fitted weights, and the hypergradient there by explicit formulas in float64."""
    aid, objective = _AIDS[problem.name], problem.objective(log_decays)
    moved = Point(near.weights, log_decays, near.solution, near.reference)
    weights = aid.refit(objective, near.weights, _inverse(problem, moved, aid.preconditioner))
    moved = Point(weights, log_decays, near.solution, near.reference)
    inverse = _inverse(problem, moved, aid.preconditioner)
    right_side = problem.outer_gradient(weights)
    product = objective.curvature(weights)
    solution = _preconditioned(product, right_side, inverse, _RTOL, near.solution)
    reference = problem.in_decay_order(-objective.decays * weights * solution)
    return Point(weights, log_decays, solution, reference)


def _inverse(problem: AccuracyProblem, point: Point, recipe: br.KFAC | br.Woodbury) -> Map:
    """An approximate inverse of the curvature at a point, in float32."""
    problem.move_to(point)
    method = br.Implicit(recipe, curvature=problem.gauss_newton())
    nested = problem.nested(method)
    with next_problem(nested, problem.inner_batch, problem.outer_batch) as here, torch.no_grad():
        with torch.enable_grad():
            operator = method.point(here).curvature
        inverse = recipe.inverse(recipe.build(operator), operator)

    def apply(vector: Tensor) -> Tensor:
        with torch.no_grad():
            return inverse.mv(vector.float()).double()

    return apply


def _preconditioned(
    product: Map, vector: Tensor, inverse: Map, rtol: float, start: Tensor | None = None
) -> Tensor:
    """A⁻¹b by flexible conjugate gradients until ‖b − Aq‖ ≤ rtol·‖b‖."""
    value = torch.zeros_like(vector) if start is None else start.clone()
    residual = vector - product(value)
    direction = inverse(residual)
    while residual.norm() > rtol * vector.norm():
        image = product(direction)
        energy = direction @ image
        length = (direction @ residual) / energy
        value = value + length * direction
        residual = residual - length * image
        conditioned = inverse(residual)
        direction = conditioned - ((conditioned @ image) / energy) * direction
    return value


def _newton(objective: Objective, weights: Tensor, inverse: Map) -> Tensor:
    """The minimum of a convex objective near the weights."""
    gradient = objective.gradient(weights)
    while gradient.abs().max() > 1e-8:
        weights = weights - _preconditioned(objective.curvature(weights), gradient, inverse, 1e-3)
        gradient = objective.gradient(weights)
    return weights


def _lbfgs(objective: Objective, weights: Tensor, inverse: Map) -> Tensor:
    """A fixed number of steps, in float32: as a training loop between two outer steps."""
    single = Objective(
        objective.sizes, objective.inputs.float(), objective.labels, objective.decays.float()
    )
    leaf = weights.float()
    optimizer = torch.optim.LBFGS(
        [leaf], max_iter=_EVALUATIONS, max_eval=_EVALUATIONS, history_size=30,
        line_search_fn="strong_wolfe", tolerance_grad=0, tolerance_change=0,
    )  # fmt: skip

    def closure() -> Tensor:
        loss, leaf.grad = single.loss_and_gradient(leaf)
        return loss

    optimizer.step(closure)
    return leaf.double()


_AIDS = {
    "logistic": Aid(br.KFAC(rows=10_000, draws=None, rank=None), _newton),
    "mlp": Aid(br.Woodbury(rank=2000), _lbfgs),
}
