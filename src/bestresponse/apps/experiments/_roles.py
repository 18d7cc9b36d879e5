"""The first rows of a dataset for one role, the next ones for another."""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse.data import Dataset, Split, load

Batch = tuple[Tensor, Tensor]
"""Inputs (n, d) and labels (n,)."""


def roles(source: str, *counts: int) -> tuple[list[Batch], int]:
    """So many rows for each role, flat, and the number of classes.

    Pixels are from 0 to 1, features in units of their spread over the first role.

    Raises:
        InputError: if there are too few rows, or nothing that can be read.
    """
    data = load(source)
    if sum(counts) > len(data):
        asked = " + ".join(map(str, counts))
        raise InputError(
            f"'{source}' has {len(data)} training examples but {asked} are asked for; ask for "
            "fewer."
        )
    inputs, labels = _split(data, counts[0]).batch(torch.arange(sum(counts)))
    inputs = inputs.flatten(1).contiguous()
    ends = pairwise(accumulate(counts, initial=0))
    return [(inputs[a:b], labels[a:b]) for a, b in ends], len(data.class_names)


def _split(data: Dataset, first: int) -> Split:
    everyone = torch.arange(len(data))
    if data.is_image:
        return Split(data, everyone)
    features = data.inputs[:first]
    return Split(data, everyone, features.mean(0), features.std(0).clamp(min=1e-6))
