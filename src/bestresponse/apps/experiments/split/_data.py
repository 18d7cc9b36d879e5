"""Examples to be shared between training and validation, with every class in its proportion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse.apps.experiments._roles import Batch
from bestresponse.apps.experiments.split._fit import Budget
from bestresponse.data import Dataset, Split, load


@dataclass(frozen=True, eq=False)
class Pool:
    """Where budgets are drawn from.

    Attributes:
        data: all examples that are not in an official test set.
        official: the official test examples, where there are any.
        most: the largest budget; without official test examples, whatever it leaves is the test.
    """

    data: Dataset
    official: Batch | None
    most: int

    @classmethod
    def of(cls, source: str, most: int) -> Pool:
        """Read.

        Raises:
            InputError: if there are too few examples, or nothing that can be read.
        """
        data = load(source)
        left = len(data) - (data.official_test is None)
        if most > left:
            also = " with one left for the test" if left < len(data) else ""
            raise InputError(
                f"'{source}' has {len(data)} training examples but --sizes asks for {most}{also}; "
                "ask for fewer."
            )
        test = data.official_test
        return cls(data, None if test is None else _raw(test, torch.arange(len(test))), most)

    @property
    def name(self) -> str:
        """Of the data."""
        return self.data.name

    def budget(self, size: int, seed: int) -> Budget:
        """So many examples; of the same seed, a smaller budget is a part of a larger one.

        Features are in units of their spread over the budget, pixels from 0 to 1.
        """
        order = stratified_order(self.data.labels, seed)
        examples = _raw(self.data, order[:size])
        test = self.official or _raw(self.data, order[self.most :])
        if not self.data.is_image:
            spread, center = torch.std_mean(examples[0], dim=0, correction=0)
            spread = torch.where(spread > 0, spread, 1.0)
            examples, test = (((x - center) / spread, y) for x, y in (examples, test))
        return Budget(examples, test, len(self.data.class_names))


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """All rows in an order whose every beginning has each class in its proportion, about.

    The k-th of the n rows of a class, in random order, comes at (k - a) / n with one random a of
    each class.
    """
    generator = torch.Generator().manual_seed(seed)
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        shuffled = rows[torch.randperm(len(rows), generator=generator)]
        start = torch.rand((), generator=generator, dtype=torch.float64)
        place[shuffled] = (torch.arange(len(rows)) + start) / len(rows)
    return place.argsort()


def _raw(data: Dataset, rows: Tensor) -> Batch:
    inputs, labels = Split(data, rows).batch()
    return inputs.flatten(1).double(), labels
