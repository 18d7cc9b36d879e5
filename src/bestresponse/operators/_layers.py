"""Watching a model's layers while it runs: which weights met which inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_ARGUMENTS: dict[Callable[..., Any], tuple[str, ...]] = {
    F.linear: ("input", "weight", "bias"),
    F.conv1d: _CONVOLUTION,
    F.conv2d: _CONVOLUTION,
    F.conv3d: _CONVOLUTION,
    F.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    F.group_norm: ("input", "num_groups", "weight", "bias", "eps"),
    F.batch_norm: (
        "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps",
    ),
    F.embedding: ("input", "weight", "padding_idx", "max_norm", "norm_type",
                  "scale_grad_by_freq", "sparse"),
}  # fmt: skip
CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
BILINEAR = (F.linear, *CONVOLUTIONS)
"""Layers that are linear in their input and in their weight."""


@dataclass(frozen=True)
class LayerCall:
    """One layer's call: the function, its arguments by name, and what came out.

    `version` is the output's when it came out: a later one says that it was overwritten since.
    """

    function: Callable[..., Any]
    arguments: dict[str, Any]
    output: Tensor
    version: int = 0

    @property
    def is_overwritten(self) -> bool:
        """Whether the output was changed in place, as `nn.ReLU(inplace=True)` does."""
        return self.output._version != self.version


class Recording(TorchFunctionMode):
    """Records the layers that run under it, whatever module or function they come from.

    Args:
        functions: which layers; all known ones by default.
        copies: hand out copies of the outputs, so that nothing can overwrite what is recorded.
    """

    def __init__(
        self,
        functions: tuple[Callable[..., Any], ...] = tuple(_ARGUMENTS),
        *,
        copies: bool = False,
    ) -> None:
        super().__init__()
        self.calls: list[LayerCall] = []
        self._functions, self._copies = functions, copies

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func not in self._functions:
            return output
        self.calls.append(LayerCall(func, _named(func, args, kwargs), output, output._version))
        return output.clone() if self._copies else output


class Tangents(TorchFunctionMode):
    """Forward mode that does not compute again what a recording knows.

    The output of a linear layer or a convolution is taken from the recording, and only its tangent
    is computed: two thirds of what forward mode costs by itself. Must see the same calls, none of
    whose outputs is overwritten.
    """

    def __init__(self, calls: list[LayerCall]) -> None:
        super().__init__()
        self._calls = iter(calls)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func not in BILINEAR:
            return func(*args, **(kwargs or {}))
        known = next(self._calls).output
        given = _named(func, args, kwargs)
        input_, input_tangent = forward_ad.unpack_dual(given.pop("input"))
        weight, weight_tangent = forward_ad.unpack_dual(given.pop("weight"))
        bias = given.pop("bias", None)
        bias_tangent = None if bias is None else forward_ad.unpack_dual(bias).tangent
        parts = []
        if weight_tangent is not None:
            parts.append(func(input_, weight_tangent, bias_tangent, **given))
        elif bias_tangent is not None:
            parts.append(func(torch.zeros_like(input_), weight, bias_tangent, **given))
        if input_tangent is not None:
            parts.append(func(input_tangent, weight, None, **given))
        return forward_ad.make_dual(known, sum(parts)) if parts else known


def _named(function: Any, args: tuple[Any, ...], kwargs: Any) -> dict[str, Any]:
    """The arguments by name."""
    return dict(zip(_ARGUMENTS[function], args, strict=False)) | (kwargs or {})
