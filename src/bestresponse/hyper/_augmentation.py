"""The augmentations of every day, with learned ranges."""

from __future__ import annotations

import math

from torch import Tensor, nn

from bestresponse._errors import InputError
from bestresponse.hyper._augment import augment, check_images
from bestresponse.hyper._bounded import Bounded

_LARGEST = {
    # name: the open upper end of its range, and what it is counted in
    "translate": 0.5,  # of the image's width and height
    "rotate": math.pi,  # radians
    "scale": 1.0,  # of the logarithm of the size
    "shear": 1.0,  # tangent of the angle
    "brightness": 1.0,  # of a full pixel
    "contrast": 1.0,  # of the distance from the image's mean
    "saturation": 1.0,  # of the distance from grey; colour images only
    "hue": 0.5,  # of the circle of colours; colour images only
    "gain": 1.0,  # of the least and largest factor of all pixels
    "noise": 1.0,  # standard deviation, of a full pixel
}

_ON_DEMAND = ("saturation", "hue", "gain")  # not part of what is learned unless asked for


class Augmentation(nn.Module):
    """Random affine maps, colours and noise, differentiable in how far they reach.

    It is `augment` with learned ranges of its own: each image is moved, turned, sized and sheared,
    then its brightness, contrast, saturation, hue and gain change, all by amounts drawn evenly;
    normal noise of learned deviation comes last.

    Args:
        **ranges: the initial range of each kind that is wanted: `translate` (share of the image,
            below ½), `rotate` (radians, below π), `scale` (of the logarithm of the size), `shear`
            (tangent), `brightness`, `contrast`, `saturation`, `gain`, `noise` (below 1), `hue`
            (below ½). Without any: all but `saturation`, `hue` and `gain`, starting small.

    Raises:
        InputError: for a kind that is unknown, or a range out of bounds.

    Example:
        >>> import torch
        >>> augment = Augmentation(translate=0.1, noise=0.01)
        >>> {name: round(value.item(), 3) for name, value in augment.ranges().items()}
        {'translate': 0.1, 'noise': 0.01}
        >>> augment(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(self, **ranges: float) -> None:
        super().__init__()
        ranges = ranges or {name: 0.05 * top for name, top in _LARGEST.items()
                            if name not in _ON_DEMAND}  # fmt: skip
        unknown = [name for name in ranges if name not in _LARGEST]
        if unknown:
            raise InputError(f"There is no '{unknown[0]}' to learn; known: {', '.join(_LARGEST)}.")
        self.bounded = Bounded(
            **{name: (0.0, _LARGEST[name], float(start)) for name, start in ranges.items()}
        )
        self.kinds = tuple(ranges)

    def ranges(self) -> dict[str, Tensor]:
        """The ranges now, by kind, detached."""
        return self.bounded.values()

    def forward(self, images: Tensor) -> Tensor:
        """Changed images, of the same shape (n, channels, height, width).

        Raises:
            InputError: for something that is no batch of images, or no colours to saturate.
        """
        return augment(images, **{kind: getattr(self.bounded, kind) for kind in self.kinds})

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse images of `shape` that cannot be changed."""
        check_images(shape, dict.fromkeys(self.kinds))

    def extra_repr(self) -> str:
        """The ranges now."""
        return ", ".join(f"{name}={value.item():.3g}" for name, value in self.ranges().items())
