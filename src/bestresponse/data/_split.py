"""The examples of one role."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse.data._dataset import Dataset


@dataclass(frozen=True, eq=False)
class Split:
    """The examples of one role: rows of a dataset, made floats batch by batch.

    Args:
        dataset: Where the rows are.
        indices: The rows, int64 of shape (m,).
        center: What is subtracted from features, float32 of shape (d,); None for images.
        scale: What features are divided by afterwards, float32 of shape (d,); None for images.

    Raises:
        InputError: A row is not in the dataset, or images have a center or scale.

    Example:
        >>> import torch
        >>> from bestresponse.data import load_digits
        >>> ones = Split(load_digits(), torch.tensor([1, 11, 21]))
        >>> inputs, labels = ones.batch(torch.tensor([0, 2]))
        >>> tuple(inputs.shape), float(inputs.max()), labels.tolist()
        ((2, 1, 8, 8), 1.0, [1, 1])
    """

    dataset: Dataset
    indices: Tensor
    center: Tensor | None = None
    scale: Tensor | None = None

    def __post_init__(self) -> None:
        _check_rows(self.indices, len(self.dataset), "indices", "the dataset")
        present = {self.center is not None, self.scale is not None}
        if len(present) == 2 or (self.dataset.is_image and present == {True}):
            raise InputError(
                "center and scale standardise features together: give both or neither, "
                "and neither for images."
            )

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> Tensor:
        """The labels of the role, int64 of shape (m,)."""
        return self.dataset.labels[self.indices]

    def batch(self, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Inputs and labels of some of the role's examples; only these rows become floats.

        Args:
            positions: Positions in this role, int64 of shape (b,); None for all of them.

        Returns:
            float32 inputs of shape (b, C, H, W), with 1 a full pixel, or standardised features of
            shape (b, d); and int64 labels of shape (b,).

        Raises:
            InputError: A position is not in [0, len(self)).
        """
        rows = self.indices
        if positions is not None:
            _check_rows(positions, len(self), "positions", "this role")
            rows = rows[positions]
        return self._floats(self.dataset.inputs[rows]), self.dataset.labels[rows]

    def _floats(self, inputs: Tensor) -> Tensor:
        if self.dataset.is_image:
            return inputs.to(torch.float32) / self.dataset.max_value
        if self.center is None or self.scale is None:
            return inputs
        return (inputs - self.center) / self.scale


def _check_rows(rows: Tensor, count: int, what: str, owner: str) -> None:
    if rows.dtype != torch.int64 or rows.ndim != 1:
        raise InputError(
            f"{what} are {rows.dtype} of shape {tuple(rows.shape)}: give int64 of one dimension."
        )
    if rows.numel() and not (0 <= int(rows.min()) and int(rows.max()) < count):
        raise InputError(
            f"{what} reach from {int(rows.min())} to {int(rows.max())} but {owner} has {count} "
            f"examples: stay within 0 to {count - 1}."
        )
