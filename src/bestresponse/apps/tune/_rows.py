"""The rows of `tune`'s table: the tuned run, and what a sensible person would do instead."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import bestresponse as br
from bestresponse._errors import InputError
from bestresponse.apps import _models
from bestresponse.apps._examples import Examples, corrupted, stream_seed
from bestresponse.apps._training import Training, predictions
from bestresponse.apps._user_file import said
from bestresponse.apps.tune._groups import GROUPS, Tuned
from bestresponse.apps.tune._hyperparameters import Hyperparameters
from bestresponse.apps.tune._settings import TuneSettings
from bestresponse.apps.tune._tuning import HyperSteps, Schedule, Tuner
from bestresponse.data import Splits

UNTUNED, VALIDATION_ONLY, BOTH, FILTERED, TUNED, REFITTED = ROWS = (
    "untuned",
    "validation_only",
    "train_and_validation",
    "filtered",
    "tuned",
    "refitted",
)

LABELS = {
    UNTUNED: "untuned",
    VALIDATION_ONLY: "validation set alone",
    BOTH: "training and validation set",
    FILTERED: "filtered (validation model)",
    TUNED: "tuned",
    REFITTED: "tuned, then refitted on both sets",
}


def label(row: str) -> str:
    """What a row is called; those of fixed values are called by their value."""
    return LABELS.get(row, f"{row}, fixed")


def ordered(rows: Iterable[str]) -> list[str]:
    """Names of rows as they stand in the table, those of fixed values before the tuned one."""
    rows = list(rows)
    fixed = [row for row in rows if row not in ROWS]
    return [row for row in (*ROWS[:-2], *fixed, *ROWS[-2:]) if row in rows]


@dataclass(frozen=True)
class Data:
    """The roles as a run uses them.

    Attributes:
        train: with labels that may be flipped.
        validation: clean.
        test: clean.
        flipped: which training labels were flipped, bool (n,).
    """

    train: Examples
    validation: Examples
    test: Examples
    flipped: Tensor

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.train.split.dataset.class_names)


def make_data(splits: Splits, corrupt: float, seed: int, device: torch.device) -> Data:
    """The roles, with a share of the training labels flipped."""
    classes = len(splits.train.dataset.class_names)
    labels, flipped = corrupted(splits.train.labels, classes, corrupt, seed)
    return Data(
        Examples(splits.train, labels, device),
        Examples(splits.validation, splits.validation.labels, device),
        Examples(splits.test, splits.test.labels, device),
        flipped,
    )


class Bench:
    """Builds the trainings of one run: same initial weights, batches and optimizer for all."""

    def __init__(self, settings: TuneSettings, data: Data, record: Callable[..., None]) -> None:
        self.settings, self.data, self._record = settings, data, record
        self.device = data.train.device
        shape, classes = data.train.split.dataset.shape, data.classes
        self._initial = _models.build(settings.model, shape, classes, settings.seed)
        self._probe_training()

    def plain(self, name: str, examples: Examples) -> Training:
        """A training without hyperparameter steps, at the initial decay."""
        model = self._model()
        fixed = Hyperparameters({}, self._decay(model), examples)
        return self._training(name, examples, model, lambda x, y, i: fixed.inner(model, x, y, i))

    def filtered(self, judge: nn.Module) -> Training:
        """A training on the examples whose label a model of the validation set agrees with.

        Where it agrees with none, the examples stay as they are.
        """
        train = self.data.train
        agreed = (predictions(judge, train) == train.labels).nonzero()[:, 0]
        return self.plain(FILTERED, train.subset(agreed) if len(agreed) else train)

    def tuned(self) -> tuple[Training, Tuned]:
        """The training with hyperparameter steps beside it, and what these change."""
        settings, model, train = self.settings, self._model(), self.data.train
        hyper = self._hyperparameters(model, train)
        optimizer = self._optimizer(model)
        nested = br.Nested(
            params=model,
            hyper=hyper,
            inner=lambda x, y, i: hyper.inner(model, x, y, i),
            outer=lambda x, y: hyper.outer(model, x, y),
            method=settings.make_method(optimizer),
            seed=settings.seed,
        )
        inner_batch, outer_batch = settings.hyper_batches
        tuner = Tuner(
            nested,
            self._hyper_optimizer(hyper),
            Schedule(settings.warmup, settings.interval, settings.patience),
            train,
            self.data.validation,
            inner_batch=inner_batch,
            outer_batch=outer_batch,
            inner_batches=settings.unroll_steps if settings.method == "unroll" else 1,
            seed=settings.seed,
            record=self._record,
        )
        training = self._training(
            TUNED, train, model, nested.inner_loss, optimizer=optimizer, companion=tuner
        )
        self._probe(nested, tuner)
        return training, hyper

    def fixed(self) -> list[Training]:
        """Trainings at fixed values of what is tuned."""
        return []

    def refitted(self, hyper: Tuned) -> Training:
        """A training on both sets at the hyperparameters that were found."""
        assert isinstance(hyper, Hyperparameters)
        model, fixed = self._model(), hyper.frozen()
        examples = self.data.train.joined(self.data.validation)
        return self._training(
            REFITTED, examples, model, lambda x, y, i: fixed.inner(model, x, y, i)
        )

    def _probe_training(self) -> None:
        """One training step of a copy on two examples: what cannot be trained is refused now."""
        model, index = self._model(), torch.arange(2)
        with explained(self.settings.model, "a training step"), torch.random.fork_rng(devices=[]):
            inputs, labels = self.data.train.batch(index)
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            self._optimizer(model).step()

    def _probe(self, nested: br.Nested, tuner: Tuner) -> None:
        """One hypergradient of two examples, thrown away: what cannot be tuned is refused now."""
        state = nested.state_dict()
        index = torch.arange(2)
        inner = (*tuner.train.batch(index), index)
        batch = br.Batches([inner] * tuner.inner_batches) if tuner.inner_batches > 1 else inner
        with explained(self.settings.model, "a hypergradient"):
            nested(batch, tuner.validation.batch(index))
        nested.load_state_dict(state)

    def _model(self) -> nn.Module:
        """A copy of the initial model, so that all rows start from the same weights."""
        return copy.deepcopy(self._initial).to(self.device)

    def _optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        trainable = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.Adam(trainable, lr=self.settings.lr)

    def _decay(self, model: nn.Module) -> nn.Module:
        """The decay of a training that does not tune it."""
        return br.hyper.WeightDecay(model, per="model", init=self.settings.decay).to(self.device)

    def _hyperparameters(self, model: nn.Module, train: Examples) -> Hyperparameters:
        """What is tuned, at its initial values; the same seed gives the same."""
        settings = self.settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(settings.seed, "hyperparameters"))
            groups = {
                name: GROUPS[name].make(settings, model, train).to(self.device)
                for name in settings.groups
            }
        fixed = None if "decay" in groups else self._decay(model)
        return Hyperparameters(groups, fixed, train, settings.augment_regularizer)

    def _hyper_optimizer(self, hyper: Hyperparameters) -> torch.optim.Optimizer:
        """Adam, with a learning rate for each group."""
        rates = self.settings.hyper_rates
        return torch.optim.Adam(
            {"params": [*hyper.group(name).parameters()], "lr": rates[name]}
            for name in hyper.groups
        )

    def _training(
        self,
        name: str,
        examples: Examples,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor, Tensor], Tensor],
        optimizer: torch.optim.Optimizer | None = None,
        companion: HyperSteps | None = None,
        product: Callable[[], nn.Module] | None = None,
    ) -> Training:
        return Training(
            name,
            examples,
            model,
            optimizer or self._optimizer(model),
            loss,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
            companion=companion,
            product=product,
        )


@contextmanager
def explained(model: str, what: str) -> Iterator[None]:
    """A model's own failure as one sentence."""
    try:
        yield
    except (InputError, br.SolveError):
        raise
    except Exception as error:
        raise InputError(f"--model {model} fails in {what}: {said(error)}.") from error
