"""The first rows of a dataset as inner data, the next ones as outer data."""

from __future__ import annotations

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse.data import Dataset, Split, load

Batch = tuple[Tensor, Tensor]
"""Inputs (n, d) and labels (n,)."""


def roles(source: str, inner_rows: int, outer_rows: int) -> tuple[Batch, Batch, int]:
    """Flat inputs and labels of the first rows, those of the next ones, and how many classes."""
    data = load(source)
    if inner_rows + outer_rows > len(data):
        raise InputError(
            f"'{source}' has {len(data)} training examples but {inner_rows} inner and "
            f"{outer_rows} outer ones are asked for; ask for fewer."
        )
    rows = torch.arange(inner_rows + outer_rows)
    inputs, labels = _split(data, rows[:inner_rows]).batch(rows)
    inputs = inputs.flatten(1).contiguous()
    inner = inputs[:inner_rows], labels[:inner_rows]
    return inner, (inputs[inner_rows:], labels[inner_rows:]), len(data.class_names)


def _split(data: Dataset, inner: Tensor) -> Split:
    """All of the data: pixels from 0 to 1, or features in units of their spread over `inner`."""
    everyone = torch.arange(len(data))
    if data.is_image:
        return Split(data, everyone)
    features = data.inputs[inner]
    return Split(data, everyone, features.mean(0), features.std(0).clamp(min=1e-6))
