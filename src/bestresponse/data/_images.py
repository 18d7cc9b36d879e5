"""Encoded images to one uint8 tensor: the one path for Parquet files and folders."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bestresponse._errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow would also open formats that start other programs (EPS).
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")


def stack(encoded: Iterable[tuple[str, bytes | None]], count: int) -> Tensor:
    """Decodes images into one tensor, holding one encoded image at a time.

    Args:
        encoded: Pairs of where an image stands (for messages) and its bytes.
        count: How many pairs there are.

    Returns:
        A uint8 tensor of shape (count, C, H, W), C being 1 (greyscale) or 3 (RGB).

    Raises:
        InputError: There are none, some bytes are no such image, or the shapes differ.
    """
    images, first = np.empty((0,), np.uint8), ""
    for position, (where, data) in enumerate(encoded):
        image = decode(data, where)
        if position == 0:
            images, first = np.empty((count, *image.shape), np.uint8), where
        _check_shape(image, images, where, first)
        images[position] = image
    if not first:
        raise InputError("There is not a single image to read: check the file or folder.")
    return torch.from_numpy(images)


def decode(data: bytes | None, where: str) -> np.ndarray:
    """One image as uint8 of shape (C, H, W); of an animation the first frame.

    Greyscale has one channel; RGB, palette and GIF images have three.

    Raises:
        InputError: The bytes are missing, are no image, or hold another kind of pixel.
    """
    if data is None:
        raise InputError(f"{where} holds no image bytes: store the image itself in the file.")
    pixels = _pixels(data, where)
    if pixels.ndim == 2:
        return pixels[None]
    return pixels.transpose(2, 0, 1)


def _pixels(data: bytes, where: str) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return np.asarray(_plain(image, where))
    except InputError:
        raise
    except Exception as error:  # broken bytes make Pillow raise half a dozen unrelated types
        raise InputError(
            f"{where} is not a whole PNG, JPEG or other known image: replace it or leave it out."
        ) from error


def _plain(image: Image, where: str) -> Image:
    if image.mode in ("L", "RGB") and image.format != "GIF":
        return image
    if image.mode == "1":
        return image.convert("L")
    # A GIF is "L" or "P" depending on its palette; three channels always keeps a set uniform.
    if image.mode in ("P", "L", "RGB") and not isinstance(image.info.get("transparency"), bytes):
        return image.convert("RGB")
    raise InputError(
        f"{where} has pixels of kind {image.mode}, maybe with transparency: "
        "convert it to 8-bit greyscale or RGB."
    )


def _check_shape(image: np.ndarray, images: np.ndarray, where: str, first: str) -> None:
    if image.shape != images.shape[1:]:
        raise InputError(
            f"{where} has shape {image.shape} (channels, height, width) but {first} has "
            f"{images.shape[1:]}: bring all images to one size and one kind, greyscale or RGB."
        )
