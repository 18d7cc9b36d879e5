"""The models, from small and dense to convolutional and large."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

_CONVOLUTIONAL_WEIGHTS = 481_386
_ALEXNET_WEIGHTS = 23_272_266


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
    return _counted(nn.Sequential(layers), _CONVOLUTIONAL_WEIGHTS)


def small_convolutional(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Two strided convolutions and a linear layer; 28,938 weights for MNIST."""
    channels, height, width = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * ((height + 3) // 4) * ((width + 3) // 4), classes),
    )


def alexnet() -> nn.Module:
    """AlexNet for 3×32×32 images, 23,272,266 weights."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride, pooled in (
        (3, 64, 2, True), (64, 192, 1, True), (192, 384, 1, False), (384, 256, 1, False),
        (256, 256, 1, True),
    ):  # fmt: skip
        layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pooled else []
    layers += [nn.Flatten(), nn.Dropout(), nn.Linear(256 * 2 * 2, 4096), nn.ReLU()]
    layers += [nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 10)]
    return _counted(nn.Sequential(*layers), _ALEXNET_WEIGHTS)


def _counted(model: nn.Module, expected: int) -> nn.Module:
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert weights == expected, weights
    return model


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
