"""What `tune` can tune: one row for each kind of hyperparameter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import bestresponse as br
from bestresponse._errors import InputError
from bestresponse.apps.tune._tuning import quantiles

if TYPE_CHECKING:
    from bestresponse.apps._examples import Examples
    from bestresponse.apps.tune._settings import TuneSettings

NETWORK_RATE = 3e-3  # of networks, whose units die at the rates that suit a few numbers
_NAMED = 8  # layers that are drawn one by one
_AT_ONCE = 5000  # examples that a reweighting network sees in one piece
_LOOKED_AT = 64  # images whose changes are measured along the way


@dataclass(frozen=True)
class Values:
    """Hyperparameters of a group as people read them.

    Attributes:
        values: flat.
        unit: what one of them is.
        names: of each, where they are few enough to have one.
        logarithmic: whether they are compared by their ratio.
        reach: where draws around them lie, the low and the high ends, (2, n), if they are drawn.
    """

    values: Tensor
    unit: str
    names: tuple[str, ...] = ()
    logarithmic: bool = False
    reach: Tensor | None = None

    def over_time(self) -> dict[str, Any]:
        """What is drawn over time, ready for JSON: each of a few, or quantiles of many."""
        if not self.names:
            return {"levels": quantiles(self.values)}
        levels = {"levels": self.values.tolist()}
        return levels if self.reach is None else levels | {"reach": self.reach.tolist()}


class Tuned(nn.Module):
    """Hyperparameters of a run, in groups that people can read."""

    def values(self) -> dict[str, Values]:
        """Each group that is tuned."""
        raise NotImplementedError

    def count(self, name: str) -> int:
        """Numbers that are tuned in a group."""
        raise NotImplementedError

    def augmentation(self) -> Callable[[Tensor], Tensor] | None:
        """What happens to training images, if anything."""
        raise NotImplementedError


@dataclass(frozen=True)
class Group:
    """A kind of hyperparameter.

    Attributes:
        lr: of Adam, where the user gives none.
        make: the module, from (settings, model, training examples).
        read: its values, from (module, training examples).
        settings: fields that have an effect with this group only.
    """

    lr: float
    make: Callable[[TuneSettings, nn.Module, Examples], nn.Module]
    read: Callable[[Any, Examples], Values]
    settings: tuple[str, ...] = field(default=())


def _make_decay(settings: TuneSettings, model: nn.Module, train: Examples) -> nn.Module:
    return br.hyper.WeightDecay(model, per=settings.decay_per, init=settings.decay)


def _read_decay(decay: br.hyper.WeightDecay, train: Examples) -> Values:
    logs = [leaf.detach().reshape(-1) for leaf in decay.parameters()]
    return Values(torch.cat(logs).exp(), "decay", logarithmic=True)


def _read_weights(weights: br.hyper.ExampleWeights, train: Examples) -> Values:
    everyone = torch.arange(weights.raw.numel(), device=weights.raw.device)
    return Values(weights(everyone).detach(), "weight")


def _make_reweighting(settings: TuneSettings, model: nn.Module, train: Examples) -> nn.Module:
    dataset = train.split.dataset
    classes = len(dataset.class_names)
    hidden = settings.reweight_hidden
    return br.hyper.ReweightingNetwork(prod(dataset.shape), classes=classes, hidden=hidden)


def _read_reweighting(network: br.hyper.ReweightingNetwork, train: Examples) -> Values:
    with torch.no_grad():
        parts = [network(*train.batch(i)) for i in torch.arange(len(train)).split(_AT_ONCE)]
    return Values(torch.cat(parts), "weight")


def _make_augmentation(settings: TuneSettings, model: nn.Module, train: Examples) -> nn.Module:
    shape = train.split.dataset.shape
    made: br.hyper.Augmentation | br.hyper.AugmentationNetwork
    if len(shape) != 3:
        raise InputError("--tune augment changes images; leave it out for a table of features.")
    if settings.augmentation == "transforms":
        made = br.hyper.Augmentation()
    else:
        made = br.hyper.AugmentationNetwork(
            shape[0], settings.augment_depth, settings.augment_width
        )
    made.check(shape)
    return made


def _read_augmentation(
    augment: br.hyper.Augmentation | br.hyper.AugmentationNetwork, train: Examples
) -> Values:
    if isinstance(augment, br.hyper.Augmentation):
        ranges = augment.ranges()
        return Values(torch.stack([*ranges.values()]), "range", tuple(ranges))
    images, _ = train.batch(torch.arange(min(_LOOKED_AT, len(train))))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draws = torch.stack([augment(images) for _ in range(8)])
    variance, mean = torch.var_mean(draws, dim=0)
    found = torch.stack([(mean - images).abs().mean(), variance.sqrt().mean()])
    return Values(found, "share of a full pixel", ("change of the mean", "deviation of a pixel"))


def _make_dropout(settings: TuneSettings, model: nn.Module, train: Examples) -> nn.Module:
    try:
        return br.hyper.LayerDropout(model, per=settings.dropout_per)
    except InputError as error:
        raise InputError(f"--tune dropout, --model {settings.model}: {error}") from error


def _read_dropout(dropout: br.hyper.LayerDropout, train: Examples) -> Values:
    rates = dropout.rates()
    if all(rate.ndim == 0 for rate in rates.values()) and len(rates) <= _NAMED:
        return Values(torch.stack([*rates.values()]), "dropout rate", tuple(rates))
    return Values(torch.cat([rate.reshape(-1) for rate in rates.values()]), "dropout rate")


def _read_smoothing(smoothing: br.hyper.LabelSmoothing, train: Examples) -> Values:
    return Values(smoothing.strength.detach().reshape(1), "label smoothing", ("ε",))


EXAMPLE_GROUPS = ("weights", "reweight-net")  # those that say how much an example counts

GROUPS = {
    "weights": Group(
        lr=0.1,
        make=lambda settings, model, train: br.hyper.ExampleWeights(len(train)),
        read=_read_weights,
    ),
    "reweight-net": Group(
        lr=NETWORK_RATE,
        make=_make_reweighting,
        read=_read_reweighting,
        settings=("reweight_hidden",),
    ),
    "decay": Group(lr=0.1, make=_make_decay, read=_read_decay, settings=("decay_per",)),
    "augment": Group(
        lr=0.03,
        make=_make_augmentation,
        read=_read_augmentation,
        settings=("augmentation", "augment_depth", "augment_width", "augment_regularizer"),
    ),
    "dropout": Group(lr=0.05, make=_make_dropout, read=_read_dropout, settings=("dropout_per",)),
    "label-smoothing": Group(
        lr=0.05,
        make=lambda settings, model, train: br.hyper.LabelSmoothing(),
        read=_read_smoothing,
    ),
}
