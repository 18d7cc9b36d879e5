"""Outputs that are linear in what the gates are fed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from bestresponse._context import load_forward_mode


def has_tangent(x: Tensor) -> bool:
    """Whether forward mode differentiates it."""
    return forward_ad.unpack_dual(x).tangent is not None


def with_tangent(x: Tensor) -> Tensor:
    """`x` with a tangent of zeros if it has none.

    Where one of two operands lacks its tangent, PyTorch finds the shape of the missing one by code
    in Python, which takes milliseconds; zeros cost microseconds.
    """
    if has_tangent(x):
        return x
    dual: Tensor = forward_ad.make_dual(x, torch.zeros_like(x))
    return dual


def linearized(run: Callable[[Tensor], Tensor], tangent: Tensor, *, forward: bool) -> Tensor:
    """F(0) + J_f(0) · tangent.

    Args:
        run: f, of a tensor like `tangent`.
        tangent: Δ.
        forward: in one pass of forward mode; else by two reverse passes, for what has no forward
            derivative.
    """
    if forward:
        load_forward_mode()
        with forward_ad.dual_level():
            ended = forward_ad.unpack_dual(
                run(forward_ad.make_dual(torch.zeros_like(tangent), tangent))
            )
        return ended.primal if ended.tangent is None else ended.primal + ended.tangent
    origin = torch.zeros_like(tangent, requires_grad=True)
    outputs = run(origin)
    probe = torch.zeros_like(outputs, requires_grad=True)
    (pulled,) = torch.autograd.grad(outputs, origin, probe, create_graph=True)
    (moved,) = torch.autograd.grad(pulled, probe, tangent, create_graph=True)
    return outputs + moved
