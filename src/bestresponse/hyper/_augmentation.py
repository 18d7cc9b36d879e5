"""The augmentations of every day, with learned ranges."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bestresponse._errors import InputError
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
    "noise": 1.0,  # standard deviation, of a full pixel
}
_AFFINE = ("translate", "rotate", "scale", "shear")


class Augmentation(nn.Module):
    """Random affine maps, colours and noise, differentiable in how far they reach.

    Each image is moved, turned, sized and sheared, then its brightness, contrast and saturation
    change, all by amounts drawn evenly from [−r, r] with the learned ranges r; normal noise of
    learned deviation comes last. Where a moved image ends, zeros are filled in.

    Args:
        **ranges: the initial range of each kind that is wanted: `translate` (share of the image,
            below ½), `rotate` (radians, below π), `scale` (of the logarithm of the size), `shear`
            (tangent), `brightness`, `contrast`, `saturation`, `noise` (below 1). Without any: all
            but `saturation`, starting small.

    Raises:
        InputError: for a kind that is unknown, or a range out of bounds.

    Example:
        >>> augment = Augmentation(translate=0.1, noise=0.01)
        >>> {name: round(value.item(), 3) for name, value in augment.ranges().items()}
        {'translate': 0.1, 'noise': 0.01}
        >>> augment(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(self, **ranges: float) -> None:
        super().__init__()
        ranges = ranges or {name: 0.05 * top for name, top in _LARGEST.items()
                            if name != "saturation"}  # fmt: skip
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
        self.check(tuple(images.shape[1:]))
        if any(kind in self.kinds for kind in _AFFINE):
            images = self._moved(images)
        if "brightness" in self.kinds:
            images = images + self._amount("brightness", images)
        if "contrast" in self.kinds:
            mean = images.mean((1, 2, 3), keepdim=True)
            images = mean + (1 + self._amount("contrast", images)) * (images - mean)
        if "saturation" in self.kinds:
            grey = images.mean(1, keepdim=True)
            images = grey + (1 + self._amount("saturation", images)) * (images - grey)
        if "noise" in self.kinds:
            images = images + self.bounded.noise.to(images) * torch.randn_like(images)
        return images

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse images of `shape` that cannot be changed."""
        if len(shape) != 3:
            raise InputError(
                f"Augmentation changes images (channels, height, width), not shape {shape}; "
                "leave it out for features."
            )
        if "saturation" in self.kinds and shape[0] != 3:
            raise InputError(
                f"Images of {shape[0]} channels have no saturation; leave it out, or give colours."
            )

    def _amount(self, kind: str, images: Tensor, *shape: int) -> Tensor:
        """A draw from [−r, r] for each image, (n, 1, 1, 1) or (n, *shape); zeros if left out."""
        size = (len(images), *(shape or (1, 1, 1)))
        if kind not in self.kinds:
            return images.new_zeros(size)
        drawn = 2 * torch.rand(size, dtype=images.dtype, device=images.device) - 1
        return getattr(self.bounded, kind).to(images) * drawn

    def _moved(self, images: Tensor) -> Tensor:
        """The images under random affine maps, by bilinear interpolation."""
        turn = self._amount("rotate", images, 1)[:, 0]
        size = torch.exp(self._amount("scale", images, 1)[:, 0])
        slant = self._amount("shear", images, 1)[:, 0]
        shift = 2 * self._amount("translate", images, 2)  # the grid reaches from −1 to 1
        cosine, sine = torch.cos(turn), torch.sin(turn)
        aspect = images.shape[2] / images.shape[3]  # turns stay turns where pixels are square
        rows = [
            torch.stack([cosine * size, (slant * cosine - sine) * size * aspect, shift[:, 0]], 1),
            torch.stack([sine * size / aspect, (slant * sine + cosine) * size, shift[:, 1]], 1),
        ]
        grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)

    def extra_repr(self) -> str:
        """The ranges now."""
        return ", ".join(f"{name}={value.item():.3g}" for name, value in self.ranges().items())
