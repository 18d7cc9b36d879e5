"""The functional core: hypergradients of plain functions of trees."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from bestresponse._context import Surroundings, ambient_autocast
from bestresponse._errors import InputError
from bestresponse._guards import check_callable
from bestresponse._problem import Batches, Problem, Pure
from bestresponse._purify import Batch, call_with_batch
from bestresponse._result import Memory, SolveError
from bestresponse._tree import Layout, Tree
from bestresponse.methods._base import Hypergradient, Method


def hypergradient(
    inner: Callable[..., Tensor],
    outer: Callable[..., Tensor],
    params: Tree,
    hyper: Tree,
    method: Method,
    inner_batch: Batch | Batches = (),
    outer_batch: Batch = (),
    *,
    seed: int = 0,
    memory: Memory | None = None,
    throw: bool = True,
) -> Hypergradient:
    """dL_V/dλ for plain functions of trees.

    Args:
        inner: `inner(params, hyper, *inner_batch)`, the inner loss, a scalar.
        outer: `outer(params, hyper, *outer_batch)`, the outer loss, a scalar.
        params: w by name; for `Implicit` a minimum of the inner loss, for `Unroll` the start.
        hyper: λ by name.
        method: how the best response is differentiated.
        inner_batch: a tuple (by position), a mapping (by keyword), or `Batches` of them.
        outer_batch: a tuple or a mapping.
        seed: of the randomness that the losses draw.
        memory: what an earlier call left (`.memory`), for a warm start.
        throw: raise `SolveError` for an error result instead of returning it in the report.

    Raises:
        SolveError: if the solve failed or a number is not finite.
        InputError: for losses or trees that cannot be differentiated.

    Example:
        One-dimensional ridge regression: w* = xy / (x² + d), so dw*/dd = −xy / (x² + d)².

        >>> from bestresponse import Dense, Implicit
        >>> def inner(params, hyper, x, y):
        ...     return ((x * params["w"] - y) ** 2 + hyper["d"] * params["w"] ** 2) / 2
        >>> outer = lambda params, hyper: params["w"]
        >>> x, y = torch.tensor(2.0), torch.tensor(3.0)
        >>> at = {"w": torch.tensor(1.2)}, {"d": torch.tensor(1.0)}
        >>> hypergradient(inner, outer, *at, Implicit(Dense()), (x, y)).value["d"]
        tensor(-0.2400)
    """
    check_method(method)
    surroundings = Surroundings(_cuda_devices(params, hyper), ambient_autocast())

    def pure(closure: Callable[..., Any]) -> Pure:
        def function(params: Tree, hyper: Tree, batch: Batch, seed: int, *leading: Any) -> Any:
            with surroundings.closure(seed):
                return call_with_batch(closure, *leading, params, hyper, batch=batch)

        return function

    problem = Problem(
        inner=pure(check_callable(inner, "inner")),
        outer=pure(check_callable(outer, "outer")),
        params=_detached(params),
        hyper=_detached(hyper),
        inner_batch=inner_batch,
        outer_batch=outer_batch,
        seeds=(seed, seed + 1_000_003),
        read=lambda setting, hyper: setting(hyper) if callable(setting) else setting,
        live=dict(params),
        live_hyper=dict(hyper),
        outer_mode=nullcontext,
        pure=pure,
        memory=memory or {},
    )
    with surroundings.call():
        return run_method(method, problem, throw=throw)


def run_method(method: Method, problem: Problem, *, throw: bool) -> Hypergradient:
    """The method's hypergradient; an error result is raised if `throw`."""
    if torch.is_inference_mode_enabled():
        raise InputError(
            "A hypergradient cannot be taken in inference mode; leave torch.inference_mode()."
        )
    result = method.differentiate(problem)
    if throw and result.report.result.is_error:
        raise SolveError(result.report.result, f"({result.report})")
    return result


def check_method(method: object) -> None:
    """Refuse what is no method."""
    if not isinstance(method, Method):
        raise InputError(
            f"{method!r:.60} is not a method; use br.Implicit, br.Unroll or br.FiniteDifference."
        )


def _detached(tree: Tree) -> Tree:
    if not tree:
        raise InputError("params and hyper must each hold at least one tensor.")
    Layout.of(tree)  # refuses what cannot be differentiated
    return {name: leaf.detach() for name, leaf in tree.items()}


def _cuda_devices(*trees: Tree) -> tuple[int, ...]:
    tensors = [leaf for tree in trees for leaf in tree.values()]
    return tuple(sorted({t.device.index for t in tensors if t.device.type == "cuda"}))
