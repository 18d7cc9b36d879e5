"""Random changes of images, how far they reach given by image."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from bestresponse._errors import InputError

AFFINE = ("translate", "rotate", "scale", "shear")
_OTHERS = (
    "brightness", "contrast", "saturation", "hue", "gain", "noise", "cutout", "holes", "drop",
)  # fmt: skip
_COLOURS = ("saturation", "hue")


def augment(images: Tensor, **ranges: Tensor | float) -> Tensor:
    """Images under random changes, each image's as far as its own ranges.

    All work on tensors, whole batches, on any device. Amounts are drawn evenly from [−r, r] unless
    said otherwise, for each image; kinds are applied in this order.

    - `translate` (share of the image's sides), `rotate` (radians), `scale` (of the logarithm of the
      size), `shear` (tangent): one affine map by bilinear interpolation, zeros filled in.
    - `brightness`: added. `contrast`, `saturation`: the distance from the image's mean, or from
      grey, times 1 + amount. `hue`: colours turned by that share of the circle, at the same
      largest and smallest of the three channels; pixels may have any values.
    - `gain`: all pixels times a number drawn evenly from [1/(1 + r), 1 + r].
    - `noise`: normal, of deviation r.
    - `cutout`: as many squares as `holes` says (one without it) with sides of that many pixels,
      set to zero. Their centres are drawn evenly; what lies outside is cut off.
    - `drop`: each number is zero with this probability, else divided by its complement.

    It is differentiable in all ranges but the last three.

    Args:
        images: (n, channels, height, width).
        **ranges: by kind a number, or (n,) or (1,).

    Returns:
        Images of the same shape.

    Raises:
        InputError: for an unknown kind, no batch of images, or no colours to change.

    Example:
        >>> images = torch.ones(2, 1, 8, 8)
        >>> torch.manual_seed(0) and augment(images, cutout=torch.tensor([0.0, 3.0])).sum((1, 2, 3))
        tensor([64., 55.])
    """
    check_images(tuple(images.shape[1:]), ranges)
    amounts = {name: _by_image(name, value, images) for name, value in ranges.items()}
    if any(kind in amounts for kind in AFFINE):
        images = _moved(images, amounts)
    for kind, change in _CHANGES.items():
        if kind in amounts:
            images = change(images, amounts[kind])
    if "cutout" in amounts:
        holes = amounts.get("holes", torch.ones_like(amounts["cutout"]))
        images = _cut(images, amounts["cutout"], holes)
    if "drop" in amounts:
        keep = 1 - amounts["drop"].detach()
        images = images * ((_uniform(tuple(images.shape), images) < keep).to(images) / keep)
    return images


def check_images(shape: tuple[int, ...], kinds: Mapping[str, object]) -> None:
    """Refuse images of `shape`, without the batch, that cannot be changed so."""
    unknown = [kind for kind in kinds if kind not in (*AFFINE, *_OTHERS)]
    if unknown:
        raise InputError(
            f"There is no '{unknown[0]}' to change images by; "
            f"known: {', '.join((*AFFINE, *_OTHERS))}."
        )
    if len(shape) != 3:
        raise InputError(
            f"Augmentation changes images (channels, height, width), not shape {shape}; "
            "leave it out for features."
        )
    for kind in _COLOURS:
        if kind in kinds and shape[0] != 3:
            raise InputError(
                f"Images of {shape[0]} channels have no {kind}; leave it out, or give colours."
            )
    if "holes" in kinds and "cutout" not in kinds:
        raise InputError("holes without cutout have no size; give cutout, the side of a hole.")


def _by_image(name: str, value: Tensor | float, images: Tensor) -> Tensor:
    """Ranges as (n, 1, 1, 1), or one for all images."""
    ranges = torch.as_tensor(value, device=images.device).to(images.dtype)
    if ranges.ndim > 1 or (ranges.ndim and len(ranges) not in (1, len(images))):
        raise InputError(
            f"{name} has shape {tuple(ranges.shape)} for {len(images)} images; give one number, "
            "or one for each image."
        )
    return ranges.reshape(-1, 1, 1, 1)


def _uniform(size: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.rand(size, dtype=like.dtype, device=like.device)


def _drawn(ranges: Tensor, images: Tensor, width: int = 1) -> Tensor:
    """A draw from [−r, r] for each image, (n, width, 1, 1)."""
    return ranges * (2 * _uniform((len(images), width, 1, 1), images) - 1)


def _brightened(images: Tensor, ranges: Tensor) -> Tensor:
    return images + _drawn(ranges, images)


def _contrasted(images: Tensor, ranges: Tensor) -> Tensor:
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (1 + _drawn(ranges, images)) * (images - mean)


def _saturated(images: Tensor, ranges: Tensor) -> Tensor:
    grey = images.mean(1, keepdim=True)
    return grey + (1 + _drawn(ranges, images)) * (images - grey)


def _turned(images: Tensor, ranges: Tensor) -> Tensor:
    """Hue as an angle in sixths of the circle; the formulas of HSV, without its value."""
    smallest, largest = images.amin(1), images.amax(1)
    chroma = largest - smallest
    red, green, blue = images.unbind(1)
    sixths = torch.stack([green - blue, blue - red, red - green], 1)
    sixths = sixths / torch.where(chroma > 0, chroma, 1.0)[:, None]
    offset = torch.tensor([0.0, 2.0, 4.0], dtype=images.dtype, device=images.device)
    place = images.argmax(1, keepdim=True)
    hue = (sixths + offset.view(1, 3, 1, 1)).gather(1, place)[:, 0]
    hue = torch.remainder(hue + 6 * _drawn(ranges, images)[:, 0], 6.0)
    shares = [(hue - 3).abs() - 1, 2 - (hue - 2).abs(), 2 - (hue - 4).abs()]
    return torch.stack([smallest + chroma * share.clamp(0, 1) for share in shares], 1)


def _amplified(images: Tensor, ranges: Tensor) -> Tensor:
    low, high = 1 / (1 + ranges), 1 + ranges
    return images * (low + (high - low) * _uniform((len(images), 1, 1, 1), images))


def _noisy(images: Tensor, ranges: Tensor) -> Tensor:
    return images + ranges * torch.randn_like(images)


_CHANGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": _brightened,
    "contrast": _contrasted,
    "saturation": _saturated,
    "hue": _turned,
    "gain": _amplified,
    "noise": _noisy,
}


def _cut(images: Tensor, length: Tensor, holes: Tensor) -> Tensor:
    """Squares of side `length` set to zero, as many an image as `holes`."""
    height, width = images.shape[2:]
    most = int(holes.max()) if holes.numel() else 0
    kept = torch.ones_like(images[:, :1], dtype=torch.bool)
    for hole in range(most):
        row, column = _uniform((2, len(images), 1, 1, 1), images)
        inside = (
            _covers(row, height, length)[:, :, :, None] & _covers(column, width, length)[:, :, None]
        )
        kept = kept & ~(inside & (holes > hole))
    return images * kept


def _covers(place: Tensor, size: int, length: Tensor) -> Tensor:
    """Which of `size` pixels lie in a stretch of `length` around a random pixel, (n, 1, size)."""
    length = length[..., 0].floor()
    start = torch.floor(place[..., 0] * size) - torch.floor(length / 2)
    pixels = torch.arange(size, device=place.device)
    return (pixels >= start) & (pixels < start + length)


def _moved(images: Tensor, ranges: Mapping[str, Tensor]) -> Tensor:
    """The images under random affine maps, by bilinear interpolation."""

    def amount(kind: str, width: int = 1) -> Tensor:
        if kind not in ranges:
            return images.new_zeros(len(images), width)
        return _drawn(ranges[kind], images, width)[:, :, 0, 0]

    turn, size = amount("rotate")[:, 0], torch.exp(amount("scale")[:, 0])
    slant = amount("shear")[:, 0]
    shift = 2 * amount("translate", 2)  # the grid reaches from −1 to 1
    cosine, sine = torch.cos(turn), torch.sin(turn)
    aspect = images.shape[2] / images.shape[3]  # turns stay turns where pixels are square
    rows = [
        torch.stack([cosine * size, (slant * cosine - sine) * size * aspect, shift[:, 0]], 1),
        torch.stack([sine * size / aspect, (slant * sine + cosine) * size, shift[:, 1]], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
