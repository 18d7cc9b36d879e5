"""Images and one-hot targets of the hypernetwork experiments."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from bestresponse.apps.experiments._roles import roles

Rows = tuple[Tensor, Tensor]
"""Inputs (n, d) and one-hot targets (n, classes)."""
Roles = tuple[Rows, Rows, Rows]
"""For training, validation and test."""


def load_roles(source: str, images: int, validation: int, test: int) -> Roles:
    """The first images for training, the next ones for validation, the next ones for the test.

    Raises:
        InputError: if there are too few, or nothing that can be read.
    """
    parts, classes = roles(source, images, validation, test)
    train, held, unseen = ((x, F.one_hot(y, classes).to(x)) for x, y in parts)
    return train, held, unseen


def in_turns(rows: Rows, size: int) -> Iterator[Rows]:
    """Batches of so many rows, over and over; all of them where there are fewer."""
    inputs, targets = (part.split(size) for part in rows)
    while True:
        yield from zip(inputs, targets, strict=True)
