"""A network that changes training images, and learns how."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from bestresponse._errors import InputError

Noise = Literal["image", "pixel", "none"]

_MOST_CHANNELS = 4096  # of the last level; the published large network has 1,024 there
_FIRST_CHANGE = 0.1  # of what the usual initial weights of the last layer would do


class AugmentationNetwork(nn.Module):
    """Images x̃ = x + tanh(U(x, ε)) with a U-Net U that also sees noise ε.

    Args:
        channels: channels of the images.
        depth: levels of the U-Net; each one after the first halves height and width.
        width: the first level has 2^width channels, each further one twice as many.
        noise: one standard normal number an `image`, in a channel of its own, one a `pixel`, or
            `none`, for a change that is always the same.

    Raises:
        InputError: for settings that are no positive whole numbers, or a network of more than
            4,096 channels.

    Source: Lorraine, Vicol, Duvenaud, "Optimizing Millions of Hyperparameters by Implicit
    Differentiation" (2020), section 5.5, https://arxiv.org/abs/1911.02590

    Example:
        >>> sum(p.numel() for p in AugmentationNetwork(channels=3, depth=2, width=3).parameters())
        6659
        >>> augment = AugmentationNetwork(channels=1)
        >>> augment(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 1, 28, 28])
    """

    def __init__(
        self, channels: int, depth: int = 2, width: int = 3, noise: Noise = "image"
    ) -> None:
        super().__init__()
        if min(channels, depth, width + 1) < 1:
            raise InputError(
                f"channels={channels}, depth={depth}, width={width} describe no network; "
                "give positive whole numbers."
            )
        if width + depth - 1 >= _MOST_CHANNELS.bit_length():  # 2 to that power may be no number
            raise InputError(
                f"depth={depth}, width={width} mean 2^{width + depth - 1} channels on the last "
                f"level; lower them, there may be {_MOST_CHANNELS:,} at most."
            )
        if noise not in get_args(Noise):
            raise InputError(f"noise='{noise}' is unknown; use {', '.join(get_args(Noise))}.")
        self.channels, self.depth, self.noise = channels, depth, noise
        widths = [2 ** (width + level) for level in range(depth)]
        before = [channels + (noise != "none"), *widths[:-1]]
        self.down = nn.ModuleList(_block(a, b) for a, b in zip(before, widths, strict=True))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * wide, wide, 2, stride=2) for wide in reversed(widths[:-1])
        )
        self.merge = nn.ModuleList(_block(2 * wide, wide) for wide in reversed(widths[:-1]))
        self.last = nn.Conv2d(widths[0], channels, 1)
        with torch.no_grad():  # at first the images hardly change
            for parameter in self.last.parameters():
                parameter.mul_(_FIRST_CHANGE)

    def forward(self, images: Tensor) -> Tensor:
        """Changed images, of the same shape (n, channels, height, width).

        Raises:
            InputError: for images of other channels, or that cannot be halved often enough.
        """
        self.check(tuple(images.shape[1:]))
        return images + torch.tanh(self._change(torch.cat([images, *self._draw(images)], 1)))

    def regularizer(self, images: Tensor, samples: int = 10) -> Tensor:
        """Mean of ‖E[x̃] − x‖₁ a pixel, less the mean standard deviation of a pixel; a scalar.

        Small where the changes vary around the image. Added to the outer loss it keeps the network
        from collapsing to one change for all draws.

        Args:
            images: (n, channels, height, width).
            samples: draws an image, two or more.
        """
        if samples < 2:
            raise InputError(f"samples={samples} have no deviation; take two or more.")
        draws = self(images.repeat(samples, 1, 1, 1)).unflatten(0, (samples, len(images)))
        variance, mean = torch.var_mean(draws, dim=0)
        # the root has no slope at a pixel that no draw changes; this is far below a grey level
        return (mean - images).abs().mean() - (variance + 1e-8).sqrt().mean()

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse images of `shape` that this network cannot change."""
        if len(shape) != 3 or shape[0] != self.channels:
            raise InputError(
                f"The network changes images of {self.channels} channels, not of shape {shape}; "
                "make one for these images."
            )
        unit = 2 ** (self.depth - 1)
        if shape[1] % unit or shape[2] % unit:
            raise InputError(
                f"Images of {shape[1]}×{shape[2]} pixels cannot be halved {self.depth - 1} times; "
                "lower the depth, or pad the images to a multiple of "
                f"{unit} pixels."
            )

    def _draw(self, images: Tensor) -> list[Tensor]:
        """The noise channel, if there is one."""
        if self.noise == "none":
            return []
        if self.noise == "pixel":
            return [torch.randn_like(images[:, :1])]
        n, _, height, width = images.shape
        number = torch.randn(n, 1, 1, 1, dtype=images.dtype, device=images.device)
        return [number.expand(n, 1, height, width)]

    def _change(self, features: Tensor) -> Tensor:
        """The U-Net."""
        passed = []
        for level, block in enumerate(self.down):
            features = block(nn.functional.max_pool2d(features, 2) if level else features)
            passed.append(features)
        passed.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            features = merge(torch.cat([up(features), passed.pop()], 1))
        return self.last(features)

    def extra_repr(self) -> str:
        """Channels, depth and noise."""
        return f"channels={self.channels}, depth={self.depth}, noise={self.noise}"


def _block(inputs: int, outputs: int) -> nn.Module:
    """Two convolutions that keep the size."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.ReLU(),
    )
