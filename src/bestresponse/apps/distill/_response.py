"""Distillation through the best response of any model, by the implicit function theorem.

The inner problem, cross-entropy on the few images and ½·decay·‖w‖², is trained to a tolerance: from
the last answer on, and now and then from fresh weights, since a deep model has many best responses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bestresponse as br
from bestresponse import Result, SolveError
from bestresponse.apps.distill._adam import LONGEST, AdamDistiller
from bestresponse.apps.distill._problem import Problem, in_type_of
from bestresponse.hyper import Distilled

_PRODUCTS = 500  # of the linear system, at the most
_RTOL = 1e-6  # of its residual
_PAIRS = 50  # that L-BFGS keeps


@dataclass(frozen=True, kw_only=True)
class ResponseDistiller(AdamDistiller):
    """Learns images for a model that is trained on them to a stationary point, in float64.

    The model is in eval mode, so that dropout leaves a function that can be solved for.

    Attributes:
        decay: of the inner problem.
        inner_steps: of L-BFGS on the set, at the most.
        tolerance: of the largest entry of the inner gradient.
        restart: outer steps with the same weights, until they are drawn anew.
    """

    decay: float
    inner_steps: int
    tolerance: float
    restart: int

    precision: ClassVar[torch.dtype] = torch.float64

    def start(self, problem: Problem) -> Distilled:
        """The set before anything is learned."""
        return problem.start(self.images, self.learn, None, self.precision)

    def nested(self, net: nn.Module, data: Distilled, problem: Problem) -> Guarded:
        """The outer loss at the weights as they are, taken for the best response."""
        net.eval()
        gauss_newton = br.GaussNewton(
            lambda: net(data.images), data.loss, lambda: self._penalty(net)
        )

        def nested(curvature: br.GaussNewton | None) -> br.Nested:
            solver = br.CG(max_steps=_PRODUCTS, rtol=_RTOL, warm_start=True)
            return br.Nested(
                params=net,
                hyper=data,
                inner=lambda: self._inner(net, data),
                outer=lambda x, y: F.cross_entropy(in_type_of(x, net), y),
                method=br.Implicit(solver, curvature=curvature),
                max_norm=LONGEST,
                seed=problem.seed,
            )

        return Guarded(nested(None), nested(gauss_newton))

    def prepare(self, net: nn.Module, data: Distilled, problem: Problem, step: int) -> bool:
        """Train from the last answer on, or from fresh weights."""
        if (step - 1) % self.restart == 0:
            net.load_state_dict(self.fresh(problem, f"step {step}").state_dict())
        return self._settle(net, data)

    def fit(self, net: nn.Module, data: Distilled, seed: int) -> None:
        """Train to the tolerance; nothing is random there."""
        self._settle(net.eval(), data)

    def _settle(self, net: nn.Module, data: Distilled) -> bool:
        return settle(net, lambda: self._inner(net, data), self.tolerance, self.inner_steps)

    def _inner(self, net: nn.Module, data: Distilled) -> Tensor:
        return data.loss(net(data.images)) + self._penalty(net)

    def _penalty(self, net: nn.Module) -> Tensor:
        lengths = [w.square().sum() for w in net.parameters() if w.requires_grad]
        return 0.5 * self.decay * torch.stack(lengths).sum()


class Guarded:
    """A nested problem, and what takes its place where the inner loss curves downwards.

    A model with kinks (ReLU, maxima) has best responses in them, where the Hessian of either side
    need not be positive. The Gauss-Newton matrix is, and with the decay its smallest eigenvalue is
    at least that.

    Args:
        exact: with the Hessian.
        definite: with the Gauss-Newton matrix.
    """

    def __init__(self, exact: br.Nested, definite: br.Nested) -> None:
        self._exact, self._definite = exact, definite

    def __call__(self, inner_batch: Any = (), outer_batch: Any = ()) -> tuple[Tensor, br.Report]:
        """As `Nested`; a warning says where the second took the place of the first."""
        loss, report = self._exact(inner_batch, outer_batch)
        if Result.negative_curvature not in report.warnings:
            return loss, report
        loss, report = self._definite(inner_batch, outer_batch)
        return loss, report.warn(Result.negative_curvature)

    def state_dict(self) -> dict[str, Any]:
        """Of both."""
        return {"exact": self._exact.state_dict(), "definite": self._definite.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self._exact.load_state_dict(state["exact"])
        self._definite.load_state_dict(state["definite"])


def settle(net: nn.Module, loss: Callable[[], Tensor], tolerance: float, steps: int) -> bool:
    """L-BFGS from where the weights are; whether all of the gradient is below the tolerance.

    Raises:
        SolveError: if the loss is not finite in the end.
    """
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    optimizer = torch.optim.LBFGS(
        weights, max_iter=steps, tolerance_grad=tolerance, tolerance_change=0.0,
        history_size=_PAIRS, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        value = loss()
        # to the weights alone: the images have a gradient of their own
        for weight, gradient in zip(weights, torch.autograd.grad(value, weights), strict=True):
            weight.grad = gradient
        return value

    optimizer.step(closure)
    value = float(closure().detach())
    largest = max(float(weight.grad.abs().max()) for weight in weights if weight.grad is not None)
    optimizer.zero_grad()
    if not math.isfinite(value) or not math.isfinite(largest):
        raise SolveError(Result.nonfinite, "(training on the distilled images)")
    return largest <= tolerance
