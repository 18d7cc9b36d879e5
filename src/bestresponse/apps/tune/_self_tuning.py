"""The hyperparameters of a self-tuning network, and the validation steps that change them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import bestresponse as br
from bestresponse import Result, SolveError
from bestresponse.apps._examples import Examples, Order
from bestresponse.apps._run import RunFolder
from bestresponse.apps.tune._groups import Tuned, Values
from bestresponse.apps.tune._self_tuning_groups import DECAY, Objective, Tunable, is_whole
from bestresponse.apps.tune._tuning import HyperSteps, Schedule

_UNITS = {"dropout": "dropout rate", "augment": "range", "cutout": "number"}
_NAMED = 8  # rates that are drawn one by one


class SelfTuned(Tuned):
    """The hyperparameters of a network that tunes itself, and the deviations of its draws.

    Args:
        net: whose they are.
        tunable: the groups.
        objective: what they do to the training loss.
    """

    def __init__(self, net: br.response.SelfTuning, tunable: Tunable, objective: Objective) -> None:
        super().__init__()
        self.bounded, self.scales = net.hyper, net.scales
        self._groups = _readable(tunable)
        self._augments = "augment" in tunable.ranges
        self._objective = objective

    def values(self) -> dict[str, Values]:
        return {
            group: Values(
                torch.stack([self.bounded.values()[name] for name in names]),
                _UNITS.get(group, group),
                tuple(names) if len(names) <= _NAMED or group != "dropout" else (),
                logarithmic=group == DECAY,
                reach=torch.stack([self._reach(name) for name in names], 1),
            )
            for group, names in self._groups.items()
        }

    def _reach(self, name: str) -> Tensor:
        """One deviation below and above a hyperparameter, (2,)."""
        with torch.no_grad():
            raw, sigma = self.bounded.raws()[name], self.scales.sigma()[name]
            return self.bounded.constrain(name, torch.stack([raw - sigma, raw + sigma]))

    def count(self, name: str) -> int:
        return len(self._groups[name])

    def augmentation(self) -> Callable[[Tensor], Tensor] | None:
        now = {name: value[None] for name, value in self.bounded.values().items()}
        return partial(self._objective.augmented, values=now) if self._augments else None


class SelfTuner(HyperSteps):
    """Takes validation steps whenever they are due, and keeps the schedule.

    Args:
        net: trained by someone else.
        optimizer: steps its hyperparameters and scales.
        due: when.
        validation: examples, drawn `batch` at a time.
        batch: of a validation step.
        steps: validation steps in a row.
        entropy: its weight in the loss.
        seed: of the order of the batches.
        record: called with the figures of each validation step.
        remarks: sentences about the network, for the report.
    """

    def __init__(
        self,
        net: br.response.SelfTuning,
        optimizer: torch.optim.Optimizer,
        due: Schedule,
        validation: Examples,
        *,
        batch: int,
        steps: int,
        entropy: float,
        seed: int,
        record: Callable[..., None],
        remarks: list[str],
    ) -> None:
        self.net, self.optimizer, self.due, self.validation = net, optimizer, due, validation
        self.order = Order(len(validation), batch, seed, "outer")
        self.steps, self.entropy, self.record = steps, entropy, record
        self.remarks = remarks
        self.taken, self.last = 0, math.nan
        self.schedule = br.response.Schedule()
        self.schedule.record(0, net)

    def after_step(self, step: int) -> None:
        if self.due.is_due(step):
            for _ in range(self.steps):
                self._validate(step)

    def _validate(self, step: int) -> None:
        inputs, labels = self.validation.batch(self.order.next())
        entropy = self.net.entropy().detach()
        loss = self.net.validation_loss(F.cross_entropy, inputs, labels, entropy=self.entropy)
        loss.backward()
        self.last = float(loss.detach() + self.entropy * entropy)
        self._check_finite(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.taken += 1
        self.record(kind="hyper", step=step, outer_loss=self.last, entropy=float(entropy))

    def _check_finite(self, step: int) -> None:
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"]]
        total = sum(float(g.abs().sum()) for g in gradients if g is not None)
        if not math.isfinite(self.last + total):
            raise SolveError(Result.nonfinite, f"(validation step after training step {step})")

    def observed(self, step: int, scores: Mapping[str, float]) -> None:
        sizes = {f"response:{name}": size for name, size in self.net.response_size().items()}
        losses = {name: scores[name] for name in ("train_loss", "validation_loss")}
        entropy = float(self.net.entropy().detach())
        self.schedule.record(step, self.net, **losses, entropy=entropy, **sizes)

    def note(self) -> str:
        return f"validation loss {self.last:.4f}" if self.taken else ""

    def figures(self) -> dict[str, float]:
        return {"validation_steps": self.taken}

    def ending(self) -> dict[str, Any]:
        return {
            "values": {name: float(value) for name, value in self.net.hyper.values().items()},
            "sigma": {n: float(sigma.detach()) for n, sigma in self.net.scales.sigma().items()},
            "response_size": self.net.response_size(),
            "layers": {"respond": self.net.converted, "do_not": self.net.unconverted},
            "notes": self.remarks,
        }

    def write(self, folder: RunFolder) -> None:
        folder.write_file("schedule.csv", self.schedule.save)

    def state(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "order": self.order.state(),
            "schedule": self.schedule.rows,
            "taken": self.taken,
            "last": self.last,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.order.load(state["order"])
        self.schedule = br.response.Schedule(state["schedule"])
        self.taken, self.last = state["taken"], state["last"]


def _readable(tunable: Tunable) -> dict[str, list[str]]:
    """Names by group; what counts pixels or holes is a group of its own."""
    groups: dict[str, list[str]] = {}
    for group, spans in tunable.ranges.items():
        for name in spans:
            groups.setdefault("cutout" if is_whole(name) else group, []).append(name)
    return groups
