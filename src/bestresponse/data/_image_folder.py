"""A folder of images with one sub-folder for each class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from bestresponse._errors import InputError
from bestresponse.data._dataset import Dataset
from bestresponse.data._files import found, reading, title, visible
from bestresponse.data._images import stack


def load_image_folder(path: str | Path) -> Dataset:
    """Images sorted into one sub-folder for each class.

    The classes are the sub-folders in alphabetic order, the examples their files in that order.
    Where `path` holds `train/`, the classes are in there, and a `test/` beside it with the same
    classes becomes the official test set. Files whose name starts with a dot are passed over.

    Args:
        path: The folder; PNG, JPEG, BMP, GIF, PPM, TIFF or WebP images of one size.

    Returns:
        Images of shape (n, C, H, W), C being 1 (greyscale) or 3 (RGB, palette, GIF).

    Raises:
        InputError: The folder is missing, empty or laid out otherwise, a file is no image, or the
            images differ in size or kind.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name, level in (("dark", 0), ("light", 255)):
        ...         (Path(folder) / name).mkdir()
        ...         Image.new("L", (4, 2), level).save(Path(folder) / name / "1.png")
        ...     data = load_image_folder(folder)
        >>> data.class_names, data.shape, data.labels.tolist()
        (('dark', 'light'), (1, 2, 4), [0, 1])
    """
    root = found(path)
    if not root.is_dir():
        raise InputError(f"{root.name!r} is no folder: give the folder of class folders.")
    if not _has_folders(root / "train"):
        return _read(root, title(root), f"Image folder {title(root)}, one sub-folder a class.")
    _check_roles(root)
    data = _read(root / "train", title(root), f"Image folder {title(root)}/train.")
    if not (root / "test").is_dir():
        return data
    test = _read(root / "test", f"{title(root)} test", f"Image folder {title(root)}/test.")
    return replace(data, official_test=test)


def _has_folders(folder: Path) -> bool:
    return folder.is_dir() and any(entry.is_dir() for entry in visible(folder))


def _check_roles(root: Path) -> None:
    for entry in visible(root):
        if entry.is_dir() and entry.name not in ("train", "test"):
            raise InputError(
                f"Folder {entry.name!r} stands beside 'train' in {title(root)!r}: only 'train' and "
                "'test' are read, so move its images into one of them or take it away."
            )


def _read(folder: Path, name: str, source: str) -> Dataset:
    classes = [entry for entry in visible(folder) if entry.is_dir()]
    if not classes:
        raise InputError(f"Folder {title(folder)!r} holds no class folders: make one a class.")
    files = [visible(entry) for entry in classes]
    labels = torch.tensor([label for label, group in enumerate(files) for _ in group])
    if not len(labels):
        raise InputError(f"The class folders of {title(folder)!r} are empty: put images in them.")
    return Dataset(
        inputs=stack(_encoded([file for group in files for file in group]), len(labels)),
        labels=labels,
        class_names=tuple(entry.name for entry in classes),
        name=name,
        source=source,
    )


def _encoded(files: list[Path]) -> Iterator[tuple[str, bytes]]:
    for file in files:
        where = f"'{file.parent.name}/{file.name}'"
        if file.is_dir():
            raise InputError(f"{where} is a folder inside a class folder: move its images up.")
        with reading(file):
            data = file.read_bytes()
        yield where, data
