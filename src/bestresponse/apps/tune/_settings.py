"""The settings of `bestresponse tune`, and what makes no sense among them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

import bestresponse as br
from bestresponse._errors import InputError
from bestresponse.apps import _models, _options
from bestresponse.apps.tune._groups import GROUPS, NETWORK_RATE
from bestresponse.apps.tune._self_tuning_groups import check_groups
from bestresponse.apps.tune._unused import unused
from bestresponse.data import Splits, load, split

LIGHT_MODELS = ("linear", "mlp")
SELF_TUNING_RATE = 0.05  # of Adam, on all hyperparameters of a self-tuning network
_HIGHEST_RATE = 1e37  # near the end of float32, where optimizers overflow
_LIGHT_BATCHES = 4  # of training, in a hyperparameter step of a light model


def _optional(metavar: str) -> Any:
    """A flag whose default is described in words."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


@dataclass(frozen=True)
class TuneSettings(ABC):
    """The fields are the flags of the command line."""

    data: str = "digits"
    """`digits` (bundled), a Parquet, CSV or IDX file, or a folder of Parquet files or of one image
    folder a class."""
    target: Annotated[str | None, _optional("COLUMN")] = None
    """The column of classes, for CSV."""
    model: str = "mlp"
    """linear, mlp, cnn, resnet, alexnet, resnet18, resnet44, or FILE.py:FACTORY, called as
    FACTORY(input_shape, classes)."""
    tune: str = "weights"
    """What is tuned, comma-separated: weights (one for each training example), reweight-net (a
    network that weighs an example by its inputs and label), decay, augment, label-smoothing,
    dropout (before every layer but the first). With self-tuning the last four; dropout is then in
    the model's own Dropout layers, if it has any."""
    decay_per: Literal["weight", "channel", "tensor", "model"] = "weight"
    """With decay: one decay for each of these."""
    reweight_hidden: int = 64
    """With reweight-net: width of its hidden layer."""
    dropout_per: Literal["layer", "unit"] = "layer"
    """With dropout: one rate for each layer, or for each of its units (channels)."""
    augmentation: Literal["transforms", "network"] = "transforms"
    """With augment: affine maps, colours and noise with learned ranges, or a U-Net."""
    augment_depth: int = 2
    """Levels of the U-Net."""
    augment_width: int = 3
    """Its first level has 2^width channels: depth 2, width 3 is the published small one of 6,659
    weights on colour images, depth 5, width 6 the large one of 31 million."""
    augment_regularizer: float = 10.0
    """Factor of what keeps the U-Net's changes varied, in the validation loss (the published 1
    with a solver scale of 0.1 is 10 with one of 1)."""
    corrupt: float = 0.0
    """Flip this share of the training labels, to show cleaning."""
    train: Annotated[int | None, _optional("INT")] = None
    """Training examples; all that are left by default."""
    validation: int = 200
    """Validation examples."""
    method: Literal["implicit", "unroll", "finite-difference", "self-tuning"] = "implicit"
    """How the best response is differentiated; self-tuning: learned by the network's layers."""
    solver: Literal["scale", "neumann", "cg", "dense"] = "scale"
    """How the inverse Hessian is approximated (implicit, finite-difference)."""
    solver_steps: int = 5
    """Products a solve (neumann, cg)."""
    solver_lr: float = 1.0
    """The scale of `scale`, the step size of `neumann`."""
    damping: float = 0.1
    """Added to the diagonal of the inner Hessian (neumann, cg, dense)."""
    unroll_steps: int = 5
    """Steps to unroll."""
    centred: bool = False
    """With self-tuning: the network's plain weights are those at the hyperparameters, and the
    response is learned beside them (Delta-STN)."""
    augment: str = "translate,rotate,scale,shear,brightness,contrast,noise"
    """With self-tuning and augment: what happens to images, comma-separated; also saturation, hue,
    gain (of all pixels), drop (of inputs), cutout (side of a hole), holes (their number)."""
    sigma: float = 0.5
    """With self-tuning: deviation of the perturbations in the beginning."""
    entropy: float = 1e-3
    """With self-tuning: weight of the perturbations' entropy, which keeps them from vanishing."""
    train_steps: int = 2
    """With self-tuning: training steps between validation steps."""
    valid_steps: int = 1
    """With self-tuning: validation steps in a row."""
    grid: int = 4
    """With self-tuning: fixed values of what is named first in --tune (all dropout rates alike)
    that are trained beside; 0: none."""
    steps: Annotated[int | None, _optional("INT")] = None
    """Training steps; by default 25 passes over the data, at least 1,000 and at most 20,000."""
    batch_size: int = 256
    """Examples in a training step."""
    inner_batch: Annotated[int | None, _optional("INT")] = None
    """Training examples in a hyperparameter step (all, where there are fewer); by default as many
    as in a training step, for linear and mlp, which need little memory, four times as many (not
    with self-tuning)."""
    outer_batch: Annotated[int | None, _optional("INT")] = None
    """Validation examples in a hyperparameter step (all, where there are fewer); by default the
    same."""
    warmup: int = 20
    """Training steps before the first hyperparameter step."""
    interval: int = 25
    """Training steps between two hyperparameter steps."""
    lr: float = 3e-3
    """Adam's learning rate for the weights."""
    hyper_lr: Annotated[float | None, _optional("FLOAT")] = None
    """Adam's learning rate for all hyperparameters; by default each group has its own, 0.05 with
    self-tuning."""
    group_lr: tuple[str, ...] = ()
    """GROUP=RATE, for groups that are to have another learning rate, such as decay=0.01."""
    refit: bool = False
    """In the end, train on training and validation set together at the hyperparameters that were
    found; that model is saved."""
    decay: float = 2e-3
    """Weight decay; its initial value where decay is tuned."""
    patience: int = 0
    """Stop tuning after so many hyperparameter steps without a better validation loss; 0: never."""
    evaluations: int = 50
    """Points on each curve."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    threads: Annotated[int | None, _optional("INT")] = None
    """CPU threads; by default 1 for linear and mlp, PyTorch's choice otherwise."""
    seed: int = 0
    """Of splits, flips, initial weights and batches."""
    out: Annotated[Path | None, _optional("FOLDER")] = None
    """The run folder; by default a new one under runs/."""
    overwrite: bool = False
    """Replace a run that is already in --out."""
    checkpoint_seconds: float = 10.0
    """Seconds between two checkpoints."""
    resume: Annotated[Path | None, _optional("RUN")] = None
    """Continue this run; no other flag is needed (but --model again, if it is a file)."""

    @property
    def groups(self) -> tuple[str, ...]:
        """What is tuned."""
        return tuple(part.strip() for part in self.tune.split(","))

    @property
    def hyper_rates(self) -> dict[str, float]:
        """Adam's learning rate for each group that is tuned."""
        rates = {name: self.hyper_lr or self._usual_rate(name) for name in self.groups}
        return rates | dict(_rate(entry, self.groups) for entry in self.group_lr)

    def _usual_rate(self, group: str) -> float:
        if self.method == "self-tuning":
            return SELF_TUNING_RATE
        network = group == "augment" and self.augmentation == "network"
        return NETWORK_RATE if network else GROUPS[group].lr

    @property
    def hyper_batches(self) -> tuple[int, int]:
        """Training and validation examples in a hyperparameter step."""
        light = self.model in LIGHT_MODELS and self.method != "self-tuning"
        default = self.batch_size * (_LIGHT_BATCHES if light else 1)
        return self.inner_batch or default, self.outer_batch or default

    @property
    def hyper_interval(self) -> int:
        """Training steps between two hyperparameter steps."""
        return self.train_steps if self.method == "self-tuning" else self.interval

    @abstractmethod
    def run(self) -> Any:
        """Do it."""

    def load_splits(self) -> Splits:
        """The data in its roles."""
        if self.data.lower().endswith(".csv") and self.target is None:
            raise InputError(f"--data {self.data} is a table; name its classes with --target.")
        dataset = load(self.data, self.target)
        return split(dataset, validation=self.validation, train=self.train, seed=self.seed)

    def make_method(self, optimizer: torch.optim.Optimizer) -> Any:
        """The method of differentiation."""
        if self.method == "unroll":
            return br.Unroll(br.optim.from_torch(optimizer), steps=self.unroll_steps)
        solvers: dict[str, Any] = {
            "scale": lambda: br.Scale(self.solver_lr),
            "neumann": lambda: br.Neumann(lr=self.solver_lr, max_steps=self.solver_steps),
            "cg": lambda: br.CG(max_steps=self.solver_steps),
            "dense": br.Dense,
        }
        damping = 0.0 if self.solver == "scale" else self.damping
        kind = br.Implicit if self.method == "implicit" else br.FiniteDifference
        return kind(solvers[self.solver](), damping=damping)

    def unused(self) -> dict[str, str]:
        """Fields that have no effect beside the others, with the reason."""
        return unused(self)

    def check(self, given: set[str] | None = None) -> None:
        """Refuse settings that make no sense, and given ones that have no effect.

        Args:
            given: fields that were set on purpose; by default those that differ from the default.
        """
        given = _options.changed(self) if given is None else given
        if self.resume is not None:
            return _models.check_resumed(given, self.model)
        if self.overwrite and self.out is None:
            raise InputError("--overwrite has no effect without --out; name the folder.")
        unknown = [group for group in self.groups if group not in GROUPS]
        if unknown or len(set(self.groups)) < len(self.groups):
            raise InputError(
                f"--tune {self.tune} is not understood; give a list of {', '.join(GROUPS)}."
            )
        if self.method == "self-tuning":
            check_groups(self.groups, self.augment)
        _options.check_choice(self, "decay_per", ("weight", "channel", "tensor", "model"))
        _options.check_choice(self, "dropout_per", ("layer", "unit"))
        _options.check_choice(self, "augmentation", ("transforms", "network"))
        _options.check_choice(
            self, "method", ("implicit", "unroll", "finite-difference", "self-tuning")
        )
        _options.check_choice(self, "solver", ("scale", "neumann", "cg", "dense"))
        _options.check_positive(
            self, "validation", "train", "solver_steps", "solver_lr", "unroll_steps", "steps",
            "batch_size", "inner_batch", "outer_batch", "interval", "lr", "hyper_lr", "decay",
            "evaluations", "threads", "checkpoint_seconds", "augment_depth",
            "reweight_hidden", "sigma", "train_steps", "valid_steps",
        )  # fmt: skip
        _options.check_not_negative(
            self, "damping", "warmup", "patience", "seed", "augment_width", "augment_regularizer",
            "entropy", "grid",
        )  # fmt: skip
        assert self.hyper_rates  # refuses what is no learning rate
        if not 0 <= self.corrupt < 1:
            raise InputError(f"--corrupt is {self.corrupt}; give a share from 0 to below 1.")
        for name, reason in self.unused().items():
            if name in given:
                raise InputError(f"{_options.flag(name)} has no effect: {reason}; leave it out.")
        most = 8 * (os.cpu_count() or 1)
        if self.threads is not None and self.threads > most:
            raise InputError(f"--threads {self.threads} is too many for this machine; use {most}.")
        _models.factory(self.model)
        find_device(self.device)


def _rate(entry: str, groups: tuple[str, ...]) -> tuple[str, float]:
    """A group and its learning rate, from GROUP=RATE."""
    name, _, number = entry.partition("=")
    try:
        rate = float(number)
    except ValueError:
        rate = -1.0
    if name not in groups or not 0 < rate < _HIGHEST_RATE:
        raise InputError(
            f"--group-lr {entry} is not understood; give GROUP=RATE with a group of --tune "
            f"({', '.join(groups)}) and a positive number."
        )
    return name, rate


def find_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name} is unknown; use cpu, cuda or cuda:0.") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name} is not supported; use cpu or cuda.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this PyTorch sees no GPU; use --device cpu.")
    return device
