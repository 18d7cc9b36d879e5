"""Labelled rows of which a share has random labels, as the public benchmark draws them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse.apps.experiments._roles import Batch
from bestresponse.data import Dataset, Split, load


@dataclass(frozen=True, eq=False)
class Roles:
    """Rows in units of their spread over the training rows.

    Attributes:
        train: inputs (n, d) and labels (n,), some of them random.
        true: the labels (n,) as they were.
        validation: clean.
        test: clean.
        classes: how many.
    """

    train: Batch
    true: Tensor
    validation: Batch
    test: Batch
    classes: int

    @property
    def wrong(self) -> Tensor:
        """Which training labels are not the true ones, bool (n,)."""
        return self.train[1] != self.true


def draw(source: str, rows: int, validation: int, noise: float, seed: int) -> Roles:
    """Roles by one draw; each training label is replaced by a uniform one with chance `noise`.

    The order of the random numbers is that of the benchmark, so that on MNIST with 20,000 and
    5,000 rows its seed 32 gives its very data. The test set is the data's own, or all other rows.

    Raises:
        InputError: if there are too few rows, or nothing that can be read.
    """
    data = load(source)
    _check_rows(data, source, rows, validation)
    generator = np.random.RandomState(seed)
    order = torch.from_numpy(generator.permutation(len(data)))
    held, used, rest = order.split([validation, rows, len(order) - validation - rows])
    test = data.official_test or data
    tested = torch.arange(len(test)) if data.official_test else rest
    classes = len(data.class_names)
    labels = data.labels[used].clone()
    random = torch.from_numpy(generator.rand(rows) < noise)
    labels[random] = torch.from_numpy(generator.randint(0, classes, int(random.sum())))
    inputs = _flat(data, used)
    # scaled in double precision: a pixel that is hardly ever set has a tiny spread
    spread, center = torch.std_mean(inputs, dim=0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)

    def scaled(raw: Tensor) -> Tensor:
        return ((raw - center) / spread).to(torch.get_default_dtype()).contiguous()

    return Roles(
        (scaled(inputs), labels),
        data.labels[used],
        (scaled(_flat(data, held)), data.labels[held]),
        (scaled(_flat(test, tested)), test.labels[tested]),
        classes,
    )


def _flat(data: Dataset, rows: Tensor) -> Tensor:
    return Split(data, rows).batch()[0].flatten(1).double()


def _check_rows(data: Dataset, source: str, rows: int, validation: int) -> None:
    tested = data.official_test is None
    if rows + validation + tested > len(data):
        also = " and at least one for the test" if tested else ""
        raise InputError(
            f"'{source}' has {len(data)} training examples but {rows} + {validation}{also} are "
            "asked for; ask for fewer."
        )
