"""The networks of the papers, by their number of weights: AlexNet, ResNet-18 and ResNet-44."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bestresponse._errors import InputError

Shape = tuple[int, ...]


def wide_mlp(shape: Shape, classes: int) -> nn.Module:
    """One hidden layer, as wide as the input."""
    width = prod(shape)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
    )


def alexnet(shape: Shape, classes: int) -> nn.Module:
    """Five convolutions and three linear layers, with dropout: AlexNet for small images."""
    channels, *sides = check_image(shape, "alexnet", 15)
    rows, columns = ((side + 1) // 2 // 2 // 2 // 2 for side in sides)
    return nn.Sequential(
        nn.Conv2d(channels, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 192, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(256 * rows * columns, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Linear(4096, classes),
    )


def resnet18(shape: Shape, classes: int) -> nn.Module:
    """Four stages of two blocks, with convolutions in the skips where the width changes."""
    return _resnet(check_image(shape, "resnet18", 8), classes, (64, 128, 256, 512), 2, padded=False)


def resnet44(shape: Shape, classes: int) -> nn.Module:
    """Three stages of seven blocks, whose skips have no weights."""
    return _resnet(check_image(shape, "resnet44", 4), classes, (16, 32, 64), 7, padded=True)


def check_image(shape: Shape, name: str, least: int) -> Shape:
    """Refuse what is no image, or too small a one."""
    if len(shape) != 3 or min(shape[1:]) < least:
        raise InputError(
            f"--model {name} needs images of at least {least}×{least} pixels, the data has shape "
            f"{shape}; use --model mlp or linear."
        )
    return shape


def _resnet(
    shape: Shape, classes: int, widths: Sequence[int], blocks: int, *, padded: bool
) -> nn.Module:
    layers: list[nn.Module] = [*_convolution(shape[0], widths[0]), nn.ReLU()]
    before = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(_Block(before, width, stride, padded=padded))
            before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


class _Block(nn.Module):
    """Two convolutions beside a skip, of He, Zhang, Ren, Sun (2016).

    Where the width changes, the skip of `padded` blocks takes every other pixel and fills up with
    channels of zeros; otherwise it is a convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, padded: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(inputs, outputs, stride), nn.ReLU(), *_convolution(outputs, outputs)
        )
        self.skip: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.skip = (
                _Padded(outputs - inputs, stride)
                if padded
                else nn.Sequential(*_convolution(inputs, outputs, stride, size=1))
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))


class _Padded(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        before = self.channels // 2
        return F.pad(
            x[:, :, :: self.stride, :: self.stride],
            (0, 0, 0, 0, before, self.channels - before),
        )


def _convolution(
    inputs: int, outputs: int, stride: int = 1, size: int = 3
) -> tuple[nn.Module, nn.Module]:
    return (
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )
