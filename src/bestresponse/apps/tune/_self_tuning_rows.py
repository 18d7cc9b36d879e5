"""The rows of a self-tuning run: the network that tunes itself, and fixed values beside it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

import bestresponse as br
from bestresponse._errors import InputError
from bestresponse.apps._examples import Examples, stream_seed
from bestresponse.apps._training import Training
from bestresponse.apps.tune._groups import Tuned
from bestresponse.apps.tune._rows import REFITTED, TUNED, Bench, explained
from bestresponse.apps.tune._self_tuning import SelfTuned, SelfTuner
from bestresponse.apps.tune._self_tuning_groups import DECAY, Objective, Tunable, tunable
from bestresponse.apps.tune._tuning import Schedule

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class SelfTuningBench(Bench):
    """Builds the trainings of one run whose hyperparameters tune themselves."""

    def tuned(self) -> tuple[Training, Tuned]:
        settings = self.settings
        self._probe_net()
        net, remarks = self._net()
        tuner = SelfTuner(
            net,
            self._self_tuning_optimizer(net),
            Schedule(settings.warmup, settings.train_steps, patience=0),
            self.data.validation,
            batch=settings.hyper_batches[1],
            steps=settings.valid_steps,
            entropy=settings.entropy,
            seed=settings.seed,
            record=self._record,
            remarks=remarks,
        )
        training = self._training(
            TUNED,
            self.data.train,
            net,
            _loss_of(net, self._objective),
            companion=tuner,
            product=net.freeze,
        )
        return training, SelfTuned(net, self._tunable, self._objective)

    def fixed(self) -> list[Training]:
        initial = self._tunable.bounded().values()
        grid = self._tunable.fixed_values(self.settings.grid)
        return [self._at(_name(each), self.data.train, initial | _tensors(each)) for each in grid]

    def refitted(self, hyper: Tuned) -> Training:
        assert isinstance(hyper, SelfTuned)
        examples = self.data.train.joined(self.data.validation)
        return self._at(REFITTED, examples, hyper.bounded.values())

    def _at(self, name: str, examples: Examples, values: Mapping[str, Tensor]) -> Training:
        """The training of an ordinary model at fixed values."""
        replay = br.response.Replay(self._model(), _Always(values), self._tunable.dropout)
        squares = br.hyper.WeightDecay(replay.model, per="model", init=1.0).to(self.device)
        objective = self._objective

        def loss(inputs: Tensor, labels: Tensor, index: Tensor) -> Tensor:
            values = replay.values
            logits = replay(objective.augmented(inputs, values))
            decay = objective.decay(values).to(logits) * squares(replay.model)
            return objective.cross_entropy(logits, labels, values) + decay.sum()

        return self._training(name, examples, replay, loss, product=lambda: replay.model)

    @cached_property
    def _tunable(self) -> Tunable:
        return tunable(self.settings, self._initial, self.data.train.split.dataset.shape)

    @cached_property
    def _objective(self) -> Objective:
        return Objective(self._tunable.bounded().values(), self.settings.decay)

    def _net(self) -> tuple[br.response.SelfTuning, list[str]]:
        """The network, and what is to be said about it; the same seed gives the same."""
        settings, found = self.settings, self._tunable
        hyper = found.bounded().to(self.device)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.manual_seed(stream_seed(settings.seed, "hyperparameters"))
            try:
                net = br.response.SelfTuning(
                    self._model(),
                    hyper,
                    found.dropout,
                    centred=settings.centred,
                    sigma=settings.sigma,
                    shared=[DECAY] if DECAY in hyper.values() else [],
                )
            except InputError as error:
                raise InputError(f"--model {settings.model}: {error}") from error
        remarks = [str(warning.message) for warning in said]
        if net.unconverted:
            remarks.append(f"Layers that do not respond: {', '.join(net.unconverted)}.")
        return net, remarks

    def _self_tuning_optimizer(self, net: br.response.SelfTuning) -> torch.optim.Optimizer:
        """Adam, with a learning rate for each group and the deviations of its draws."""
        raws, rates = net.hyper.raws(), self.settings.hyper_rates
        scales = dict(zip(raws, net.scales.parameters(), strict=True))
        return torch.optim.Adam(
            {"params": [p for n in names for p in (raws[n], scales[n])], "lr": rates[group]}
            for group, names in self._tunable.ranges.items()
        )

    def _probe_net(self) -> None:
        """Both kinds of step on two examples by a network that is thrown away."""
        net, _ = self._net()
        index = torch.arange(2)
        with explained(self.settings.model, "a step"), torch.random.fork_rng(devices=[]):
            inputs, labels = self.data.train.batch(index)
            _loss_of(net, self._objective)(inputs, labels, index).backward()
            net.validation_loss(F.cross_entropy, inputs, labels).backward()


@dataclass(frozen=True)
class _Always:
    """A schedule of one setting."""

    values: Mapping[str, Tensor]

    def at(self, step: int) -> Mapping[str, Tensor]:
        return self.values


def _tensors(values: Mapping[str, float]) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def _name(values: Mapping[str, float]) -> str:
    """What a row of fixed values is called."""
    name, value = next(iter(values.items()))
    return f"{name.partition('.')[0]}={value:.3g}"


def _loss_of(net: br.response.SelfTuning, objective: Objective) -> Loss:
    """The training loss of a self-tuning network."""

    def loss(inputs: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        return net.training_loss(
            lambda logits, labels: objective.cross_entropy(logits, labels, net.values),
            inputs,
            labels,
            augment=objective.augmented,
            penalty=lambda values: net.half_squares(objective.decay(values)),
        )

    return loss
