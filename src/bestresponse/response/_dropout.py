"""Dropout with a rate of its own for each example."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bestresponse._errors import InputError
from bestresponse._guards import mask_shape
from bestresponse.response._draw import Slot, spread
from bestresponse.response._linearized import has_tangent, with_tangent


class Dropout(nn.Module):
    """Inverted dropout, x · mask/(1 − p), whose rate each example has its own of.

    In a `SelfTuning` network that names it in `dropout={...}` the rates are those of the draw;
    elsewhere it drops at the fixed rate `p`. No gradient reaches a rate.

    Args:
        p: the fixed rate, from 0 to below 1.
        dims_shared: dimensions along which one mask serves all entries: time for locked dropout,
            height and width for whole channels.

    Raises:
        InputError: for a rate out of range.

    Example:
        >>> drop = Dropout(0.5, dims_shared=(1,))
        >>> y = drop(torch.ones(2, 3, 4))  # (examples, time, units)
        >>> bool((y[:, :1] == y).all()), torch.equal(drop.eval()(y), y)
        (True, True)
    """

    slot: Slot | None

    def __init__(self, p: float = 0.0, dims_shared: Sequence[int] = ()) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise InputError(f"A dropout rate of {p} drops everything or nothing; use 0 ≤ p < 1.")
        self.p, self.dims_shared = p, tuple(dims_shared)
        self.slot, self.rate = None, ""

    def forward(self, x: Tensor) -> Tensor:
        """`x` under a fresh mask in training mode, `x` itself in eval mode.

        Raises:
            InputError: if there is no such dimension to share along, or another number of
                examples was drawn.
        """
        if not self.training:
            return x
        if self.slot is None or not self.rate:
            return dropped(x, x.new_full((1,), self.p), 0, self.dims_shared) if self.p else x
        rates, forward = self.slot.draw[self.rate], self.slot.forward_mode
        return dropped(x, rates, self.slot.batch_dim, self.dims_shared, forward_mode=forward)

    def extra_repr(self) -> str:
        """The rate's name, or the rate."""
        return f"rate={self.rate}" if self.rate else f"p={self.p}"


def drop_inputs(layer: nn.Module, dropout: Dropout) -> None:
    """Let a layer drop its inputs from now on."""
    layer.input_dropout = dropout
    layer.register_forward_pre_hook(_drop_inputs)  # no closure, so that copies drop by themselves


def _drop_inputs(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x, *rest = inputs
    return layer.get_submodule("input_dropout")(x), *rest


def dropped(
    x: Tensor,
    rates: Tensor,
    batch_dim: int,
    dims_shared: Sequence[int] = (),
    *,
    forward_mode: bool = False,
) -> Tensor:
    """`x` under a mask with the rate of each example.

    Args:
        x: of any shape with examples in dimension `batch_dim`, or flattened with other leading
            dimensions as in `spread`.
        rates: (examples,), or (1,) for all of them; taken as constants.
        batch_dim: which dimension counts examples.
        dims_shared: dimensions along which one mask serves all entries.
        forward_mode: whether derivatives are being taken along.
    """
    keep = 1 - spread(rates.detach().to(x)[:, None], x.shape[:-1], batch_dim)
    mask = torch.rand(mask_shape(x, dims_shared), dtype=x.dtype, device=x.device) < keep
    factors = mask.to(x.dtype) / keep
    return x * (with_tangent(factors) if forward_mode and has_tangent(x) else factors)
