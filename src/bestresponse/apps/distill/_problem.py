"""What `distill` works on: roles of the real images, and where the learned ones start."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bestresponse._errors import InputError
from bestresponse.apps._examples import Examples, stream_seed
from bestresponse.apps._training import Score, score
from bestresponse.data import Dataset, Splits, split
from bestresponse.hyper import Distilled

_AVERAGED = 10  # an image starts as the mean of so many real ones of its class
_FULL = 255  # of a pixel in the files
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Problem:
    """Real images in their roles.

    Attributes:
        train: the outer loss is theirs.
        validation: choose the iterate.
        test: are reported, and choose nothing.
        seed: of the roles, of where the images start, and of fresh weights.
    """

    train: Examples
    validation: Examples
    test: Examples
    seed: int

    @property
    def dataset(self) -> Dataset:
        """Where the training images are from."""
        return self.train.split.dataset

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.dataset.class_names)

    def start(
        self, count: int, learn: frozenset[str], lr: float | None, dtype: torch.dtype
    ) -> Distilled:
        """The set before anything is learned: means of a few real images, class after class."""
        labels = torch.arange(count) % self.classes
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "first images"))
        images = [self._mean_image(int(label), generator) for label in labels]
        return Distilled(
            torch.stack(images).to(dtype),
            labels,
            learn_labels="labels" in learn,
            learn_weights="weights" in learn,
            lr=lr,
        )

    def _mean_image(self, label: int, generator: torch.Generator) -> Tensor:
        rows = (self.train.labels == label).nonzero()[:, 0]
        some = rows[torch.randperm(len(rows), generator=generator)[:_AVERAGED]]
        return self.train.batch(some)[0].mean(0)


def make_problem(dataset: Dataset, images: int, validation: int | None, seed: int) -> Problem:
    """The data in its roles.

    Raises:
        InputError: for data that is no images, or fewer learned images than classes.
    """
    if not dataset.is_image:
        raise InputError(
            f"'{dataset.name}' holds rows of numbers; --data must be images to be distilled."
        )
    classes = len(dataset.class_names)
    if images < classes:
        raise InputError(
            f"--images {images} is less than one for each of the {classes} classes; "
            f"give {classes} or more."
        )
    splits = roles(dataset, validation, seed)
    train, validating, test = (
        Examples(role, role.labels, _CPU) for role in (splits.train, splits.validation, splits.test)
    )
    return Problem(train, validating, test, seed)


def roles(dataset: Dataset, validation: int | None, seed: int) -> Splits:
    """Who is trained on, who chooses and who is reported."""
    least = len(dataset.class_names)
    size = max(least, len(dataset) // 10) if validation is None else validation
    return split(dataset, validation=size, seed=seed)


def in_eight_bits(data: Distilled) -> Distilled:
    """The set with pixels as the files hold them; all that is reported is of this one."""
    with torch.no_grad():
        data.images.copy_((data.images.clamp(0, 1) * _FULL).round() / _FULL)
    return data


def as_bytes(data: Distilled) -> Tensor:
    """The pixels, uint8 (n, C, H, W)."""
    return (data.images.detach() * _FULL).round().to(torch.uint8)


def score_of(model: nn.Module, examples: Examples) -> Score:
    """Loss and accuracy, in float32 as the images are."""
    return score(copy.deepcopy(model).float(), examples)


def in_type_of(x: Tensor, model: nn.Module) -> Tensor:
    """The model's answers to many images, in their own lower precision."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    cast = {n: t.to(x.dtype) if t.is_floating_point() else t for n, t in tensors.items()}
    return functional_call(model, cast, (x,))
