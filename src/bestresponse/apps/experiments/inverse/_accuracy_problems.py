"""Two nested problems whose hypergradient is known to many digits: a yardstick for solvers.

Both classify images with one decay for each weight and bias: 7,850 hyperparameters of a logistic
regression on MNIST, where the inner loss is convex, and 670,000 of a network with two hidden
layers, where it is not and the Gauss-Newton matrix stands for its curvature.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bestresponse as br
from bestresponse._errors import InputError
from bestresponse.apps.experiments._roles import Batch, roles
from bestresponse.apps.experiments.inverse._explicit import (
    Network,
    Objective,
    Say,
    conjugate_gradients,
    lbfgs,
    newton,
    silent,
)

_NETWORK_DECAY, _NETWORK_TOLERANCE = 1e-3, 1e-4


class Fit(Protocol):
    """Minimizes an inner loss from given weights."""

    def __call__(self, objective: Objective, weights: Tensor, *, say: Say) -> Tensor:
        """The weights at the minimum."""
        ...


@dataclass(frozen=True, eq=False)
class Point:
    """A best response, flat and in float64.

    Attributes:
        weights: where the inner loss is smallest, in the order of `model.parameters()`.
        log_decays: λ, in the same order.
        solution: q = A⁻¹ ∂L_V/∂w, in the same order.
        reference: dL_V/dλ = −e^λ w q, in the order of `decay.parameters()`.
    """

    weights: Tensor
    log_decays: Tensor
    solution: Tensor
    reference: Tensor


@dataclass(frozen=True, eq=False)
class AccuracyProblem:
    """A nested problem over live modules, at a point where its hypergradient is known.

    It is as in training, all in float32; references are float64 throughout.

    Attributes:
        name: what it is.
        model: float32; `move_to` sets its weights.
        decay: one log decay for each weight and bias.
        inner_batch: inputs (n, d) and labels (n,) of the inner loss.
        outer_batch: those of the outer loss.
        sizes: of the layers, inputs and outputs included.
        fit: how the inner loss is minimized.
        rtol: relative residual to which references are solved.
        point: where the modules were made to stand.
    """

    name: str
    model: nn.Sequential
    decay: br.hyper.WeightDecay
    inner_batch: Batch
    outer_batch: Batch
    sizes: tuple[int, ...]
    fit: Fit
    rtol: float
    point: Point

    def predict(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Logits (n, classes)."""
        return self.model(inputs)

    @staticmethod
    def loss(outputs: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy."""
        return F.cross_entropy(outputs, labels)

    def penalty(self) -> Tensor:
        """½ Σ e^λ w²."""
        return self.decay(self.model)

    def inner(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy plus the penalty."""
        return F.cross_entropy(self.model(inputs), labels) + self.decay(self.model)

    def outer(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy."""
        return F.cross_entropy(self.model(inputs), labels)

    def gauss_newton(self) -> br.GaussNewton:
        """The curvature, as `Implicit` takes it."""
        return br.GaussNewton(self.predict, self.loss, self.penalty)

    def nested(self, method: br.Implicit) -> br.Nested:
        """The live nested problem under a method."""
        return br.Nested(self.model, self.decay, self.inner, self.outer, method)

    def gradient(self) -> Tensor:
        """What `backward()` left on the log decays, flat and float64, as the reference is."""
        return torch.cat(
            [torch.zeros(leaf.numel()) if leaf.grad is None else leaf.grad.reshape(-1)
             for leaf in self.decay.parameters()]
        ).double()  # fmt: skip

    def in_double(self) -> AccuracyProblem:
        """A copy in float64, where only a mistake can make a difference."""
        twin = copy.deepcopy(self)
        twin.model.double()
        twin.decay.double()
        twin.move_to(self.point)
        return replace(
            twin, inner_batch=_double(self.inner_batch), outer_batch=_double(self.outer_batch)
        )

    def with_rtol(self, rtol: float) -> AccuracyProblem:
        """The same modules, with references solved less exactly."""
        return replace(self, rtol=rtol)

    def objective(self, log_decays: Tensor) -> Objective:
        """The inner loss by explicit formulas, for λ in the order of `model.parameters()`."""
        return Objective(self.sizes, *_double(self.inner_batch), log_decays.exp())

    def outer_gradient(self, weights: Tensor) -> Tensor:
        """∂L_V/∂w by explicit formulas."""
        return Network(self.sizes, weights, *_double(self.outer_batch)).gradient()

    def move_to(self, point: Point) -> None:
        """Set the live weights and log decays."""
        with torch.no_grad():
            _fill(list(self.model.parameters()), point.weights)
            _fill(self._decays(), point.log_decays)

    def refitted(self, log_decays: Tensor, near: Point, say: Say = silent) -> Point:
        """The best response to other log decays, and the hypergradient there.

        Args:
            log_decays: λ in the order of `model.parameters()`.
            near: a point whose weights and solution are where fit and reference start.
            say: told how far it is.
        """
        objective = self.objective(log_decays)
        weights = self.fit(objective, near.weights, say=say)
        outer = self.outer_gradient(weights)
        solution = conjugate_gradients(
            objective.curvature(weights),
            outer,
            self.rtol,
            near.solution,
            objective.preconditioner(weights),
            say,
        )
        reference = self.in_decay_order(-objective.decays * weights * solution)
        return Point(weights, log_decays, solution, reference)

    def in_model_order(self, flat: Tensor) -> Tensor:
        """A tensor in the order of `decay.parameters()`, in that of `model.parameters()`."""
        parts = flat.split([leaf.numel() for leaf in self.decay.parameters()])
        by_leaf = dict(zip(self.decay.parameters(), parts, strict=True))
        return torch.cat([by_leaf[leaf] for leaf in self._decays()])

    def in_decay_order(self, flat: Tensor) -> Tensor:
        """The other way round."""
        parts = flat.split([leaf.numel() for leaf in self._decays()])
        by_leaf = dict(zip(self._decays(), parts, strict=True))
        return torch.cat([by_leaf[leaf] for leaf in self.decay.parameters()])

    def _decays(self) -> list[nn.Parameter]:
        """The leaves of the decay, in the order of the model's parameters."""
        own = {
            name.removeprefix("log_decay.").replace("|", "."): leaf
            for name, leaf in self.decay.named_parameters()
        }
        return [own[name] for name, _ in self.model.named_parameters()]


def logistic(
    source: str,
    seed: int,
    inner_rows: int = 10_000,
    outer_rows: int = 5_000,
    decay: float = 1e-3,
    tolerance: float = 1e-8,
    say: Say = silent,
) -> AccuracyProblem:
    """Logistic regression; each decay drawn around one value; reference to 1e-12.

    Args:
        source: data as `bestresponse.data.load` takes it; MNIST for 7,850 hyperparameters.
        seed: of the decays.
        inner_rows: the first training examples, on which the weights are fitted.
        outer_rows: the next ones, on which λ is judged.
        decay: e^λ in the middle; λ has a standard deviation of ½.
        tolerance: the weights are fitted until no component of the inner gradient exceeds it.
        say: told how far it is.

    Raises:
        InputError: for data that cannot be used.
    """
    (inner, outer), classes = roles(source, inner_rows, outer_rows)
    sizes = (inner[0].shape[1], classes)
    model = _network(sizes)
    weights = torch.zeros(_count(model), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    spread = torch.randn(len(weights), generator=generator, dtype=torch.float64)
    start = _start(weights, math.log(decay) + 0.5 * spread)
    fit: Fit = partial(newton, tolerance=tolerance)
    return _solved(
        AccuracyProblem("logistic", model, _decay(model), inner, outer, sizes, fit, 1e-12, start),
        say,
    )


def mlp(
    source: str,
    seed: int,
    inner_rows: int = 2_000,
    outer_rows: int = 1_000,
    hidden: int = 512,
    say: Say = silent,
) -> AccuracyProblem:
    """Two hidden layers of ReLU; decays of 1e-3; converged to 1e-4, reference to 1e-9.

    The curvature, here and in the reference, is the Gauss-Newton matrix.

    Args:
        source: data as `bestresponse.data.load` takes it; MNIST for 670,000 hyperparameters.
        seed: of the initial weights, which are PyTorch's.
        inner_rows: the first training examples, on which the weights are fitted.
        outer_rows: the next ones, on which λ is judged.
        hidden: width of both hidden layers.
        say: told how far it is.

    Raises:
        InputError: for data that cannot be used.
    """
    (inner, outer), classes = roles(source, inner_rows, outer_rows)
    sizes = (inner[0].shape[1], hidden, hidden, classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _network(sizes)
    weights = torch.cat([leaf.detach().reshape(-1) for leaf in model.parameters()]).double()
    start = _start(weights, torch.full_like(weights, math.log(_NETWORK_DECAY)))
    return _solved(
        AccuracyProblem(
            "mlp", model, _decay(model), inner, outer, sizes, _network_fit, 1e-9, start
        ),
        say,
    )


def _network_fit(objective: Objective, weights: Tensor, *, say: Say) -> Tensor:
    """Most of the way in float32, at half the cost."""
    single = Objective(
        objective.sizes, objective.inputs.float(), objective.labels, objective.decays.float()
    )
    near = lbfgs(single, weights.float(), _NETWORK_TOLERANCE, say).double()
    weights = lbfgs(objective, near, _NETWORK_TOLERANCE, say)
    largest = float(objective.gradient(weights).abs().max())
    if largest > _NETWORK_TOLERANCE:
        raise InputError(
            f"The network cannot be fitted better than to a gradient of {largest:.1e}: it is at a "
            "kink of ReLU; use another seed, more rows or more hidden units."
        )
    return weights


def _start(weights: Tensor, log_decays: Tensor) -> Point:
    """Where the first fit sets out; nothing is known of the hypergradient."""
    return Point(weights, log_decays, torch.zeros_like(weights), torch.zeros_like(weights))


def _solved(problem: AccuracyProblem, say: Say) -> AccuracyProblem:
    """The problem at its best response."""
    point = problem.refitted(problem.point.log_decays, problem.point, say)
    problem.move_to(point)
    return replace(problem, point=point)


def _network(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after, dtype=torch.float32), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _fill(leaves: Sequence[Tensor], flat: Tensor) -> None:
    for leaf, part in zip(leaves, flat.split([leaf.numel() for leaf in leaves]), strict=True):
        leaf.copy_(part.view_as(leaf))


def _count(model: nn.Module) -> int:
    return sum(leaf.numel() for leaf in model.parameters())


def _decay(model: nn.Module) -> br.hyper.WeightDecay:
    return br.hyper.WeightDecay(model, per="weight", biases=True)


def _double(batch: Batch) -> Batch:
    return batch[0].double(), batch[1]
