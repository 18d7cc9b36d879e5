"""Dropout at the inputs of a model's layers, with learned rates."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor, nn

from bestresponse._errors import InputError
from bestresponse._modules import escape, unwrap
from bestresponse.hyper._dropout import ConcreteDropout

Granularity = Literal["layer", "unit"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LayerDropout(nn.Module):
    """Runs a model with dropout before its linear and convolutional layers, the first excepted.

    `dropout(model, x)` is the model's output with fresh masks; `model(x)` stays what it was, so
    that nothing has to be taken out of the model in the end. It stores names, never the model.
    Convolutions lose whole channels, linear layers units. In eval mode nothing is dropped.

    Args:
        model: whose layers these are.
        per: one rate for each `layer`, or for each `unit`: an input, or an input channel.
        init: initial rate, between 0 and 1.
        layers: names of the layers, for others than all but the first.
        temperature: of the relaxation, see `ConcreteDropout`.

    Raises:
        InputError: if there is no such layer, or a setting makes no sense.

    Source: Gal, Hron, Kendall, "Concrete Dropout" (2017), https://arxiv.org/abs/1705.07832

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> dropout = LayerDropout(model, per="unit", init=0.2)
        >>> {name: tuple(rate.shape) for name, rate in dropout.rates().items()}
        {'2': (8,)}
        >>> import torch
        >>> dropout(model, torch.ones(3, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        model: nn.Module,
        per: Granularity = "layer",
        init: float = 0.1,
        layers: Sequence[str] | None = None,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        if per not in get_args(Granularity):
            raise InputError(
                f"per='{per}' is unknown; use one of {', '.join(get_args(Granularity))}."
            )
        chosen = _layers(unwrap(model), layers)
        self._sizes = {name: _inputs(layer) for name, layer in chosen.items()}
        self.drops = nn.ModuleDict(
            {
                _key(name): ConcreteDropout(
                    init, _shape(layer) if per == "unit" else (), temperature
                )
                for name, layer in chosen.items()
            }
        )

    def forward(self, model: nn.Module, *inputs: Any, **named: Any) -> Any:
        """`model(*inputs)` with dropout, if the model is in training mode.

        Raises:
            InputError: if the model lacks a layer of the one this was made for.
        """
        if not model.training:
            return model(*inputs, **named)
        layers = dict(unwrap(model).named_modules())
        with ExitStack() as hooks:
            for name, size in self._sizes.items():
                layer = layers.get(name)
                if layer is None or not _is_layer(layer) or _inputs(layer) != size:
                    raise InputError(
                        f"The model has no layer '{name}' with {size} inputs; "
                        "this LayerDropout was made for another model."
                    )
                handle = layer.register_forward_pre_hook(partial(self._dropped, name))
                hooks.callback(handle.remove)
            return model(*inputs, **named)

    def rates(self) -> dict[str, Tensor]:
        """The rates by layer, detached: scalars, or one for each input."""
        found = {name: self._drop(name).rate.detach() for name in self._sizes}
        return {name: rate.reshape(-1) if rate.ndim else rate for name, rate in found.items()}

    def _drop(self, name: str) -> ConcreteDropout:
        """The dropout of a layer."""
        drop = self.drops[_key(name)]
        assert isinstance(drop, ConcreteDropout)
        return drop

    def _dropped(self, name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        """The layer's inputs under a mask; of a convolution, one number a channel."""
        x, *rest = inputs
        space = range(-_spatial(layer), 0)
        return self._drop(name)(x, dims_shared=tuple(space)), *rest

    def extra_repr(self) -> str:
        """The layers."""
        return f"layers={[*self._sizes]}"


def _key(name: str) -> str:
    """A layer's name as a key; the model itself, whose name is empty, can be the layer."""
    return escape(name) or "|"


def _layers(model: nn.Module, names: Sequence[str] | None) -> dict[str, nn.Module]:
    """The layers that drop their inputs, by name."""
    known = {name: layer for name, layer in model.named_modules() if _is_layer(layer)}
    if names is None:
        names = [*known][1:]
        if not names:
            raise InputError(
                "The model has no hidden layer to drop units of; take a deeper one, or name "
                "layers=[...]."
            )
    missing = [name for name in names if name not in known]
    if missing or not names:
        raise InputError(
            f"The model has no linear or convolutional layer {', '.join(map(repr, missing))}; "
            f"known: {', '.join(known) or 'none'}."
            if missing
            else "layers=[] drops nothing; leave it out, or name layers."
        )
    return {name: known[name] for name in names}


def _is_layer(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.Linear, *_CONVOLUTIONS))


def _inputs(layer: nn.Module) -> int:
    """Input channels or units of a layer."""
    size = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    assert isinstance(size, int)
    return size


def _spatial(layer: nn.Module) -> int:
    """Dimensions behind the channels."""
    return 0 if isinstance(layer, nn.Linear) else len(layer.kernel_size)  # type: ignore[arg-type]


def _shape(layer: nn.Module) -> tuple[int, ...]:
    """Of a rate for each input, against the layer's input."""
    return (_inputs(layer), *(1,) * _spatial(layer))
