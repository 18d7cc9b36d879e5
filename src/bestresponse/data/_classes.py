"""From the integers a file holds to labels that count from zero."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bestresponse._errors import InputError


def class_values(labels: np.ndarray) -> np.ndarray:
    """The distinct labels in order, where a file names no classes.

    Negative ones are left out: -1 is the usual mark of an example whose label is held back.
    """
    distinct = np.unique(labels)
    return distinct[distinct >= 0]


def class_labels(labels: np.ndarray, values: np.ndarray, where: str) -> Tensor:
    """Each label's position in the sorted `values`.

    Args:
        labels: Integers of shape (n,), as they stand in the file.
        values: The distinct integers that stand for a class, sorted.
        where: The file, for the message.

    Raises:
        InputError: A label is none of the values.
    """
    wrong = np.flatnonzero(~np.isin(labels, values))
    if wrong.size:
        raise InputError(
            f"Row {wrong[0]} of {where!r} has the label {labels[wrong[0]]}, which is none of the "
            f"{_range(values)}: correct the label or leave the row out."
        )
    return torch.from_numpy(np.searchsorted(values, labels).astype(np.int64))


def _range(values: np.ndarray) -> str:
    ends = f" ({values[0]} to {values[-1]})" if values.size else ""
    return f"{values.size} classes{ends}"
