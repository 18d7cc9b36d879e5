"""Hypergradients through the steps of the inner optimization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._context import autograd_errors
from bestresponse._errors import InputError
from bestresponse._guards import check_used, no_activation_checkpointing
from bestresponse._problem import Batches, Problem
from bestresponse._purify import Batch
from bestresponse._tree import Partial, Tree, leaves_of, tree_norm
from bestresponse.methods._base import Hypergradient, Method, assemble
from bestresponse.optim import Optimizer, State


@dataclass(frozen=True)
class Unroll(Method):
    """dL_V(w_T(λ), λ)/dλ for w_T after `steps` steps of a differentiable optimizer.

    Starts from the given weights, which do not depend on λ. Exact for what it says, a short
    horizon included: hyperparameters that only matter in the long run look useless to few steps.
    Each step draws its own dropout masks; batch-norm statistics stay those of the start.

    Args:
        optimizer: the rule of the inner steps; `br.optim.from_torch(opt)` copies a live one.
        steps: number of steps T.
        truncate: differentiate through the last `truncate` steps only.
        checkpoint: keep one state every `checkpoint` steps and recompute between them on the way
            back: memory for `checkpoint` steps instead of all, for one more forward pass.

    Source: Maclaurin, Duvenaud, Adams, "Gradient-based Hyperparameter Optimization through
    Reversible Learning" (2015), https://arxiv.org/abs/1502.03492; truncation: Shaban, Cheng,
    Hatch, Boots (2019), https://arxiv.org/abs/1810.10667

    Example:
        One step on ½(w − λ)² from w = 0 with lr ½ gives w = λ/2, so dw/dλ = ½.

        >>> import torch, bestresponse as br
        >>> inner = lambda params, hyper: 0.5 * (params["w"] - hyper["a"]).square().sum()
        >>> outer = lambda params, hyper: params["w"].sum()
        >>> at = {"w": torch.tensor([0.0])}, {"a": torch.tensor([3.0])}
        >>> br.hypergradient(inner, outer, *at, br.Unroll(br.optim.SGD(0.5), steps=1)).value["a"]
        tensor([0.5000])
    """

    optimizer: Optimizer
    steps: int
    truncate: int | None = None
    checkpoint: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.optimizer, Optimizer):
            raise InputError(
                f"{type(self.optimizer).__name__} is no differentiable optimizer; use "
                "br.optim.SGD, Momentum or Adam, or br.optim.from_torch(optimizer)."
            )
        for field in ("steps", "truncate", "checkpoint"):
            value = getattr(self, field)
            if value is not None and not (hasattr(value, "__index__") and value >= 1):
                raise InputError(f"Unroll({field}={value}) must be a whole number from 1 on.")

    def differentiate(self, problem: Problem) -> Hypergradient:
        """Forward through all segments, backward from the last to the first."""
        run = _Run(problem, self.optimizer.resolve(problem.live), _schedule(self, problem))
        head, segments = self._segments()
        state = run.without_graph(run.start(), head)
        starts = []
        for segment in segments[:-1]:
            starts.append(state)
            state = run.without_graph(state, segment)
        recorded = run.with_graph(state, segments[-1])
        final = {name: leaf.detach() for name, leaf in recorded.end.params.items()}
        last_gradient_norm = tree_norm(recorded.last_gradient)
        with no_activation_checkpointing("outer"):
            outer = problem.outer_gradients(final)
        cotangents: Cotangents = {("", name): leaf for name, leaf in outer.params.items()}
        through, cotangents = recorded.pull_back(cotangents, to_start=bool(starts))
        while starts:
            recorded = run.with_graph(starts.pop(), segments[len(starts)])
            more, cotangents = recorded.pull_back(cotangents, to_start=bool(starts))
            through = _sum(through, more)
        return assemble(
            problem,
            outer,
            through,
            last_gradient_norm,
            stats=None,
            steps=self.steps,
            params=final,
        )

    def _segments(self) -> tuple[range, list[range]]:
        """The steps without derivative, and the differentiated ones in pieces."""
        first = max(0, self.steps - (self.truncate or self.steps))
        length = self.checkpoint or self.steps
        cuts = range(first, self.steps, length)
        return range(first), [range(cut, min(cut + length, self.steps)) for cut in cuts]


@dataclass(frozen=True)
class _Inner:
    """Where the inner optimization stands."""

    params: Tree
    state: State

    def flat(self) -> dict[tuple[str, str], Tensor]:
        """All tensors in one mapping; weights under the slot ''."""
        slots = {"": self.params, **self.state}
        return {(slot, name): leaf for slot, tree in slots.items() for name, leaf in tree.items()}


Cotangents = dict[tuple[str, str], Tensor | None]


@dataclass(frozen=True)
class _Recorded:
    """A stretch of steps with its graph."""

    start: _Inner
    end: _Inner
    hyper: Tree
    last_gradient: Tree

    def pull_back(self, cotangents: Cotangents, *, to_start: bool) -> tuple[Partial, Cotangents]:
        """The derivatives with respect to λ and, if asked, the start, given that to the end."""
        end, start = self.end.flat(), self.start.flat() if to_start else {}
        outputs = [
            (end[key], value)
            for key, value in cotangents.items()
            if value is not None and end[key].requires_grad
        ]
        with autograd_errors():
            gradients = torch.autograd.grad(
                [output for output, _ in outputs],
                [*self.hyper.values(), *start.values()],
                grad_outputs=[value for _, value in outputs],
                allow_unused=True,
            )
        return (
            dict(zip(self.hyper, gradients, strict=False)),
            dict(zip(start, gradients[len(self.hyper) :], strict=True)),
        )


@dataclass(frozen=True)
class _Run:
    """The inner optimization of one call."""

    problem: Problem
    optimizer: Optimizer
    batches: Sequence[Batch]

    def start(self) -> _Inner:
        params = self.problem.params
        return _Inner(params, self.optimizer.init(params))

    def without_graph(self, inner: _Inner, steps: range) -> _Inner:
        """Plain steps."""
        for step in steps:
            inner, _ = self._step(_detached(inner), leaves_of(self.problem.hyper), step, False)
        return _detached(inner)

    def with_graph(self, inner: _Inner, steps: range) -> _Recorded:
        """Steps that can be differentiated."""
        start, hyper = _detached(inner), leaves_of(self.problem.hyper)
        end, gradient = start, start.params
        for step in steps:
            end, gradient = self._step(end, hyper, step, True)
        return _Recorded(start, end, hyper, gradient)

    def _step(
        self, inner: _Inner, hyper: Tree, step: int, differentiable: bool
    ) -> tuple[_Inner, Tree]:
        """Where one step leads, and the gradient it followed."""
        with no_activation_checkpointing("inner"):
            batch = self.batches[step]
            loss = self.problem.inner_step_loss(inner.params, hyper, batch, step)
            if step == 0:  # later, a long graph lies behind the parameters
                self.problem.check(loss, "inner")
            with autograd_errors():
                gradients = torch.autograd.grad(
                    loss,
                    list(inner.params.values()),
                    create_graph=differentiable,
                    allow_unused=True,
                )
        check_used(gradients, inner.params)
        by_name = dict(zip(inner.params, gradients, strict=True))
        with torch.set_grad_enabled(differentiable):
            params, state = self.optimizer.update(
                inner.params, by_name, inner.state, lambda s: self.problem.read(s, hyper)
            )
        return _Inner(params, state), by_name


def _detached(inner: _Inner) -> _Inner:
    """The same values as leaves."""
    return _Inner(
        leaves_of(inner.params), {slot: leaves_of(tree) for slot, tree in inner.state.items()}
    )


def _schedule(method: Unroll, problem: Problem) -> Sequence[Batch]:
    """The batch of each step."""
    batch = problem.inner_batch
    if not isinstance(batch, Batches):
        return [batch] * method.steps
    if len(batch.items) < method.steps:
        raise InputError(
            f"Unroll takes {method.steps} steps but Batches holds {len(batch.items)}; "
            "pass one batch a step, or a single batch for all of them."
        )
    return batch.items


def _sum(left: Partial, right: Partial) -> Partial:
    total: Partial = {}
    for name, mine in left.items():
        other = right[name]
        total[name] = other if mine is None else mine if other is None else mine + other
    return total
