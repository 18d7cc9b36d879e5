"""Distillation through the steps of a short training, from fresh weights each time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse import Result, SolveError
from bestresponse.apps.distill._adam import LONGEST, AdamDistiller
from bestresponse.apps.distill._problem import Problem
from bestresponse.hyper import Distilled

_MOMENTUM = 0.9  # of the training on the images: steadier than without, at equal progress


@dataclass(frozen=True, kw_only=True)
class UnrollDistiller(AdamDistiller):
    """Learns images for a few steps with momentum, from weights drawn anew at each outer step.

    Attributes:
        inner_steps: steps of gradient descent with momentum on the set.
        inner_lr: their learning rate; where it starts, if it is learned.
    """

    inner_steps: int
    inner_lr: float

    def start(self, problem: Problem) -> Distilled:
        """The set before anything is learned."""
        lr = self.inner_lr if "lr" in self.learn else None
        return problem.start(self.images, self.learn, lr, self.precision)

    def nested(self, net: nn.Module, data: Distilled, problem: Problem) -> br.Nested:
        """The outer loss after the steps."""
        rate = (lambda: data.lr) if "lr" in self.learn else self.inner_lr
        return br.Nested(
            params=net,
            hyper=data,
            inner=lambda: data.loss(net(data.images)),
            outer=lambda x, y: F.cross_entropy(net(x), y),
            method=br.Unroll(
                br.optim.Momentum(lr=rate, momentum=_MOMENTUM), steps=self.inner_steps
            ),
            max_norm=LONGEST,
            seed=problem.seed,
        )

    def prepare(self, net: nn.Module, data: Distilled, problem: Problem, step: int) -> None:
        """Fresh weights."""
        net.load_state_dict(self.fresh(problem, f"step {step}").state_dict())

    def fit(self, net: nn.Module, data: Distilled, seed: int) -> None:
        """The steps that were distilled for."""
        rate = data.lr.item() if "lr" in self.learn else self.inner_lr
        optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=_MOMENTUM)
        weights = list(net.parameters())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for _ in range(self.inner_steps):
                optimizer.zero_grad()
                loss = data.loss(net(data.images))
                loss.backward(inputs=weights)
                optimizer.step()
        if not math.isfinite(loss.item()):
            raise SolveError(Result.nonfinite, "(training on the distilled images)")
