"""Distillation for any model: through the steps of its training, from fresh weights each time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse import Result, SolveError
from bestresponse._errors import InputError
from bestresponse.apps import _models
from bestresponse.apps._distill_problem import Problem
from bestresponse.apps._distill_trace import Found, Trace
from bestresponse.apps._examples import Order, stream_seed
from bestresponse.apps._training import Training, score
from bestresponse.hyper import Distilled

_MOMENTUM = 0.9  # of the training on the images: steadier than without, at equal progress
_LOOKS = 20  # points on the curve
_JUDGED = 2000  # validation images at each look
_LONGEST = 1.0  # a hypergradient is cut to this length: steps of training amplify some of them
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
Said = Callable[[int, str], None]


@dataclass(frozen=True)
class UnrollDistiller:
    """Learns images for a few steps with momentum, from weights drawn anew each time.

    Attributes:
        model: as the flag has it.
        images: how many.
        learn: what is learned beside them: labels, weights, lr.
        steps: outer steps, of Adam with a rate that falls to zero along a cosine.
        inner_steps: steps of gradient descent with momentum on the set.
        inner_lr: their learning rate; where it starts, if it is learned.
        hyper_lr: of Adam.
        batch_size: real images in an outer step.
        full_epochs: passes over the training images that the comparison is trained for.
        trainings: fresh weights to be judged by.
    """

    model: str
    images: int
    learn: frozenset[str]
    steps: int
    inner_steps: int
    inner_lr: float
    hyper_lr: float
    batch_size: int
    full_epochs: int
    trainings: int = 5

    def distill(self, problem: Problem, said: Said) -> Found:
        """The set with the best validation accuracy among those that were looked at."""
        lr = self.inner_lr if "lr" in self.learn else None
        data = problem.start(self.images, self.learn, lr, torch.float32)
        net = self._fresh(problem, "step 0")
        rate = (lambda: data.lr) if "lr" in self.learn else self.inner_lr
        nested = br.Nested(
            params=net,
            hyper=data,
            inner=lambda: data.loss(net(data.images)),
            outer=lambda x, y: F.cross_entropy(net(x), y),
            method=br.Unroll(
                br.optim.Momentum(lr=rate, momentum=_MOMENTUM), steps=self.inner_steps
            ),
            max_norm=_LONGEST,
            seed=problem.seed,
        )
        optimizer = torch.optim.Adam(data.parameters(), lr=self.hyper_lr)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        order = Order(len(problem.train), self.batch_size, problem.seed, "outer batches")
        trace, losses = Trace(said), list[float]()
        looks = {max(1, self.steps * k // _LOOKS) for k in range(1, _LOOKS + 1)}
        start = time.perf_counter()
        for step in range(1, self.steps + 1):
            net.load_state_dict(self._fresh(problem, f"step {step}").state_dict())
            loss, report = nested((), problem.train.batch(order.next()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
            _into_range(data)
            losses.append(report.outer_loss)
            if step in looks:
                judged = self._trained(data, problem, "choice")
                some = problem.validation.subset(torch.arange(len(problem.validation))[:_JUDGED])
                mean = sum(losses) / len(losses)
                trace.add(data, mean, score(judged, some).accuracy, judged, step)
                losses.clear()
            else:
                said(step, f"outer loss {report.outer_loss:.4f}")
        return trace.found(time.perf_counter() - start)

    def train(self, data: Distilled, problem: Problem, number: int) -> nn.Module:
        """The model from fresh weights that no distillation saw, on the set alone."""
        return self._trained(data, problem, f"evaluation {number}")

    def train_on_all(self, problem: Problem, said: Said) -> tuple[nn.Module, float]:
        """The ceiling: Adam on the training images, and the seconds."""
        net = self._fresh(problem, "all images")
        batch = min(128, len(problem.train))
        until = max(1, self.full_epochs * len(problem.train) // batch)
        training = Training(
            "all images",
            problem.train,
            net,
            torch.optim.Adam(net.parameters(), lr=1e-3),
            lambda inputs, labels, _: F.cross_entropy(net(inputs), labels),
            batch_size=batch,
            seed=problem.seed,
        )
        for turn in range(1, _LOOKS + 1):
            training.advance(until * turn // _LOOKS, lambda: True)
            said(self.steps * turn // _LOOKS, "all images")
        return net.eval(), training.seconds

    def _fresh(self, problem: Problem, purpose: str) -> nn.Module:
        """Weights of their own for each purpose."""
        seed = stream_seed(problem.seed, f"weights of {purpose}")
        return _models.build(self.model, problem.dataset.shape, problem.classes, seed)

    def _trained(self, data: Distilled, problem: Problem, purpose: str) -> nn.Module:
        """A fresh model after the steps that were distilled for."""
        net = self._fresh(problem, purpose)
        rate = data.lr.item() if "lr" in self.learn else self.inner_lr
        optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=_MOMENTUM)
        weights = list(net.parameters())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(problem.seed, f"dropout of {purpose}"))
            for _ in range(self.inner_steps):
                optimizer.zero_grad()
                loss = data.loss(net(data.images))
                loss.backward(inputs=weights)
                optimizer.step()
        if not math.isfinite(loss.item()):
            raise SolveError(Result.nonfinite, "(training on the distilled images)")
        return net.eval()


def check_unrollable(net: nn.Module, model: str) -> None:
    """Refuse a model that a few images cannot train in full."""
    if any(isinstance(module, _BATCH_NORMS) for module in net.modules()):
        raise InputError(
            f"--model {model} has batch normalization, whose running statistics cannot be learned "
            "from a few images; use a model without, or with nn.GroupNorm."
        )


@torch.no_grad()
def _into_range(data: Distilled) -> None:
    """Pixels stay pixels."""
    data.images.clamp_(0, 1)
