"""Curvatures that a method may put in the place of the inner Hessian: recipes, built at a point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._guards import check_callable, check_scalar, check_used, names
from bestresponse._problem import Problem
from bestresponse._purify import Batch
from bestresponse._tree import Tree, leaves_of
from bestresponse.methods._points import HessianPoint, Point, SplitPoint
from bestresponse.operators import Linearization, OutputHessian, Outputs, PulledBack, Scores

_SAME = 0.6  # power of machine epsilon that two evaluations of one loss differ by: 7e-5 in float32


class Curvature(ABC):
    """A recipe for a stand-in of the inner Hessian. Frozen settings."""

    @property
    @abstractmethod
    def closures(self) -> tuple[Callable[..., Any], ...]:
        """The functions it calls, in which modules may be captured."""

    @abstractmethod
    def at(self, problem: Problem, number: int) -> Point:
        """The inner loss around the problem's point, on inner batch `number`."""


@dataclass(frozen=True)
class GaussNewton(Curvature):
    """JᵀH_LJ of loss∘predict, plus the exact Hessian of the penalty.

    Positive semidefinite for a loss that is convex in the outputs, so that CG never meets negative
    curvature; equal to the Hessian where the outputs are linear in the weights or fit perfectly.
    That `inner` = loss∘predict + penalty is checked by value at call 1, 2, 4, 8, …

    Args:
        predict: `predict(*inner_batch)`, the model's outputs, one tensor whose first dimension
            are the rows.
        loss: `loss(outputs, *inner_batch)`, a scalar; may depend on λ (weights of examples), not
            on w but through the outputs.
        penalty: `penalty()`, a scalar of w and λ, such as weight decay; None for none.

    With `br.hypergradient` they are `predict(params, hyper, *inner_batch)`,
    `loss(outputs, params, hyper, *inner_batch)` and `penalty(params, hyper)`.

    Source: Schraudolph, "Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent"
    (2002), https://doi.org/10.1162/08997660260028683

    Example:
        >>> import bestresponse as br
        >>> predict = lambda params, hyper: 3 * params["w"]
        >>> loss = lambda outputs, params, hyper: 0.5 * (outputs - hyper["a"]).square().sum()
        >>> inner = lambda params, hyper: loss(predict(params, hyper), params, hyper)
        >>> outer = lambda params, hyper: params["w"].sum()  # w* = a/3
        >>> at = {"w": torch.tensor([1.0])}, {"a": torch.tensor([3.0])}
        >>> method = br.Implicit(br.CG(), curvature=br.GaussNewton(predict, loss))
        >>> br.hypergradient(inner, outer, *at, method).value["a"]
        tensor([0.3333])
    """

    predict: Callable[..., Tensor]
    loss: Callable[..., Tensor]
    penalty: Callable[..., Tensor] | None = None

    def __post_init__(self) -> None:
        _check_functions(predict=self.predict, loss=self.loss, penalty=self.penalty)

    @property
    def closures(self) -> tuple[Callable[..., Any], ...]:
        """predict, loss and penalty."""
        return tuple(f for f in (self.predict, self.loss, self.penalty) if f is not None)

    def at(self, problem: Problem, number: int) -> Point:
        """The forward graph of the outputs, the loss on them, and the penalty's own graph."""
        batch, seed = problem.inner_batches[number], problem.seeds[0] + number
        hyper = leaves_of(problem.hyper)
        point = self._pulled_back(problem, batch, seed, hyper)
        penalty = _penalty_at(problem, self.penalty, seed)
        if problem.checked:
            assert isinstance(point.middle, OutputHessian)
            problem.check(point.outputs.graph.sum(), "predict")
            problem.check(point.middle.loss, "loss")
            self._check_loss(problem, point.outputs.value, batch, seed)
            total = point.middle.loss.detach() + (penalty.loss if penalty else 0)
            _check_same(problem, number, total)
        whole = _inner_at(problem, number) if point.outputs.depends_on_hyper() else None
        return SplitPoint(point, penalty, hyper, whole)

    def _pulled_back(
        self, problem: Problem, batch: Batch, seed: int, hyper: Tree, *, record: bool = False
    ) -> PulledBack:
        loss = problem.pure(self.loss)

        def of_outputs(outputs: Tensor) -> Tensor:
            return check_scalar(loss(problem.params, hyper, batch, seed, outputs), "loss")

        outputs = _outputs(problem, self.predict, batch, seed, record=record)
        middle = OutputHessian(of_outputs, outputs.value)
        count = len(outputs.value) if outputs.value.ndim else 1

        def on_rows(rows: Tensor) -> PulledBack:
            def of(part: Batch) -> PulledBack:
                return self._pulled_back(problem, part, seed, hyper, record=True)

            return _of_part(of, batch, count, rows)

        return PulledBack(outputs, middle, on_rows)

    def _check_loss(self, problem: Problem, outputs: Tensor, batch: Batch, seed: int) -> None:
        """Refuse a loss that depends on w past the outputs: that part would have no curvature."""
        params = leaves_of(problem.params)
        loss = problem.pure(self.loss)(
            params, problem.hyper, batch, seed, outputs.clone().requires_grad_()
        )
        gradients = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        direct = [n for n, g in zip(params, gradients, strict=True) if g is not None]
        if direct:
            raise InputError(
                f"The loss of the outputs depends on the parameter {names(direct)} itself; "
                "move that part of it into penalty."
            )


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
        _check_functions(
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
        penalty = _penalty_at(problem, self.penalty, seed)
        return SplitPoint(point, penalty, {}, _inner_at(problem, number))

    def _pulled_back(self, problem: Problem, batch: Batch, seed: int) -> PulledBack:
        outputs = _outputs(problem, self.predict, batch, seed)
        scores = self._scores(problem, outputs.value, batch, seed)
        if problem.checked:
            problem.check(outputs.graph.sum(), "predict")

        def on_rows(rows: Tensor) -> PulledBack:
            def of(part: Batch) -> PulledBack:
                some = _outputs(problem, self.predict, part, seed, record=True)
                # the same targets: others would be another matrix
                whole = len(some.value) != len(rows)
                return PulledBack(some, Scores(scores if whole else scores[:, rows]))

            return _of_part(of, batch, len(outputs.value), rows)

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


@dataclass(frozen=True)
class ExactHessian(Curvature):
    """∂²L_T/∂w² itself: what `Implicit` uses where no curvature is given."""

    @property
    def closures(self) -> tuple[Callable[..., Any], ...]:
        """None but the inner loss."""
        return ()

    def at(self, problem: Problem, number: int) -> Point:
        """One retained graph of the inner gradient serves every product."""
        return HessianPoint(_inner_at(problem, number))


def cut(batch: Any, count: int, rows: Tensor) -> Any:
    """The given rows of whatever in the batch has one for each of `count`."""
    if isinstance(batch, Tensor):
        has_rows = batch.ndim > 0 and len(batch) == count
        return batch[rows.to(batch.device)] if has_rows else batch
    if isinstance(batch, Mapping):
        return {key: cut(value, count, rows) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        parts = [cut(value, count, rows) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def _of_part(
    make: Callable[[Batch], PulledBack], batch: Batch, count: int, rows: Tensor
) -> PulledBack:
    """The curvature of the given rows; of all, where closures hold a part of the batch."""
    try:
        return make(cut(batch, count, rows))
    except InputError:
        raise
    except (RuntimeError, ValueError, IndexError):  # shapes that do not fit each other
        return make(batch)


def _inner_at(problem: Problem, number: int) -> Linearization:
    return Linearization(
        lambda params, hyper: problem.inner_batch_loss(params, hyper, number),
        problem.params,
        problem.hyper,
    )


def _penalty_at(
    problem: Problem, penalty: Callable[..., Tensor] | None, seed: int
) -> Linearization | None:
    if penalty is None:
        return None
    pure = problem.pure(penalty)

    def of_trees(params: Tree, hyper: Tree) -> Tensor:
        value = check_scalar(pure(params, hyper, (), seed), "penalty")
        problem.check(value, "penalty")
        return value

    return Linearization(of_trees, problem.params, problem.hyper, partial=True)


def _outputs(
    problem: Problem,
    predict: Callable[..., Tensor],
    batch: Batch,
    seed: int,
    *,
    record: bool = False,
) -> Outputs:
    pure = problem.pure(predict)
    return Outputs(
        lambda params, hyper: pure(params, hyper, batch, seed),
        problem.params,
        problem.hyper,
        record=record,
    )


def _check_same(problem: Problem, number: int, total: Tensor) -> None:
    """Refuse parts that do not add up to the inner loss: the curvature would be another's."""
    params = leaves_of(problem.params)
    inner = problem.inner_batch_loss(params, problem.hyper, number)
    gradients = torch.autograd.grad(inner, list(params.values()), allow_unused=True)
    check_used(gradients, params)
    expected, found = float(inner.detach()), float(total)
    tolerance = torch.finfo(torch.promote_types(inner.dtype, total.dtype)).eps ** _SAME
    if abs(expected - found) > tolerance * max(abs(expected), abs(found), 1e-8):
        raise InputError(
            f"predict, loss and penalty give {found:.6g} where the inner loss is {expected:.6g}; "
            "inner(*batch) must equal loss(predict(*batch), *batch) + penalty()."
        )


def _check_functions(**functions: Any) -> None:
    for name, function in functions.items():
        if function is not None:
            check_callable(function, name)
