"""Distillation for any model: Adam on batches of real images, from weights drawn anew."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse._errors import InputError
from bestresponse.apps import _models
from bestresponse.apps._examples import Order, stream_seed
from bestresponse.apps._training import Training
from bestresponse.apps.distill._keeper import State, Stretch, restoring
from bestresponse.apps.distill._problem import Problem, score_of
from bestresponse.apps.distill._trace import Found, Solves, Trace
from bestresponse.hyper import Distilled

LONGEST = 1.0  # a hypergradient is cut to this length: some weights amplify it
_LOOKS = 20  # points on the curve
_JUDGED = 2000  # validation images at each look
_FULL_BATCH, _FULL_LEAST = 128, 400  # of the training on all images, and its batches
_PIECES = 100  # between which the training on all images can be left off
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Nested(Protocol):
    """A nested problem as `br.Nested` is one."""

    def __call__(
        self, inner_batch: Any = (), outer_batch: Any = ()
    ) -> tuple[torch.Tensor, br.Report]:
        """The outer loss, whose gradient is the hypergradient, and the report."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        ...


@dataclass(frozen=True, kw_only=True)
class AdamDistiller(ABC):
    """Learns images for a model whose response, and its derivative, subclasses know.

    Attributes:
        model: as the flag has it.
        images: how many.
        learn: what is learned beside them: labels, weights, lr.
        steps: outer steps, of Adam with a rate that falls to zero along a cosine.
        hyper_lr: of Adam.
        batch_size: real images in an outer step.
        full_epochs: passes over the training images that the comparison is trained for; None for
            one, or as many as make 400 batches.
        trainings: fresh weights to be judged by.
    """

    model: str
    images: int
    learn: frozenset[str]
    steps: int
    hyper_lr: float
    batch_size: int
    full_epochs: int | None
    trainings: int = 5

    precision: ClassVar[torch.dtype] = torch.float32

    @abstractmethod
    def start(self, problem: Problem) -> Distilled:
        """The set before anything is learned."""

    @abstractmethod
    def nested(self, net: nn.Module, data: Distilled, problem: Problem) -> Nested:
        """The nested problem, with real images as its outer batch."""

    @abstractmethod
    def prepare(self, net: nn.Module, data: Distilled, problem: Problem, step: int) -> bool | None:
        """Put the weights where the hypergradient of a step is taken.

        Returns:
            Whether the inner problem is solved there; None if there is nothing to be solved.
        """

    @abstractmethod
    def fit(self, net: nn.Module, data: Distilled, seed: int) -> None:
        """Train fresh weights on the set, as it was distilled for."""

    def distill(self, problem: Problem, stretch: Stretch) -> Found:
        """The set with the best validation accuracy among those that were looked at."""
        data, net = self.start(problem), self.fresh(problem, "step 0")
        nested = self.nested(net, data, problem)
        optimizer = torch.optim.Adam(data.parameters(), lr=self.hyper_lr)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        order = Order(len(problem.train), self.batch_size, problem.seed, "outer batches")
        trace, solves, losses, done = Trace(problem, data), Solves(), list[float](), 0
        live: dict[str, Any] = {
            "data": data,
            "net": net,
            "nested": nested,
            "Adam": optimizer,
            "rate": falling,
        }
        if stretch.saved is not None:
            with restoring():
                saved = stretch.saved
                for name, part in live.items():
                    part.load_state_dict(saved[name])
                order.load(saved["order"])
                trace.load(saved["trace"])
                done, losses, solves = saved["step"], saved["losses"], Solves(**saved["solves"])

        def state() -> State:
            return {
                "step": step,
                "losses": losses,
                "solves": asdict(solves),
                "order": order.state(),
                "trace": trace.state(),
                **{name: part.state_dict() for name, part in live.items()},
            }

        looks = {max(1, self.steps * k // _LOOKS) for k in range(1, _LOOKS + 1)}
        for step in range(done + 1, self.steps + 1):
            solved = self.prepare(net, data, problem, step)
            loss, report = nested((), problem.train.batch(order.next()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
            _into_range(data)
            losses.append(report.outer_loss)
            note = f"outer loss {report.outer_loss:.4f}"
            if solved is not None:
                solves.add(report, solved=solved)
            if step in looks:
                judged = self._trained(data, problem, "choice")
                some = problem.validation.subset(torch.arange(len(problem.validation))[:_JUDGED])
                accuracy = score_of(judged, some).accuracy
                trace.add(sum(losses) / len(losses), accuracy, judged, step)
                losses.clear()
                note = trace.last
            stretch.step(step, note, state)
        return trace.found(solves if solves.steps else None)

    def train(self, data: Distilled, problem: Problem, number: int) -> nn.Module:
        """The model from fresh weights that no distillation saw, on the set alone."""
        return self._trained(data, problem, f"evaluation {number}")

    def train_on_all(self, problem: Problem, stretch: Stretch) -> tuple[nn.Module, float]:
        """The ceiling: Adam on the training images, and the seconds."""
        net = self.fresh(problem, "all images").float()
        batch = min(_FULL_BATCH, len(problem.train))
        one_pass = len(problem.train) // batch
        until = (
            max(one_pass, _FULL_LEAST) if self.full_epochs is None else self.full_epochs * one_pass
        )
        training = Training(
            "all images",
            problem.train,
            net,
            torch.optim.Adam(net.parameters(), lr=1e-3),
            lambda inputs, labels, _: F.cross_entropy(net(inputs), labels),
            batch_size=batch,
            seed=problem.seed,
        )
        if stretch.saved is not None:
            with restoring():
                training.load(stretch.saved)
        while training.step < until:
            training.advance(min(until, training.step + 1 + until // _PIECES), lambda: True)
            done = self.steps * training.step // until
            stretch.step(done, f"batch {training.step} of {until}", training.state)
        return net.eval(), training.seconds

    def fresh(self, problem: Problem, purpose: str) -> nn.Module:
        """Weights of their own for each purpose."""
        seed = stream_seed(problem.seed, f"weights of {purpose}")
        net = _models.build(self.model, problem.dataset.shape, problem.classes, seed)
        return net.to(self.precision)

    def _trained(self, data: Distilled, problem: Problem, purpose: str) -> nn.Module:
        net = self.fresh(problem, purpose)
        exact = copy.deepcopy(data).to(self.precision)
        self.fit(net, exact, stream_seed(problem.seed, f"dropout of {purpose}"))
        return net.eval()


def check_model(net: nn.Module, model: str) -> None:
    """Refuse a model that a few images cannot train in full."""
    if any(_has_statistics(module) for module in net.modules()):
        raise InputError(
            f"--model {model} has batch normalization, whose running statistics cannot be learned "
            "from a few images; use a model without, or with nn.GroupNorm."
        )


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BATCH_NORMS) or getattr(module, "running_mean", None) is not None


@torch.no_grad()
def _into_range(data: Distilled) -> None:
    """Pixels stay pixels."""
    data.images.clamp_(0, 1)
