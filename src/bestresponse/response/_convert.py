"""A model with some of its layers replaced, and back."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor, nn

from bestresponse._errors import InputError
from bestresponse.response._conv2d import Conv2d
from bestresponse.response._draw import Slot
from bestresponse.response._dropout import Dropout, drop_inputs
from bestresponse.response._embedding import Embedding
from bestresponse.response._layer import ResponseLayer
from bestresponse.response._linear import Linear
from bestresponse.response._lstm import LSTM

_LAYERS: dict[type[nn.Module], Callable[..., ResponseLayer]] = {
    nn.Linear: Linear,
    nn.Conv2d: Conv2d,
    nn.Embedding: Embedding,
    nn.LSTM: LSTM,
}
_DROPOUTS = {nn.Dropout: 0, nn.Dropout1d: 1, nn.Dropout2d: 2, nn.Dropout3d: 3}
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INPUTS = {nn.Linear: 0, nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}


def convert(
    model: nn.Module,
    hyper: int,
    slot: Slot,
    layers: Sequence[str] | None,
    gate_std: float,
) -> tuple[nn.Module, tuple[str, ...], tuple[str, ...]]:
    """The model, changed in place, the layers that respond now, and those that cannot.

    Args:
        model: a copy of the user's model.
        hyper: numbers that a layer responds to.
        slot: what the layers share.
        layers: names of those to convert; None is all that can be.
        gate_std: of the response layers.
    """
    known = dict(model.named_modules(remove_duplicate=False))
    chosen = [*known] if layers is None else _known(layers, known)
    made: dict[int, ResponseLayer] = {}
    converted, refused = [], []
    for name in chosen:
        module = known[name]
        if id(module) not in made:
            try:
                made[id(module)] = _LAYERS[type(module)](module, hyper, gate_std)
            except (KeyError, InputError):
                refused.append(name)
                continue
            made[id(module)].slot = slot
        converted.append(name)
    if layers is not None and refused:
        raise InputError(
            f"The layer '{refused[0]}' is a {type(known[refused[0]]).__name__}, which has no "
            f"response; {_NAMES} can be converted."
        )
    if not converted:
        raise InputError(
            f"The model has no layer that can be converted ({_NAMES}); put the response layers "
            "of br.response into it, or take another model."
        )
    _warn_of_batch_norm(known.values())
    left = [name for name in refused if [*known[name].parameters(recurse=False)]]
    return replaced(model, made), tuple(converted), tuple(left)


def connect_dropout(
    model: nn.Module, dropout: Mapping[str, str], slot: Slot, rates: Mapping[str, Tensor]
) -> tuple[nn.Module, set[str]]:
    """The model, changed in place, with the named rates; and the rates that batches share.

    Args:
        model: a copy of the user's model, converted or not.
        dropout: name of a hyperparameter by name of a layer.
        slot: what the layers share.
        rates: values of the hyperparameters.
    """
    known = dict(model.named_modules(remove_duplicate=False))
    shared: set[str] = set()
    made: dict[int, nn.Module] = {}
    for name, rate in dropout.items():
        _check_rate(rate, rates)
        (module,) = (known[each] for each in _known([name], known))
        if isinstance(module, (Embedding, LSTM)):
            module.rate = rate
            shared.add(rate)
            continue
        kind = type(module.plain) if isinstance(module, ResponseLayer) else type(module)
        if isinstance(module, Dropout):
            module.slot, module.rate = slot, rate
        elif kind in _DROPOUTS:
            made[id(module)] = _drop(slot, rate, _DROPOUTS[kind], module.training)
        elif kind in _INPUTS:
            drop_inputs(module, _drop(slot, rate, _INPUTS[kind], module.training))
        else:
            raise InputError(
                f"dropout names '{name}', a {kind.__name__}, which nothing can be dropped of; "
                "name Dropout, Linear, Conv, or converted Embedding or LSTM layers."
            )
    return replaced(model, made), shared


def frozen(
    model: nn.Module, z: Tensor | None, rates: Mapping[str, Tensor], slot: Slot
) -> nn.Module:
    """A plain copy of the model at the gates' input z and the given dropout rates.

    Args:
        model: as `convert` left it.
        z: (h,), or None for the elementary weights.
        rates: the value of each hyperparameter.
        slot: what its layers share, and those of the copy do not.
    """
    model = copy.deepcopy(model, {id(slot): None})
    made: dict[int, nn.Module] = {}
    for module in [*model.modules()]:
        if isinstance(module, ResponseLayer):
            made[id(module)] = _plain(module, z)
        elif isinstance(module, Dropout) and module.rate:
            module.p, module.rate = float(rates[module.rate]), ""
    return replaced(model, made)


def response_layers(model: nn.Module) -> dict[str, ResponseLayer]:
    """By name, each once."""
    found = model.named_modules()
    return {name: layer for name, layer in found if isinstance(layer, ResponseLayer)}


def plain_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The elementary parameters by the names that they have in the plain model."""
    layers = response_layers(model)
    own = {id(p) for layer in layers.values() for p in layer.response_parameters()}
    found = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in own:
            path, _, leaf = name.rpartition(".")
            layer = path.removesuffix("plain").removesuffix(".")
            found[_joined(layer, leaf) if layer in layers else name] = parameter
    return found


def replaced(model: nn.Module, by: Mapping[int, nn.Module]) -> nn.Module:
    """The model, changed in place, with other modules where those of the given ids were."""
    if id(model) in by:
        return by[id(model)]
    for name, module in [*model.named_modules(remove_duplicate=False)]:
        if id(module) in by:
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, by[id(module)])
    return model


def _joined(layer: str, leaf: str) -> str:
    return f"{layer}.{leaf}" if layer else leaf


def _drop(slot: Slot, rate: str, spatial: int, training: bool) -> Dropout:
    """Connected, and sharing its mask in as many last dimensions."""
    drop = Dropout(dims_shared=range(-spatial, 0)).train(training)
    drop.slot, drop.rate = slot, rate
    return drop


def _known(names: Iterable[str], known: Mapping[str, nn.Module]) -> list[str]:
    names = list(names)
    missing = [name for name in names if name not in known]
    if missing:
        raise InputError(
            f"The model has no layer '{missing[0]}'; known: {', '.join(filter(None, known))}."
        )
    return names


def _check_rate(rate: str, rates: Mapping[str, Tensor]) -> None:
    if rate not in rates:
        raise InputError(f"There is no hyperparameter '{rate}'; known: {', '.join(rates)}.")
    if rates[rate].ndim:
        raise InputError(
            f"The dropout rate '{rate}' has shape {tuple(rates[rate].shape)}; give each layer a "
            "hyperparameter that is one number."
        )


def _warn_of_batch_norm(modules: Iterable[nn.Module]) -> None:
    if any(isinstance(module, _BATCH_NORMS) for module in modules):
        warnings.warn(
            "The model has batch norm, whose statistics will be those of perturbed networks; "
            "recalibrate them in the end, with torch.optim.swa_utils.update_bn(loader, "
            "net.freeze()), or use group norm.",
            stacklevel=4,
        )


def _plain(layer: ResponseLayer, z: Tensor | None) -> nn.Module:
    """The layer's plain one, with the weights at z."""
    plain = layer.plain
    dropout = dict(layer.named_children()).get("input_dropout")
    if isinstance(dropout, Dropout):
        drop_inputs(plain, dropout)
    if z is not None:
        for name, weight in layer.explicit(z).items():
            setattr(plain, name, nn.Parameter(weight.detach()))
    return plain


_NAMES = ", ".join(each.__name__ for each in _LAYERS)
