"""Weight decay with its own strength for each weight, channel, tensor, or for the model."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, autograd, nn

from bestresponse._errors import InputError
from bestresponse._modules import escape, named_parameters, unwrap

Granularity = Literal["weight", "channel", "tensor", "model"]

_NORMALIZATIONS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    nn.LayerNorm, nn.GroupNorm, nn.RMSNorm,
)  # fmt: skip
_SHARED = "model"


class WeightDecay(nn.Module):
    """½ Σ e^λ w², with the logarithm λ of each decay as a hyperparameter.

    It stores names and shapes, never the model: `decay(model)` is the penalty. Parameters that are
    frozen when it is made do not decay.

    Args:
        model: the module whose parameters decay.
        per: one λ per `weight`, per `channel` (first dimension), per `tensor`, or one for the
            whole `model`.
        init: initial decay e^λ, a positive number.
        biases: decay biases and the parameters of normalization layers too.

    Raises:
        InputError: if there is nothing to decay, or `init` is not positive.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> _ = nn.init.ones_(model.weight)
        >>> decay = WeightDecay(model, per="weight", init=0.1)
        >>> decay(model).detach()  # ½ · 0.1 · (1 + 1)
        tensor(0.1000)
    """

    def __init__(
        self,
        model: nn.Module,
        per: Granularity = "weight",
        init: float = 1e-4,
        biases: bool = False,
    ) -> None:
        super().__init__()
        if per not in get_args(Granularity):
            raise InputError(
                f"per='{per}' is unknown; use one of {', '.join(get_args(Granularity))}."
            )
        if not 0 < init < math.inf:
            raise InputError(f"init={init} must be positive: it is a decay, not its logarithm.")
        decayed = _decayed_parameters(unwrap(model), biases)
        if not decayed:
            raise InputError(
                "The model has no weight to decay; pass biases=True to decay biases and "
                "normalization parameters."
            )
        self.per = per
        self._shapes = {name: weight.shape for name, weight in decayed.items()}
        self.log_decay = nn.ParameterDict(_log_decays(decayed, per, math.log(init)))

    def forward(self, model: nn.Module) -> Tensor:
        """The penalty of the model's parameters, a scalar."""
        weights = named_parameters(unwrap(model))
        for name, shape in self._shapes.items():
            if name not in weights or weights[name].shape != shape:
                raise InputError(
                    f"The model has no parameter '{name}' of shape {tuple(shape)}; "
                    "this WeightDecay was made for another model."
                )
        penalties = [self._penalty(name, weights[name]) for name in self._shapes]
        return functools.reduce(torch.add, [p.to(penalties[0].device) for p in penalties])

    def _penalty(self, name: str, weight: Tensor) -> Tensor:
        decay = self.log_decay[_SHARED if self.per == "model" else escape(name)].exp()
        weight = weight.to(torch.promote_types(weight.dtype, decay.dtype))
        return _HalfWeightedSquares.apply(decay, weight)

    def extra_repr(self) -> str:
        """Granularity and number of hyperparameters."""
        return f"per={self.per}, hyperparameters={sum(p.numel() for p in self.parameters())}"


class _HalfWeightedSquares(autograd.Function):
    """½ Σ a w², whose gradient's graph holds a and w alone.

    Autograd's own graph of the gradient keeps w² and half of a as well: with one decay per weight,
    two vectors as long as w for the whole of a solve, and two passes more for each product.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(decay: Tensor, weight: Tensor) -> Tensor:
        return 0.5 * (decay * weight).mul_(weight).sum()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor]:
        decay, weight = ctx.saved_tensors
        by_decay = None
        if ctx.needs_input_grad[0]:
            by_decay = (0.5 * slope * weight * weight).sum_to_size(decay.shape)
        return by_decay, slope * (decay * weight)

    @staticmethod
    def jvp(ctx: Any, decay_tangent: Tensor, weight_tangent: Tensor) -> Tensor:
        decay, weight = ctx.saved_tensors
        return ((0.5 * decay_tangent * weight + decay * weight_tangent) * weight).sum()


def _decayed_parameters(model: nn.Module, biases: bool) -> dict[str, Tensor]:
    parameters = {n: p for n, p in named_parameters(model).items() if p.requires_grad}
    if biases:
        return {**parameters}
    normalizing = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _NORMALIZATIONS)
        for parameter in module.parameters(recurse=False)
    }
    return {
        name: parameter
        for name, parameter in parameters.items()
        if id(parameter) not in normalizing and "bias" not in name.rpartition(".")[2]
    }


def _log_decays(decayed: dict[str, Tensor], per: str, log_init: float) -> dict[str, nn.Parameter]:
    if per == "model":
        first = next(iter(decayed.values()))
        return {_SHARED: nn.Parameter(torch.tensor(log_init).to(first.device, _wide(first)))}
    return {
        escape(name): nn.Parameter(
            torch.full(_shape(weight, per), log_init, device=weight.device, dtype=_wide(weight))
        )
        for name, weight in decayed.items()
    }


def _wide(weight: Tensor) -> torch.dtype:
    """At least float32: a logarithm of a decay needs the digits even if its weight does not."""
    return torch.promote_types(weight.dtype, torch.float32)


def _shape(weight: Tensor, per: str) -> tuple[int, ...]:
    if per == "weight":
        return tuple(weight.shape)
    if per == "channel" and weight.ndim:
        return (weight.shape[0],) + (1,) * (weight.ndim - 1)
    return ()
