"""IDX files, the format in which MNIST and its relatives were published."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bestresponse._errors import InputError
from bestresponse.data._classes import class_labels, class_values
from bestresponse.data._dataset import Dataset
from bestresponse.data._files import found, reading, title

_UBYTE = 8  # the format's code for unsigned bytes


def load_idx(path: str | Path) -> Dataset:
    """Greyscale images from IDX files, plain or gzipped.

    The format (Y. LeCun, The MNIST database, 1998, http://yann.lecun.com/exdb/mnist) names no
    classes, so the distinct training labels are the names.

    Args:
        path: A folder with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and perhaps the
            official test set, `t10k-...` (each with or without `.gz`), or one images file, beside
            which its labels lie; then only these two are read.

    Returns:
        Images of shape (n, 1, H, W).

    Raises:
        InputError: A file is missing, cut short or holds something else, or a label is wrong.
    """
    path = found(path)
    if path.is_file():
        return _read(path, None, path.name.split("-images")[0])
    name = title(path)
    data = _read(_file(path, "train-images-idx3-ubyte"), None, name)
    if not _present(path, "t10k-images-idx3-ubyte"):
        return data
    values = np.array([int(value) for value in data.class_names])
    test = _read(_file(path, "t10k-images-idx3-ubyte"), values, f"{name} test")
    return replace(data, official_test=test)


def _present(folder: Path, name: str) -> list[Path]:
    return [file for file in (folder / name, folder / f"{name}.gz") if file.is_file()]


def _file(folder: Path, name: str) -> Path:
    files = _present(folder, name)
    if not files:
        raise InputError(f"Folder {title(folder)!r} has no {name} or {name}.gz: add the file.")
    return files[0]


def _read(images: Path, values: np.ndarray | None, name: str) -> Dataset:
    labels = _labels_file(images)
    pixels, classes = _array(images, 3), _array(labels, 1)
    if len(pixels) != len(classes):
        raise InputError(
            f"{images.name!r} has {len(pixels)} images but {labels.name!r} {len(classes)} labels: "
            "give files that belong together."
        )
    values = class_values(classes) if values is None else values
    return Dataset(
        inputs=torch.from_numpy(pixels).unsqueeze(1),
        labels=class_labels(classes, values, labels.name),
        class_names=tuple(str(value) for value in values),
        name=name,
        source=f"IDX files {images.name} and {labels.name}.",
    )


def _labels_file(images: Path) -> Path:
    name = images.name.removesuffix(".gz")
    if not name.endswith("images-idx3-ubyte"):
        raise InputError(
            f"{images.name!r} is not named like an images file: give the path of "
            "…-images-idx3-ubyte or of its folder."
        )
    return _file(images.parent, name.removesuffix("images-idx3-ubyte") + "labels-idx1-ubyte")


def _array(file: Path, dimensions: int) -> np.ndarray:
    """A file's bytes in the shape its header tells: 0, 0, type, dimensions, then the sizes."""
    data = _bytes(file)
    start = 4 + 4 * dimensions
    if data[:4] != bytes((0, 0, _UBYTE, dimensions)) or len(data) < start:
        raise InputError(
            f"{file.name!r} is no IDX file of bytes in {dimensions} dimensions: fetch it anew."
        )
    shape = tuple(int(size) for size in np.frombuffer(data[4:start], ">u4"))
    if len(data) - start != math.prod(shape):
        raise InputError(
            f"{file.name!r} has {len(data) - start} bytes where its header announces "
            f"{math.prod(shape)}: fetch the file anew."
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()


def _bytes(file: Path) -> bytes:
    if file.suffix != ".gz":
        with reading(file):
            return file.read_bytes()
    try:
        with reading(file), gzip.open(file) as packed:
            return packed.read()
    except (EOFError, zlib.error) as error:
        raise InputError(f"{file.name!r} is a broken gzip file: fetch it anew.") from error
