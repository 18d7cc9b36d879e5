"""The built-in classifiers, and a factory in the user's own file."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bestresponse._errors import InputError
from bestresponse.apps import _options
from bestresponse.apps._networks import Shape, alexnet, check_image, resnet18, resnet44
from bestresponse.apps._run import absolute
from bestresponse.apps._user_file import function_in_file, said


def linear(shape: Shape, classes: int) -> nn.Module:
    """Multinomial logistic regression."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), classes))


def mlp(shape: Shape, classes: int) -> nn.Module:
    """One hidden layer of 256."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(prod(shape), 256), nn.ReLU(), nn.Linear(256, classes)
    )


def cnn(shape: Shape, classes: int) -> nn.Module:
    """Two convolutions and a linear layer."""
    channels = check_image(shape, "cnn", 4)[0]
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(64 * 16, classes),
    )


def resnet(shape: Shape, classes: int) -> nn.Module:
    """Three stages of two residual blocks each, with batch normalization."""
    widths = (16, 32, 64)
    channels = check_image(shape, "resnet", 4)[0]
    layers: list[nn.Module] = [_convolution(channels, widths[0]), nn.ReLU()]
    before = widths[0]
    for stage, width in enumerate(widths):
        layers += [_Residual(before, width, stride=1 if stage == 0 else 2), _Residual(width, width)]
        before = width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)
    )


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(inputs, outputs, stride), nn.ReLU(), _convolution(outputs, outputs)
        )
        self.skip = (
            nn.Identity()
            if inputs == outputs and stride == 1
            else nn.Conv2d(inputs, outputs, 1, stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs)
    )


BUILT_IN: dict[str, Callable[[Shape, int], nn.Module]] = {
    "linear": linear,
    "mlp": mlp,
    "cnn": cnn,
    "resnet": resnet,
    "alexnet": alexnet,
    "resnet18": resnet18,
    "resnet44": resnet44,
}


def is_file(model: str) -> bool:
    """Whether `model` names a factory in a file."""
    return model not in BUILT_IN and ":" in model


def located(model: str) -> str:
    """A model's name that means the same from every folder."""
    if not is_file(model):
        return model
    path, _, name = model.rpartition(":")
    return f"{absolute(Path(path))}:{name}"


def check_resumed(given: set[str], model: str) -> None:
    """Refuse settings that a run which goes on has already.

    Args:
        given: the settings that the user gave.
        model: as they named it.
    """
    extra = given - {"resume", "model"}
    if extra:
        raise InputError(
            "--resume continues with the run's own settings; "
            f"leave {_options.flag(min(extra))} out."
        )
    if "model" in given and not is_file(model):
        raise InputError(
            "--resume knows the run's model; leave --model out (it is only needed again for "
            "FILE.py:FACTORY)."
        )


def check_named(saved: str, given: str) -> None:
    """Code in a file is run only if the user names it; a built-in model needs no naming."""
    if is_file(saved) and located(given) != saved:
        raise InputError(
            "The run's model is code in a file, which is not run unless you name it again; "
            f"add --model {shlex.quote(saved)} if you trust it."
        )


def named_again(model: str) -> str:
    """The flag that continues a run with such a model, after a blank; nothing if none is needed."""
    return f" --model {shlex.quote(model)}" if is_file(model) else ""


def factory(model: str) -> Callable[[], nn.Module] | Callable[[Shape, int], nn.Module]:
    """The function that builds `model`: a built-in name or `FILE.py:FACTORY`."""
    if model in BUILT_IN:
        return BUILT_IN[model]
    if not is_file(model):
        raise InputError(
            f"--model {model} is unknown; use {', '.join(BUILT_IN)} or FILE.py:FACTORY."
        )
    return function_in_file(model, "--model")


def build(model: str, shape: Shape, classes: int, seed: int) -> nn.Module:
    """A freshly initialised classifier of inputs `shape` into `classes`; same seed, same weights.

    A factory in a file is called as `factory(shape, classes)`.

    Raises:
        InputError: if the factory fails or gives something that is no such classifier.
    """
    make: Any = factory(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            made = make(shape, classes)
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(
                f"--model {model} failed as FACTORY({shape}, {classes}): {said(error)}."
            ) from error
        _check(made, model, shape, classes)  # lazy modules draw their weights here
    return made


def _check(made: object, model: str, shape: Shape, classes: int) -> None:
    if not isinstance(made, nn.Module):
        raise InputError(f"--model {model} returned {type(made).__name__}, not a torch.nn.Module.")
    if [name for name, _ in made.named_children()] == ["_orig_mod"]:
        raise InputError(
            f"--model {model} returned a compiled module, which has no second derivative; "
            "return it uncompiled."
        )
    if not any(parameter.requires_grad for parameter in made.parameters()):
        raise InputError(f"--model {model} returned a module without trainable parameters.")
    training = made.training
    try:
        with torch.no_grad():
            out = made.eval()(torch.zeros(2, *shape))
    except Exception as error:
        raise InputError(
            f"--model {model} fails on a batch of shape {(2, *shape)}: {said(error)}."
        ) from error
    made.train(training)
    floating = isinstance(out, Tensor) and out.is_floating_point()
    if not floating or out.shape != (2, classes):
        got = f"{out.dtype} {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise InputError(
            f"--model {model} maps a batch of 2 to {got}; it must give (2, {classes}), "
            "one logit a class."
        )
