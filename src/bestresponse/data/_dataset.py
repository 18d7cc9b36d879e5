"""Labelled examples, checked once, where they enter."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._errors import InputError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled examples for classification, held in memory.

    Images stay uint8, so that 60,000 of them cost megabytes; `Split.batch` makes floats of the
    rows it is asked for.

    Args:
        inputs: Images, uint8 of shape (n, C, H, W), or features, float32 of shape (n, d).
        labels: The class of each example, int64 of shape (n,), in [0, len(class_names)).
        class_names: One distinct name for each class, at least two.
        name: A short name, such as "mnist".
        source: A sentence on where the data comes from, kept in the record of a run.
        official_test: The data's own test set, where it ships one; same shape, same classes.
        max_value: The value of a full pixel, by which images are divided; features ignore it.

    Raises:
        InputError: The shapes disagree, a dtype is wrong, a value is not finite or exceeds
            `max_value`, a label is out of range, or a class has no example.

    Example:
        >>> import torch
        >>> data = Dataset(
        ...     inputs=torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]),
        ...     labels=torch.tensor([0, 1, 0]),
        ...     class_names=("low", "high"),
        ...     name="toy",
        ...     source="Typed by hand.",
        ... )
        >>> len(data), data.shape, data.is_image
        (3, (2,), False)
    """

    inputs: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    name: str
    source: str
    official_test: Dataset | None = None
    max_value: float = 255.0

    def __post_init__(self) -> None:
        _check_inputs(self)
        _check_values(self)
        _check_labels(self)
        _check_classes(self)
        _check_official_test(self)

    def __len__(self) -> int:
        return self.inputs.shape[0]

    @property
    def is_image(self) -> bool:
        """Whether the inputs are images rather than features."""
        return self.inputs.ndim == 4

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example: (C, H, W) or (d,)."""
        return tuple(self.inputs.shape[1:])


def _check_inputs(data: Dataset) -> None:
    kind = (data.inputs.ndim, data.inputs.dtype)
    if kind not in {(4, torch.uint8), (2, torch.float32)}:
        raise InputError(
            f"The inputs of {data.name!r} are {kind[1]} of shape {tuple(data.inputs.shape)}: "
            "give uint8 images (n, C, H, W) or float32 features (n, d)."
        )
    if data.inputs.numel() == 0:
        raise InputError(f"{data.name!r} has no examples: give at least one for each class.")


def _check_values(data: Dataset) -> None:
    if data.is_image:
        _check_pixels(data)
    elif not bool(torch.isfinite(data.inputs).all()):
        row, column = torch.nonzero(~torch.isfinite(data.inputs))[0].tolist()
        raise InputError(
            f"Feature {column} of row {row} of {data.name!r} is {data.inputs[row, column]}: "
            "fill in a finite number or leave the row out."
        )


def _check_pixels(data: Dataset) -> None:
    largest = int(data.inputs.max())
    if not largest <= data.max_value <= 255 or data.max_value <= 0:
        raise InputError(
            f"max_value is {data.max_value} and the largest pixel of {data.name!r} is {largest}: "
            "give the value of a full pixel, above 0, at least the largest and at most 255."
        )


def _check_labels(data: Dataset) -> None:
    if data.labels.dtype != torch.int64 or data.labels.shape != data.inputs.shape[:1]:
        raise InputError(
            f"The labels of {data.name!r} are {data.labels.dtype} of shape "
            f"{tuple(data.labels.shape)}: give int64 of shape ({len(data)},), one for each example."
        )
    outside = (data.labels < 0) | (data.labels >= len(data.class_names))
    if bool(outside.any()):
        row = int(torch.nonzero(outside)[0])
        raise InputError(
            f"Row {row} of {data.name!r} has the label {int(data.labels[row])}, outside the "
            f"{len(data.class_names)} class names: number the classes from 0."
        )


def _check_classes(data: Dataset) -> None:
    names = data.class_names
    if len(names) < 2:
        raise InputError(f"{data.name!r} has {len(names)} class: classification needs two or more.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{data.name!r} has two classes named {twice!r}: rename one of them.")
    counts = torch.bincount(data.labels, minlength=len(names))
    if bool((counts == 0).any()):
        raise InputError(
            f"{data.name!r} has no example of class {names[int(counts.argmin())]!r}: "
            "add examples of it or take the class away."
        )


def _check_official_test(data: Dataset) -> None:
    test = data.official_test
    if test is None:
        return
    if test.official_test is not None:
        raise InputError(f"The test set of {data.name!r} has a test set of its own: remove it.")
    if (test.shape, test.max_value) != (data.shape, data.max_value):
        raise InputError(
            f"The test examples of {data.name!r} have shape {test.shape} and full pixel "
            f"{test.max_value}, the others {data.shape} and {data.max_value}: make them agree."
        )
    if test.class_names != data.class_names:
        raise InputError(
            f"The test set of {data.name!r} has other class names than the rest: "
            "give both the same names in the same order."
        )
