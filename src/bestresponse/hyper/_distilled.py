"""A small training set that is learned."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bestresponse._errors import InputError

_CONFIDENCE = 0.9  # what a learned label gives its class at first


class Distilled(nn.Module):
    """A few images to train on, which are themselves the hyperparameters.

    ℓ = (1/n) Σ wᵢ·CE(f(xᵢ), yᵢ), with the xᵢ learned and, if asked, labels y, weights w > 0 and
    the learning rate of the training.

    Args:
        images: (n, …), where they start; copied.
        labels: int64 (n,), or the probability of each class, (n, classes).
        learn_labels: labels become softmax(`label_logits`), (n, classes). Whole numbers start
            with probability 0.9 at their class; the classes are then 0 to the largest of them.
        learn_weights: learn exp(`log_weights`), (n,), from 1 on.
        lr: learn exp(`log_lr`) from here on; read it as `data.lr`, a setting of `br.optim.SGD`.

    Raises:
        InputError: for shapes that do not fit, probabilities that are none, or an `lr` that is
            not positive.

    Source: Wang, Zhu, Torralba, Efros, "Dataset Distillation" (2018),
    https://arxiv.org/abs/1811.10959; learned labels: Bohdal, Yang, Hospedales, "Flexible Dataset
    Distillation: Learn Labels Instead of Images" (2020), https://arxiv.org/abs/2006.08572

    Example:
        >>> data = Distilled(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), lr=0.5)
        >>> [name for name, _ in data.named_parameters()]
        ['images', 'log_lr']
        >>> round(data.lr.item(), 4), round(data.loss(torch.zeros(2, 2)).exp().item(), 4)
        (0.5, 2.0)
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        learn_labels: bool = False,
        learn_weights: bool = False,
        lr: float | None = None,
    ) -> None:
        super().__init__()
        _check(images, labels, lr)
        dtype = images.dtype
        self.images = nn.Parameter(images.detach().clone())
        self.label_logits: nn.Parameter | None = None
        self.log_weights: nn.Parameter | None = None
        self.log_lr: nn.Parameter | None = None
        if learn_labels:
            self.label_logits = nn.Parameter(_probabilities(labels, dtype).log())
        if learn_weights:
            self.log_weights = nn.Parameter(images.new_zeros(len(images)))
        if lr is not None:
            self.log_lr = nn.Parameter(torch.tensor(math.log(lr), dtype=dtype))
        fixed = labels.detach().clone()
        self.register_buffer(
            "fixed_labels", None if learn_labels else fixed.to(dtype) if fixed.ndim == 2 else fixed
        )

    @property
    def labels(self) -> Tensor:
        """The classes, int64 (n,), or where they are learned or were given, (n, classes)."""
        if self.label_logits is not None:
            return self.label_logits.softmax(1)
        assert isinstance(self.fixed_labels, Tensor)
        return self.fixed_labels

    @property
    def weights(self) -> Tensor:
        """The weight of each image, (n,)."""
        if self.log_weights is None:
            return self.images.new_ones(len(self.images))
        return self.log_weights.exp()

    @property
    def lr(self) -> Tensor:
        """The learning rate, a scalar.

        Raises:
            InputError: if none is learned.
        """
        if self.log_lr is None:
            raise InputError("This Distilled has no learning rate; make it with lr=0.02, say.")
        return self.log_lr.exp()

    def loss(self, logits: Tensor) -> Tensor:
        """The weighted cross-entropy of a model's answers, (n, classes), to the images."""
        if self.log_weights is None:
            return F.cross_entropy(logits, self.labels)
        return (self.weights * F.cross_entropy(logits, self.labels, reduction="none")).mean()

    def extra_repr(self) -> str:
        """Shape and what is learned beside the images."""
        learned = [name for name, _ in self.named_parameters()]
        return f"{tuple(self.images.shape)}, learned={', '.join(learned)}"


def _probabilities(labels: Tensor, dtype: torch.dtype) -> Tensor:
    """Where learned labels start: inside the simplex."""
    if labels.ndim == 2:
        tiny = torch.finfo(dtype).tiny
        return labels.detach().to(dtype).clamp_min(tiny)
    classes = max(int(labels.max()) + 1, 2)
    rest = (1 - _CONFIDENCE) / (classes - 1)
    one_hot = F.one_hot(labels, classes).to(dtype)
    return rest + (_CONFIDENCE - rest) * one_hot


def _check(images: Tensor, labels: Tensor, lr: float | None) -> None:
    if images.ndim < 2 or not len(images) or not images.is_floating_point():
        raise InputError(
            f"The images are {images.dtype} of shape {tuple(images.shape)}; give floating-point "
            "numbers of shape (n, …)."
        )
    if labels.shape[:1] != images.shape[:1]:
        raise InputError(
            f"{len(images)} images have labels of shape {tuple(labels.shape)}; give one label "
            "for each image."
        )
    hard = labels.ndim == 1 and labels.dtype == torch.int64
    soft = labels.ndim == 2 and labels.is_floating_point()
    if not hard and not soft:
        raise InputError(
            f"The labels are {labels.dtype} of shape {tuple(labels.shape)}; give int64 (n,), or "
            "the probability of each class, (n, classes)."
        )
    if hard and bool((labels < 0).any()):
        raise InputError(f"The label {int(labels.min())} is negative; number classes from 0.")
    if soft and not _are_probabilities(labels):
        raise InputError(
            "Some row of labels holds no probabilities; give numbers from 0 on that add up to 1."
        )
    if lr is not None and not 0 < lr < math.inf:
        raise InputError(f"lr={lr} is no learning rate; give a positive number.")


def _are_probabilities(labels: Tensor) -> bool:
    sums = labels.sum(1)
    return bool((labels >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4)
