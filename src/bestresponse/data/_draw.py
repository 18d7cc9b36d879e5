"""One stratified draw without replacement."""

from __future__ import annotations

import numpy as np

from bestresponse._errors import InputError
from bestresponse.data._dataset import Dataset

_ROLES = ("test", "validation", "train")


def draw(
    dataset: Dataset, rows: np.ndarray, size: int, role: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws `size` of `rows` so that each class has its share, to within one example.

    scikit-learn's stratified splitters do the same but refuse to leave over fewer rows than there
    are classes, which a training size just below "all" does.

    Returns:
        The rows drawn and the rows left, both sorted.

    Raises:
        InputError: A class is missing among the rows drawn.
    """
    # The legacy generator's stream is frozen: a seed keeps its split when numpy is upgraded.
    random = np.random.RandomState([seed, _ROLES.index(role)])
    labels = dataset.labels.numpy()[rows]
    shares = _shares(np.bincount(labels, minlength=len(dataset.class_names)), size, random)
    chosen = np.zeros(len(rows), dtype=bool)
    for label, share in enumerate(shares):
        chosen[random.permutation(np.flatnonzero(labels == label))[:share]] = True
    _check_covers(dataset, rows[chosen], role)
    return rows[chosen], rows[~chosen]


def _shares(counts: np.ndarray, size: int, random: np.random.RandomState) -> np.ndarray:
    """How many of each class: rounded down, then the largest remainders get one more."""
    shares, remainders = np.divmod(counts * size, counts.sum())
    order = np.lexsort((random.random_sample(len(counts)), -remainders))
    shares[order[: size - shares.sum()]] += 1
    return shares


def _check_covers(dataset: Dataset, rows: np.ndarray, role: str) -> None:
    """Refuses a role that lacks a class.

    Raises:
        InputError: The message names the class and the role.
    """
    counts = np.bincount(dataset.labels.numpy()[rows], minlength=len(dataset.class_names))
    if counts.min() == 0:
        raise InputError(
            f"Class {dataset.class_names[int(counts.argmin())]!r} has no example in {role}: "
            f"make {role} larger, the roles before it smaller, or add examples of the class."
        )


def check_size(size: object, role: str, classes: int) -> None:
    """Refuses a size that is no whole number or less than one example for each class.

    Raises:
        InputError: The message names the role.
    """
    if not isinstance(size, int) or isinstance(size, bool) or size <= 0:
        raise InputError(f"{role}={size!r} is no number of examples: give a positive integer.")
    if size < classes:
        raise InputError(
            f"{role}={size} is less than one example for each of the {classes} classes: "
            f"ask for {classes} or more."
        )


def check_seed(seed: object) -> None:
    """Refuses what cannot seed a generator.

    Raises:
        InputError: The seed is no integer from 0 to 2**32 - 1.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise InputError(f"seed={seed!r} cannot be used: give an integer from 0 to 4294967295.")
