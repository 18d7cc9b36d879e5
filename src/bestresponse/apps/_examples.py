"""Training examples as a run uses them: with labels that may be wrong, in a seeded order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse.data import Split


@dataclass(frozen=True)
class Examples:
    """Rows of a dataset with the labels to be fitted.

    Attributes:
        split: where the inputs come from.
        labels: int64 (n,), one for each row of the split.
        device: where batches go.
    """

    split: Split
    labels: Tensor
    device: torch.device

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (b, …) and labels (b,) of the examples `index`."""
        inputs, _ = self.split.batch(index)
        return inputs.to(self.device), self.labels[index].to(self.device)

    def subset(self, index: Tensor) -> Examples:
        """Only the examples `index`."""
        split = Split(
            self.split.dataset, self.split.indices[index], self.split.center, self.split.scale
        )
        return Examples(split, self.labels[index], self.device)

    def joined(self, other: Examples) -> Examples:
        """These examples and others of the same dataset."""
        indices = torch.cat([self.split.indices, other.split.indices])
        split = Split(self.split.dataset, indices, self.split.center, self.split.scale)
        return Examples(split, torch.cat([self.labels, other.labels]), self.device)


def stream_seed(seed: int, purpose: str) -> int:
    """A seed for one purpose of a run.

    Two generators with the same seed draw the same permutation: with it, the first batches of an
    epoch would be just the examples whose labels were flipped.
    """
    digest = hashlib.sha256(f"{seed} {purpose}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def corrupted(labels: Tensor, classes: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """The labels with `share` of them moved to another class, and which ones were, as a mask."""
    count = round(share * len(labels))
    if share > 0 and not 0 < count < len(labels):
        raise InputError(
            f"--corrupt {share} flips {'all' if count else 'none'} of the {len(labels)} training "
            "labels; choose a share that leaves both kinds."
        )
    generator = torch.Generator().manual_seed(stream_seed(seed, "flips"))
    chosen = torch.randperm(len(labels), generator=generator)[:count]
    flipped = torch.zeros(len(labels), dtype=torch.bool)
    flipped[chosen] = True
    shift = torch.randint(1, classes, (len(labels),), generator=generator)
    return torch.where(flipped, (labels + shift) % classes, labels), flipped


class Order:
    """Batches without replacement, in a new order each epoch; can be saved and continued."""

    def __init__(self, count: int, batch_size: int, seed: int, purpose: str) -> None:
        if count < 1:
            raise InputError("There is no example to train on; use more data.")
        self.count, self.batch_size = count, min(batch_size, count)
        self._generator = torch.Generator().manual_seed(stream_seed(seed, purpose))
        self._permutation = torch.randperm(count, generator=self._generator)
        self._position = 0

    def next(self) -> Tensor:
        """The indices of the next batch; the last, smaller one of an epoch is skipped."""
        if self._position + self.batch_size > self.count:
            self._permutation = torch.randperm(self.count, generator=self._generator)
            self._position = 0
        batch = self._permutation[self._position : self._position + self.batch_size]
        self._position += self.batch_size
        return batch

    def state(self) -> dict[str, Any]:
        """Where the order stands."""
        return {
            "generator": self._generator.get_state(),
            "permutation": self._permutation,
            "position": self._position,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self._generator.set_state(state["generator"])
        self._permutation, self._position = state["permutation"], state["position"]
