"""The three models, from small and dense to convolutional."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

_CONVOLUTIONAL_WEIGHTS = 481_386


class Residual(nn.Module):
    """x + conv(relu(conv(x))), rectified."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(channels, channels), _convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`."""
        return (x + self.second(self.first(x).relu())).relu()


def logistic_regression() -> nn.Module:
    """784 → 10."""
    return nn.Linear(784, 10)


def perceptron() -> nn.Module:
    """784 → 512 → 512 → 10, rectified."""
    return nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )


def convolutional() -> nn.Module:
    """A small residual network without normalisation, 481,386 weights."""
    layers = OrderedDict(
        stem=_convolution(3, 32),
        stem_relu=nn.ReLU(),
        pool=nn.AvgPool2d(2),
        block32=Residual(32),
        to64=_convolution(32, 64, stride=2),
        to64_relu=nn.ReLU(),
        block64=Residual(64),
        to128=_convolution(64, 128, stride=2),
        to128_relu=nn.ReLU(),
        block128=Residual(128),
        mean=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        head=nn.Linear(128, 10),
    )
    model = nn.Sequential(layers)
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert weights == _CONVOLUTIONAL_WEIGHTS, weights
    return model


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
