"""Train, validation and test: every example has one role, and the record says how it got it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse.data._dataset import Dataset
from bestresponse.data._draw import check_seed, check_size, draw
from bestresponse.data._split import Split


@dataclass(frozen=True, eq=False)
class Splits:
    """The three roles of a dataset.

    Args:
        train: What the inner problem fits.
        validation: What tunes the hyperparameters; never reported as the result.
        test: What is reported; nothing is chosen by it.
        record: For each role, ready for JSON: `how` it was decided, `count`, `per_class` counts,
            `seed`, and `sha256` of its sorted indices as little-endian 64-bit integers.
    """

    train: Split
    validation: Split
    test: Split
    record: dict[str, Any]

    def indices(self) -> dict[str, list[int]]:
        """The rows of each role; those of an official test set count in that set."""
        roles = {"train": self.train, "validation": self.validation, "test": self.test}
        return {role: split.indices.tolist() for role, split in roles.items()}


def split(
    dataset: Dataset,
    *,
    validation: int,
    test: int | None = None,
    train: int | None = None,
    seed: int = 0,
) -> Splits:
    """Gives the examples disjoint roles, each with every class in its proportion.

    Test comes first, so it does not depend on the size of the others; then validation is drawn
    from the rest, then train. In each draw a class's share is within one example of proportional.
    Rows keep the dataset's order. Features are standardised by the training rows alone.

    Args:
        dataset: The examples. Where it has an official test set, that is the test role.
        validation: How many examples tune the hyperparameters.
        test: How many examples are for the report; by default the whole official test set, or a
            fifth of the rows where there is none. With an official set, a draw from it.
        train: How many examples to train on; by default all that are left.
        seed: Fixes the draws, on every machine.

    Returns:
        The roles, with a record of how they were decided.

    Raises:
        InputError: A size is not a positive integer, is smaller than the number of classes, or
            does not fit; or a role would lack a class.

    Example:
        >>> from bestresponse.data import load_digits
        >>> roles = split(load_digits(), validation=200)
        >>> len(roles.train), len(roles.validation), len(roles.test)
        (1238, 200, 359)
        >>> roles.record["validation"]["per_class"]["3"]
        20
    """
    check_seed(seed)
    held_out, test_rows, rest, test_how = _test_role(dataset, test, validation, train, seed)
    left = len(rest)
    validation_rows, rest = draw(dataset, rest, validation, "validation", seed)
    train_rows, _ = draw(dataset, rest, _or_all(train, rest), "train", seed)
    center, scale = _standardisation(dataset, train_rows)
    roles = {
        "train": Split(dataset, torch.from_numpy(train_rows), center, scale),
        "validation": Split(dataset, torch.from_numpy(validation_rows), center, scale),
        "test": Split(held_out, torch.from_numpy(test_rows), center, scale),
    }
    how = {
        "train": _train_how(len(train_rows), len(rest)),
        "validation": f"A stratified draw from the {left} rows that are not for test.",
        "test": test_how,
    }
    record = {role: _record(part, how[role], seed) for role, part in roles.items()}
    return Splits(**roles, record=record)


def _test_role(
    dataset: Dataset, test: int | None, validation: int, train: int | None, seed: int
) -> tuple[Dataset, np.ndarray, np.ndarray, str]:
    """The test role: its dataset, its rows, the rows left for the others, and the reason."""
    everything, official = np.arange(len(dataset)), dataset.official_test
    if official is None:
        size = round(len(dataset) / 5) if test is None else test
        _check_sizes(dataset, {"test": size, "validation": validation, "train": train})
        rows, rest = draw(dataset, everything, size, "test", seed)
        how = f"A stratified draw from all {len(dataset)} rows, before the other roles."
        return dataset, rows, rest, how
    _check_sizes(dataset, {"validation": validation, "train": train})
    candidates = np.arange(len(official))
    size = _or_all(test, candidates)
    _check_sizes(official, {"test": size})
    rows, _ = draw(official, candidates, size, "test", seed)
    how = f"The data's own test set, all {size} rows."
    if size < len(official):
        how = f"A stratified draw from the {len(official)} rows of the data's own test set."
    return official, rows, everything, how


def _or_all(size: int | None, rows: np.ndarray) -> int:
    return len(rows) if size is None else size


def _check_sizes(dataset: Dataset, sizes: dict[str, int | None]) -> None:
    """All sizes at once, so that the message speaks of what was asked for."""
    classes = len(dataset.class_names)
    for role, size in sizes.items():
        if size is not None or role == "validation":
            check_size(size, role, classes)
    needed = sum(classes if size is None else size for size in sizes.values())
    if needed > len(dataset):
        asked = ", ".join(f"{role} {size or f'at least {classes}'}" for role, size in sizes.items())
        raise InputError(
            f"{dataset.name!r} has {len(dataset)} rows but the roles need {needed} ({asked}): "
            "ask for fewer."
        )


def _train_how(size: int, left: int) -> str:
    if size == left:
        return f"All {size} rows that have no other role."
    return f"A stratified draw from the {left} rows that have no other role."


def _standardisation(dataset: Dataset, rows: np.ndarray) -> tuple[Tensor | None, Tensor | None]:
    if dataset.is_image:
        return None, None
    features = dataset.inputs[torch.from_numpy(rows)]
    variance, center = torch.var_mean(features.double(), dim=0, correction=0)
    # Compared exactly: the rounded deviation of a constant column need not be zero.
    constant = features.amin(dim=0) == features.amax(dim=0)
    scale = torch.where(constant, 1.0, variance.sqrt())
    return center.to(torch.float32), scale.to(torch.float32)


def _record(part: Split, how: str, seed: int) -> dict[str, Any]:
    counts = torch.bincount(part.labels, minlength=len(part.dataset.class_names))
    return {
        "how": how,
        "count": len(part),
        "per_class": dict(zip(part.dataset.class_names, counts.tolist(), strict=True)),
        "seed": seed,
        "sha256": hashlib.sha256(np.sort(part.indices.numpy()).astype("<i8").tobytes()).hexdigest(),
    }
