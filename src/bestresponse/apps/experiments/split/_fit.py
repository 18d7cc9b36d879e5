"""Logistic regression whose decays are tuned on a part of its examples, solved to the end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import bestresponse as br
from bestresponse.apps.experiments._roles import Batch

Per = Literal["model", "tensor", "weight"]

LEAST, MOST = 1e-5, 1e2
"""Decays stay in between."""
_TOLERANCE = 1e-6  # largest entry of the inner gradient at the end of a fit
_ITERATIONS = 3000  # of a fit, at the most
_RTOL = 1e-4  # residual of a hypergradient's solve
_PRODUCTS = 1000  # in each, at the most


class Scaled(nn.Module):
    """Logistic regression by weights in units of their own.

    A weight is its parameter over √(decay + curvature), so that the inner loss bends about as much
    along every parameter, whatever the decays are. What is best does not depend on the units.
    """

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes, inputs, dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros(classes, dtype=torch.float64))
        self.register_buffer("weight_scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("bias_scale", torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """The logits (n, classes)."""
        weight = self.weight / self.get_buffer("weight_scale")
        return F.linear(x, weight, self.bias / self.get_buffer("bias_scale"))

    @torch.no_grad()
    def rescale(self, scales: dict[str, Tensor]) -> None:
        """Other units, by the name of the parameter, for the same weights."""
        for name, scale in scales.items():
            self.get_parameter(name).mul_(scale / self.get_buffer(f"{name}_scale"))
            self.register_buffer(f"{name}_scale", scale)


class Problem:
    """Inner: mean cross-entropy plus ½ Σ e^λ w². Outer: the validation loss.

    Args:
        train: what the inner loss is on, float64.
        validation: what the outer loss is on.
        classes: how many there are.
        per: one decay for the `model`, for each `tensor` (layer), or for each `weight`.
        init: every decay, to begin with.
    """

    def __init__(
        self, train: Batch, validation: Batch, classes: int, per: Per, init: float
    ) -> None:
        self.train, self.validation = train, validation
        self.curvature = _curvature(train[0], classes)
        self.model = Scaled(train[0].shape[1], classes)
        self.decay = br.hyper.WeightDecay(self.model, per=per, biases=True)
        self._nested = br.Nested(
            self.model,
            self.decay,
            lambda x, y: F.cross_entropy(self.model(x), y) + self.decay(self.model),
            lambda x, y: F.cross_entropy(self.model(x), y),
            br.Implicit(br.CG(max_steps=_PRODUCTS, rtol=_RTOL, warm_start=True)),
        )
        self.log_decays = torch.full_like(
            parameters_to_vector(self.decay.parameters()).detach(), math.log(init)
        )
        self.move(self.log_decays)

    def move(self, log_decays: Tensor) -> None:
        """Other decays λ, flat in the order of the parameters of `WeightDecay`; and the fit."""
        self.log_decays = log_decays
        spread = (log_decays.exp() + self.curvature).sqrt()
        vector_to_parameters(spread, self.decay.parameters())  # in the shapes of its groups
        self.model.rescale({name: self._of(name).detach().clone() for name in ("weight", "bias")})
        vector_to_parameters(log_decays - 2 * spread.log(), self.decay.parameters())
        self._fit()

    def loss_and_hypergradient(self, log_decays: Tensor) -> tuple[float, Tensor]:
        """The validation loss of the weights that are best at these decays, and its gradient."""
        self.move(log_decays)
        self.decay.zero_grad()
        loss, _ = self._nested(self.train, self.validation)
        loss.backward()
        slopes = [leaf.grad for leaf in self.decay.parameters() if leaf.grad is not None]
        return loss.item(), torch.cat([slope.reshape(-1) for slope in slopes])

    def tune(self, hypergradients: int) -> int:
        """L-BFGS on λ, to the best of so many places; how many there were."""
        best: tuple[float, Tensor] = (math.inf, self.log_decays)
        taken = 0

        def value_and_gradient(vector: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal best, taken
            at = torch.tensor(vector)
            loss, gradient = self.loss_and_hypergradient(at)
            best, taken = (min(best, (loss, at), key=lambda each: each[0])), taken + 1
            return loss, gradient.numpy()

        start = self.log_decays.numpy()
        minimize(
            value_and_gradient, start, jac=True, method="L-BFGS-B",
            bounds=[(math.log(LEAST), math.log(MOST))] * len(start),
            options={"maxfun": hypergradients, "maxiter": hypergradients},
        )  # fmt: skip
        self.move(best[1])
        return taken

    def loss(self, batch: Batch) -> float:
        """The mean cross-entropy of some examples."""
        with torch.no_grad():
            return float(F.cross_entropy(self.model(batch[0]), batch[1]))

    def error(self, batch: Batch) -> float:
        """The share of some examples that gets a wrong class."""
        with torch.no_grad():
            return float((self.model(batch[0]).argmax(1) != batch[1]).double().mean())

    def _of(self, name: str) -> Tensor:
        """What `WeightDecay` holds for a parameter, or for all of them."""
        groups = self.decay.log_decay
        return groups[name] if name in groups else groups["model"]

    def _fit(self) -> None:
        """Move the weights to the one minimum of the inner loss, from where they are."""
        solver = torch.optim.LBFGS(
            self.model.parameters(), max_iter=_ITERATIONS, max_eval=2 * _ITERATIONS,
            history_size=30, line_search_fn="strong_wolfe", tolerance_grad=_TOLERANCE,
            tolerance_change=0.0,
        )  # fmt: skip

        def closure() -> Tensor:
            solver.zero_grad()
            loss = self._nested.inner_loss(*self.train)
            loss.backward(inputs=list(self.model.parameters()))
            return loss

        solver.step(closure)
        solver.zero_grad()


def _curvature(inputs: Tensor, classes: int) -> float:
    """What the cross-entropy bends along a weight, about: at equal logits, a pixel's mean."""
    return float(inputs.square().mean()) * (1 - 1 / classes) / classes


@dataclass(frozen=True)
class Budget:
    """Examples to be shared between training and validation, and test examples of their own.

    Attributes:
        examples: inputs (n, d), float64, and labels (n,), any first of which have every class in
            its proportion.
        test: likewise, in any order.
        classes: how many there are.
    """

    examples: Batch
    test: Batch
    classes: int

    def parts(self, share: float) -> tuple[Batch, Batch | None]:
        """Training and validation examples; without the latter where their share rounds to 0."""
        x, y = self.examples
        size = round(share * len(y))
        return (x[size:], y[size:]), ((x[:size], y[:size]) if size else None)


def cell(
    budget: Budget, share: float, per: Per, init: float, hypergradients: int
) -> dict[str, Any]:
    """Tune decays on a share of the budget, then fit the whole budget with them.

    Returns:
        Ready for JSON: `test_error`, `retrained_test_error`, `validation_error` and
        `validation_loss` (None without validation examples), `hypergradients` that were taken, and
        `log10_decays`, the least, median and largest.
    """
    train, validation = budget.parts(share)
    problem = Problem(train, validation or train, budget.classes, per, init)
    taken = problem.tune(hypergradients) if validation else 0
    figures = {
        "test_error": problem.error(budget.test),
        "validation_error": problem.error(validation) if validation else None,
        "validation_loss": problem.loss(validation) if validation else None,
        "hypergradients": taken,
    }
    problem.train = budget.examples
    problem.move(problem.log_decays)
    logs = problem.log_decays / math.log(10)
    return figures | {
        "retrained_test_error": problem.error(budget.test),
        "log10_decays": [float(logs.min()), float(logs.median()), float(logs.max())],
    }
