"""Distillation for a linear model: its best response is solved for, and differentiated exactly.

The inner problem is convex: cross-entropy on the few images and ½·decay·‖w‖². Newton's method
with conjugate gradients solves it, from the last answer on. The curvature has at most images ×
classes directions besides the decay, so that conjugate gradients end after few products, each as
cheap as the few images. L-BFGS within bounds moves the pixels on all real images at once.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import bestresponse as br
from bestresponse import Result, SolveError
from bestresponse.apps import _models
from bestresponse.apps.distill._keeper import State, Stretch, restoring
from bestresponse.apps.distill._lbfgs import Bound, Tape, l_bfgs
from bestresponse.apps.distill._problem import Problem, in_type_of, score_of
from bestresponse.apps.distill._trace import Found, Solves, Trace
from bestresponse.hyper import Distilled

INNER_TOLERANCE = 1e-8  # of the length of the inner gradient
_NEWTON_STEPS, _HALVINGS = 100, 40
_PRODUCTS = 2000


@dataclass(frozen=True)
class ImplicitDistiller:
    """Learns images for logistic regression trained from zero, to its one optimum.

    Attributes:
        images: how many.
        learn: what is learned beside them: labels, weights.
        decay: of the inner problem.
        steps: evaluations of the outer loss and its hypergradient.
    """

    images: int
    learn: frozenset[str]
    decay: float
    steps: int
    trainings: int = 1  # from zero there is but one

    def start(self, problem: Problem) -> Distilled:
        """The set before anything is learned, in float64."""
        return problem.start(self.images, self.learn, None, torch.float64)

    def distill(self, problem: Problem, stretch: Stretch) -> Found:
        """The set with the best validation accuracy among those that L-BFGS went through."""
        data, net = self.start(problem), _zero(problem)
        x, y = problem.train.batch(torch.arange(len(problem.train)))
        nested = br.Nested(
            params=net,
            hyper=data,
            inner=lambda: self._inner(net, data),
            outer=lambda: F.cross_entropy(in_type_of(x, net), y),
            method=br.Implicit(br.CG(max_steps=_PRODUCTS, rtol=1e-8, warm_start=True)),
        )
        first = parameters_to_vector(data.parameters()).detach().numpy()
        trace, solves, tape = Trace(problem, data), Solves(), Tape()
        if stretch.saved is not None:
            with restoring():
                tape, solves = Tape(stretch.saved["tape"]), Solves(**stretch.saved["solves"])
                trace.load(stretch.saved["trace"])
                net.load_state_dict(stretch.saved["net"])
                nested.load_state_dict(stretch.saved["nested"])

        def state() -> State:
            return {
                "tape": tape.state(),
                "trace": trace.state(),
                "solves": asdict(solves),
                "net": net.state_dict(),
                "nested": nested.state_dict(),
            }

        def value_and_gradient(vector: np.ndarray) -> tuple[float, Tensor]:
            vector_to_parameters(torch.from_numpy(vector.copy()), data.parameters())
            solve(net, lambda: self._inner(net, data))
            data.zero_grad()
            loss, report = nested()
            loss.backward()
            solves.add(report, solved=True)
            trace.add(loss.item(), score_of(net, problem.validation).accuracy, net)
            return loss.item(), _gradient(data)

        def after() -> None:
            stretch.step(len(tape.values), trace.last, state)

        bounds: list[Bound] = []
        for name, parameter in data.named_parameters():
            bounds += [(0.0, 1.0) if name == "images" else (None, None)] * parameter.numel()
        l_bfgs(value_and_gradient, first, self.steps, bounds, tape, after)
        return trace.found(solves)

    def train(self, data: Distilled, problem: Problem, number: int) -> nn.Module:
        """Logistic regression from zero on the set alone."""
        net = _zero(problem)
        exact = copy.deepcopy(data).double()
        solve(net, lambda: self._inner(net, exact))
        return net

    def train_on_all(self, problem: Problem, stretch: Stretch) -> tuple[nn.Module, float]:
        """The ceiling: as many evaluations of L-BFGS on the training images, and the seconds.

        Without a decay; the iterate with the best validation accuracy is kept, as of the set.
        """
        net = _zero(problem)
        x, y = problem.train.batch(torch.arange(len(problem.train)))
        saved = stretch.saved or {"tape": None, "best": -1.0, "net": {}, "seconds": 0.0}
        with restoring():
            tape, best, chosen = Tape(saved["tape"]), saved["best"], saved["net"]
            start = time.perf_counter() - saved["seconds"]

        def state() -> State:
            seconds = time.perf_counter() - start
            return {"tape": tape.state(), "best": best, "net": chosen, "seconds": seconds}

        def value_and_gradient(vector: np.ndarray) -> tuple[float, Tensor]:
            nonlocal best, chosen
            vector_to_parameters(torch.from_numpy(vector.copy()), net.parameters())
            net.zero_grad()
            loss = F.cross_entropy(in_type_of(x, net), y)
            loss.backward()
            accuracy = score_of(net, problem.validation).accuracy
            if accuracy > best:
                best, chosen = accuracy, copy.deepcopy(net.state_dict())
            return loss.item(), _gradient(net)

        def after() -> None:
            stretch.step(len(tape.values), f"loss {tape.values[-1]:.4f}", state)

        first = parameters_to_vector(net.parameters()).detach().numpy()
        l_bfgs(value_and_gradient, first, self.steps, None, tape, after)
        seconds = time.perf_counter() - start
        net.load_state_dict(chosen)
        return net, seconds

    def _inner(self, net: nn.Module, data: Distilled) -> Tensor:
        lengths = [parameter.square().sum() for parameter in net.parameters()]
        return data.loss(net(data.images)) + 0.5 * self.decay * torch.stack(lengths).sum()


def solve(net: nn.Module, loss: Callable[[], Tensor]) -> None:
    """Newton's method on a strictly convex loss, from where the weights are.

    Raises:
        SolveError: if the gradient is not small in the end.
    """
    for _ in range(_NEWTON_STEPS):
        point = br.Linearization(
            lambda params, _: functional_call(_Closure(net, loss), params, ()),
            {f"net.{name}": p.detach() for name, p in net.named_parameters()},
            {},
        )
        norm = float(point.gradient.norm())
        if norm <= INNER_TOLERANCE:
            return
        forcing = min(0.1, math.sqrt(norm))  # superlinear, without early precision
        step = br.linear_solve(
            br.Hessian(point), -point.gradient, br.CG(max_steps=_PRODUCTS, rtol=forcing)
        ).value
        _walk(net, loss, step, float(point.loss), float(point.gradient @ step))
    raise SolveError(Result.max_steps_reached, f"(inner problem, gradient {norm:.1e})")


class _Closure(nn.Module):
    """A closure over a live model as a function of its weights."""

    def __init__(self, net: nn.Module, loss: Callable[[], Tensor]) -> None:
        super().__init__()
        self.net, self._loss = net, loss

    def forward(self) -> Tensor:
        """The closure's value."""
        return self._loss()


@torch.no_grad()
def _walk(
    net: nn.Module, loss: Callable[[], Tensor], step: Tensor, value: float, slope: float
) -> None:
    """Along a Newton step, halved until the loss falls as it should (Armijo)."""
    start, size = parameters_to_vector(net.parameters()), 1.0
    rounding = 1e-13 * abs(value)
    for _ in range(_HALVINGS):
        vector_to_parameters(start + size * step, net.parameters())
        if float(loss()) <= value + 1e-4 * size * slope + rounding:
            return
        size /= 2


def _zero(problem: Problem) -> nn.Module:
    """Logistic regression at zero, in float64: solves are exact, and the images few."""
    net = _models.build("linear", problem.dataset.shape, problem.classes, seed=0).double()
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    return net


def _gradient(module: nn.Module) -> Tensor:
    parts = [p.grad for p in module.parameters() if p.grad is not None]
    return torch.cat([part.reshape(-1) for part in parts]).double()
