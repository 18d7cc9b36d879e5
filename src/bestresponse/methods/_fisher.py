"""The Fisher information as the inner curvature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._problem import Problem
from bestresponse._purify import Batch
from bestresponse.methods._curvature import (
    Curvature,
    check_functions,
    inner_at,
    of_part,
    outputs_at,
    penalty_at,
)
from bestresponse.methods._points import Point, SplitPoint
from bestresponse.operators import PulledBack, Scores


@dataclass(frozen=True)
class Fisher(Curvature):
    """The Fisher information of the model's outputs as a distribution, plus the penalty's Hessian.

    F = (1/N) Σₙ E[∇log p(y|xₙ) ∇log p(y|xₙ)ᵀ] with y drawn from the model itself; in expectation
    the Gauss-Newton matrix of the mean negative log-likelihood. With `targets` y is what was
    observed: the empirical Fisher, which is cheaper to write down and another matrix.

    Args:
        predict: `predict(*inner_batch)`, the model's outputs, rows first.
        distribution: `distribution(outputs)`, a `torch.distributions.Distribution` of one target
            a row, such as `lambda logits: Categorical(logits=logits)`.
        penalty: `penalty()`, a scalar of w and λ; None for none.
        draws: targets drawn for each row.
        targets: `targets(*inner_batch)`, the observed targets; None draws them.

    Source: Martens, "New Insights and Perspectives on the Natural Gradient Method" (2020),
    https://arxiv.org/abs/1412.1193

    Example:
        >>> from torch.distributions import Normal
        >>> fisher = Fisher(lambda x: x, lambda mean: Normal(mean, 1.0), targets=lambda x: x)
        >>> fisher.draws
        1
    """

    predict: Callable[..., Tensor]
    distribution: Callable[[Tensor], torch.distributions.Distribution]
    penalty: Callable[..., Tensor] | None = None
    draws: int = 1
    targets: Callable[..., Tensor] | None = None

    def __post_init__(self) -> None:
        check_functions(
            predict=self.predict,
            distribution=self.distribution,
            penalty=self.penalty,
            targets=self.targets,
        )
        if self.draws < 1:
            raise InputError(f"Fisher(draws={self.draws}) must be 1 or more.")

    @property
    def closures(self) -> tuple[Callable[..., Any], ...]:
        """predict, penalty and targets."""
        return tuple(f for f in (self.predict, self.penalty, self.targets) if f is not None)

    def at(self, problem: Problem, number: int) -> Point:
        """The outputs with their scores; gradient and mixed product are those of the inner loss."""
        batch, seed = problem.inner_batches[number], problem.seeds[0] + number
        point = self._pulled_back(problem, batch, seed)
        penalty = penalty_at(problem, self.penalty, seed)
        return SplitPoint(point, penalty, {}, inner_at(problem, number))

    def _pulled_back(self, problem: Problem, batch: Batch, seed: int) -> PulledBack:
        outputs = outputs_at(problem, self.predict, batch, seed)
        scores = self._scores(problem, outputs.value, batch, seed)
        if problem.checked:
            problem.check(outputs.graph.sum(), "predict")

        def on_rows(rows: Tensor) -> PulledBack:
            def of(part: Batch) -> PulledBack:
                some = outputs_at(problem, self.predict, part, seed, record=True)
                # the same targets: others would be another matrix
                whole = len(some.value) != len(rows)
                return PulledBack(some, Scores(scores if whole else scores[:, rows]))

            return of_part(of, batch, len(outputs.value), rows)

        return PulledBack(outputs, Scores(scores), on_rows)

    def _scores(self, problem: Problem, value: Tensor, batch: Batch, seed: int) -> Tensor:
        outputs = value.clone().requires_grad_()

        def scores(outputs: Tensor, *_: Any, **__: Any) -> Tensor:
            distribution = self.distribution(outputs)
            targets = observed or [distribution.sample() for _ in range(self.draws)]
            likelihoods = [distribution.log_prob(target).sum() for target in targets]
            return torch.stack(
                [torch.autograd.grad(one, outputs, retain_graph=True)[0] for one in likelihoods]
            )

        at = problem.params, problem.hyper
        observed = [problem.pure(self.targets)(*at, batch, seed)] if self.targets else []
        # pure: seeded on the outputs' device
        drawn: Tensor = problem.pure(scores)(*at, (), seed + 1, outputs)
        return drawn
