"""`Nested`: live modules, two closures and a method; calling it gives the outer loss."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._guards import check_callable, check_scalar, is_checked
from bestresponse._modules import Parameters, is_compiled, live_parameters
from bestresponse._peak_memory import PeakMemory
from bestresponse._problem import Batches, Problem, Pure
from bestresponse._purify import Batch, LiveModules, captured_modules, live_modules
from bestresponse._result import Memory, Result, SolveError, Stats, map_memory
from bestresponse._tree import Tree
from bestresponse.methods import Hypergradient, Method, Report
from bestresponse.methods._base import replace_report
from bestresponse.methods._functional import check_method, run_method

_SEED_RANGE = 2**62


class Nested:
    """A nested problem over live modules: calling it returns the outer loss, and a report.

    The gradient of that loss with respect to the hyperparameters is the hypergradient.

    A call leaves weights, buffers, `.grad`, optimizer and the global random state untouched. The
    inner closure runs in the mode the modules are in, the outer one in eval mode. Randomness
    (dropout, augmentation) comes from a seeded stream of its own: all products of one call see
    the same masks, the next call sees others. Draws from NumPy or from private generators cannot
    be pinned; keep them out of the closures.

    Args:
        params: the inner parameters w: a module, several, or `select(module, filter)`.
        hyper: the hyperparameters λ, likewise. Parameters in neither are frozen.
        inner: `inner(*inner_batch)`, the training loss as a scalar, over the live modules.
        outer: `outer(*outer_batch)`, the loss that λ is to make small.
        method: how the best response is differentiated.
        optimizer: the optimizer of the training loop; lets the report say when a training step
            of `torch.optim.SGD` leaves its stable range. Where the solver does not see the largest
            curvature (preconditioned, deflated, `SingleLoop`, `Scale`) that costs a product a call.
        max_norm: clip the hypergradient to this length.
        outer_training: run the outer closure in the modules' own mode instead of eval mode.
        measure_memory: put the peak memory of each call into the report.
        seed: of the stream of randomness.
        throw: raise `SolveError` for an error result; otherwise it is in the report.

    Raises:
        InputError: for modules or closures that cannot be differentiated.

    Example:
        >>> import bestresponse as br
        >>> model, decay = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
        >>> _ = model.weight.data.fill_(1.0), decay.weight.data.fill_(2.0)
        >>> x = torch.ones(1, 1)
        >>> nested = br.Nested(  # ½(w − λ/2)² is smallest at w = λ/2, and the outer loss is w²
        ...     params=model, hyper=decay,
        ...     inner=lambda: 0.5 * (model(x) - decay(x) / 2).square().sum(),
        ...     outer=lambda: model(x).square().sum(),
        ...     method=br.Implicit(br.CG()),
        ... )
        >>> loss, report = nested()
        >>> loss.backward()
        >>> decay.weight.grad  # 2w·½
        tensor([[1.]])
    """

    def __init__(
        self,
        params: Parameters,
        hyper: Parameters,
        inner: Callable[..., Tensor],
        outer: Callable[..., Tensor],
        method: Method,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        max_norm: float | None = None,
        outer_training: bool = False,
        measure_memory: bool = False,
        seed: int = 0,
        throw: bool = True,
    ) -> None:
        self.inner = check_callable(inner, "inner")
        self.outer = check_callable(outer, "outer")
        check_method(method)
        self.method = method
        self.optimizer = optimizer
        self.max_norm = _positive(max_norm)
        self.outer_training = outer_training
        self.measure_memory = measure_memory
        self.throw = throw
        self._sources = (params, hyper)
        self._stream = torch.Generator().manual_seed(seed)
        self._calls = 0
        self._memory: Memory = {}
        self._live()  # bad modules are refused here, not at the first call
        _warn_if_compiled(inner, outer)

    def __call__(
        self, inner_batch: Batch | Batches = (), outer_batch: Batch = ()
    ) -> tuple[Tensor, Report]:
        """The outer loss at the live weights, and the report.

        Args:
            inner_batch: a tuple or list (by position), a mapping (by keyword), or `Batches`.
            outer_batch: a tuple, list or mapping.

        Returns:
            The outer loss, a scalar whose `backward()` adds the hypergradient to the `.grad` of
            the hyperparameters; and the report. With `throw=False` a loss whose hypergradient is
            not finite carries no gradient.

        Raises:
            SolveError: if the solve failed or a number is not finite (unless `throw=False`).
            InputError: for closures or batches that cannot be differentiated.
        """
        with self._problem(inner_batch, outer_batch) as problem:
            peak = PeakMemory(_cuda_devices(problem.live)) if self.measure_memory else None
            try:
                hypergradient = run_method(self.method, problem, throw=self.throw)
            except SolveError:
                self._memory = {}  # what led to the failure does not lead to the next one
                raise
        if peak:
            report = replace(hypergradient.report, peak_memory=peak.read())
            hypergradient = replace_report(hypergradient, report)
        hyper = problem.live_hyper
        self._memory = hypergradient.memory
        hypergradient = _clipped(self._with_stability(hypergradient), self.max_norm)
        if not math.isfinite(hypergradient.report.norm):
            return hypergradient.loss, hypergradient.report
        gradients = [hypergradient.value[name] for name in hyper]
        with torch.enable_grad():
            loss = _Attached.apply(hypergradient.loss, gradients, *hyper.values())
        return loss, hypergradient.report

    def inner_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        """The inner closure with λ held constant, for the training step.

        `inner(*batch).backward()` would also add ∂L_T/∂λ to the hyperparameters' `.grad`; this
        does not. Otherwise it is the closure as it is: buffers are updated, randomness is the
        training loop's own. (An activation-checkpointed region must not read λ here: it is
        recomputed after λ is a variable again, and PyTorch refuses.)
        """
        _, hyper = live_parameters(self._sources[1], "hyper")
        with _constant(hyper.values()):
            return check_scalar(self.inner(*args, **kwargs), "inner")

    def state_dict(self) -> dict[str, Any]:
        """The state of the stream of randomness, and what the next call takes from the last one."""
        return {"stream": self._stream.get_state(), "memory": _copied(self._memory)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        if "stream" not in state:
            raise InputError("This is no state of a Nested; pass what its state_dict() returned.")
        self._stream.set_state(state["stream"])
        self._memory = _copied(state.get("memory", {}))

    def _live(self) -> tuple[LiveModules, Tree, Tree]:
        """The live modules and tensors as they are now; both may have been replaced or moved."""
        closures = [self.inner, self.outer, *self.method.closures]
        return live_modules(*self._sources, closures)

    @contextmanager
    def _problem(
        self, inner_batch: Batch | Batches, outer_batch: Batch, *, ahead: bool = False
    ) -> Iterator[Problem]:
        """The problem of this call at the live weights, inside its surroundings.

        With `ahead` that of the next call, which stays the next one: nothing here moves on.
        """
        modules, params, hyper = self._live()
        surroundings = modules.surroundings()

        def pure(closure: Callable[..., Any]) -> Pure:
            def function(params: Tree, hyper: Tree, batch: Batch, seed: int, *leading: Any) -> Any:
                with surroundings.closure(seed):
                    return modules.evaluate(partial(closure, *leading), params, hyper, batch)

            return function

        def read(setting: Any, hyper: Tree) -> Any:
            return modules.evaluate(setting, {}, hyper, ()) if callable(setting) else setting

        with modules.preserved(), surroundings.call():
            stream = self._stream.clone_state() if ahead else self._stream
            seeds = torch.randint(_SEED_RANGE, (2,), generator=stream).tolist()
            self._calls += not ahead
            yield Problem(
                inner=pure(self.inner),
                outer=pure(self.outer),
                params={name: tensor.detach() for name, tensor in params.items()},
                hyper={name: tensor.detach() for name, tensor in hyper.items()},
                inner_batch=inner_batch,
                outer_batch=outer_batch,
                seeds=(seeds[0], seeds[1]),
                read=read,
                live=params,
                live_hyper=hyper,
                outer_mode=_same_mode if self.outer_training else modules.evaluation_mode,
                pure=pure,
                checked=ahead or is_checked(self._calls),
                memory=self._memory,
                watched=isinstance(self.optimizer, torch.optim.SGD),
            )

    def _with_stability(self, hypergradient: Hypergradient) -> Hypergradient:
        """Add how far the training step is from its stable range, where that is known."""
        report = hypergradient.report
        stability = _stability(self.optimizer, report.stats)
        if stability is None:
            return hypergradient
        report = replace(report, training_stability=stability)
        return replace_report(
            hypergradient, report.warn(Result.unstable_training) if stability > 1 else report
        )


def next_problem(
    nested: Nested, inner_batch: Batch | Batches, outer_batch: Batch
) -> AbstractContextManager[Problem]:
    """The problem that the next call would differentiate, for those who look without calling.

    It lives inside the `with`; stream, memory and count of `nested` stay where they are.
    """
    return nested._problem(inner_batch, outer_batch, ahead=True)


class _Attached(torch.autograd.Function):
    """The outer loss, with the hypergradient as its gradient."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *hyper: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise InputError(
                "create_graph=True cannot differentiate a hypergradient, which is attached to the "
                "outer loss as a constant; use br.Unroll inside your own graph, or drop it."
            )
        return None, None, *(scale.to(g.device, g.dtype) * g for g in ctx.saved_tensors)


@contextmanager
def _constant(leaves: Iterable[Tensor]) -> Iterator[None]:
    """The leaves without gradients, for as long as a graph is recorded."""
    leaves = list(leaves)
    try:
        for leaf in leaves:
            leaf.requires_grad_(False)
        yield
    finally:
        for leaf in leaves:
            leaf.requires_grad_(True)


def _cuda_devices(tensors: Tree) -> list[int]:
    return sorted({t.device.index for t in tensors.values() if t.device.type == "cuda"})


def _copied(memory: Memory) -> Memory:
    """The same with tensors of their own."""
    copies: Memory = map_memory(torch.clone, memory)
    return copies


def _same_mode() -> Any:
    return torch.enable_grad()


def _positive(max_norm: float | None) -> float | None:
    if max_norm is not None and not max_norm > 0:
        raise InputError(f"max_norm={max_norm} is not positive; use None for no clipping.")
    return max_norm


def _clipped(hypergradient: Hypergradient, max_norm: float | None) -> Hypergradient:
    """The hypergradient at most `max_norm` long; its parts are scaled along."""
    if max_norm is None:
        return hypergradient
    norm = hypergradient.report.norm
    if not max_norm < norm < math.inf:
        return hypergradient
    factor = max_norm / norm
    value, direct, indirect = (
        {name: leaf * factor for name, leaf in tree.items()}
        for tree in (hypergradient.value, hypergradient.direct, hypergradient.indirect)
    )
    report = replace(hypergradient.report, norm=max_norm, clipped_from=norm)
    return Hypergradient(value, direct, indirect, hypergradient.loss, report)


def _stability(optimizer: torch.optim.Optimizer | None, stats: Stats | None) -> float | None:
    """Learning rate times largest curvature over its limit, for SGD."""
    if not isinstance(optimizer, torch.optim.SGD) or not stats or not stats.largest_curvature:
        return None
    return max(
        float(group["lr"])
        * (stats.largest_curvature + group["weight_decay"])
        / _stable_limit(group["momentum"], group["dampening"], group["nesterov"])
        for group in optimizer.param_groups
    )


def _stable_limit(momentum: float, dampening: float, nesterov: bool) -> float:
    """What lr·λ must stay below: there the recurrence on a quadratic has a root at −1."""
    if not momentum:
        return 2.0
    if nesterov:
        return 2 * (1 + momentum) / (1 + 2 * momentum)
    return 2 * (1 + momentum) / (1 - dampening) if dampening < 1 else math.inf


def _warn_if_compiled(*closures: Callable[..., Any]) -> None:
    captured = [module for closure in closures for module in captured_modules(closure)]
    if any(is_compiled(inner) for module in captured for inner in module.modules()):
        warnings.warn(
            "A closure calls a compiled module; hypergradients run it uncompiled, since a compiled "
            "graph has no second derivative (training stays compiled).",
            stacklevel=3,
        )
