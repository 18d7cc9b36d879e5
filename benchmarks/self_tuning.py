"""Self-tuning networks: time and memory of a step beside the same training without tuning."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bestresponse as br
from benchmarks import footprint
from benchmarks.clock import interleaved
from benchmarks.options import Options
from benchmarks.report import Page, Table, Target

_LIMIT = 2.2
_TEXT = (
    "A training step (forward, backward, SGD with momentum) of a network with tuned dropout rates, "
    "in units of the same step with fixed ones; process CPU time, one thread, float32, rows "
    "interleaved in one process, medians of the rounds. A Δ-STN training step has two objectives. "
    "Memory is that of weights, momentum and the peak of a step together, by PyTorch's allocator."
)


def _perceptron() -> tuple[nn.Module, dict[str, str], Tensor]:
    layers = [nn.Dropout(0.1), nn.Linear(784, 256), nn.ReLU(), nn.Dropout(0.1),
              nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.1), nn.Linear(256, 10)]  # fmt: skip
    return nn.Sequential(*layers), {"0": "a", "3": "b", "6": "c"}, torch.randn(128, 784)


def _convolutional() -> tuple[nn.Module, dict[str, str], Tensor]:
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.1),
              nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.1),
              nn.Flatten(), nn.Linear(4096, 256), nn.ReLU(), nn.Dropout(0.1),
              nn.Linear(256, 10)]  # fmt: skip
    return nn.Sequential(*layers), {"3": "a", "7": "b", "11": "c"}, torch.randn(64, 3, 32, 32)


_MODELS = {"MLP 784-256-256-10, batch 128": _perceptron, "conv 32-64-256, batch 64": _convolutional}


@dataclass(frozen=True)
class Step:
    """One kind of step on one model; ratios one a round."""

    model: str
    name: str
    ratios: tuple[float, ...]
    unit_ms: float
    memory: float

    @property
    def time(self) -> float:
        """The middle of the rounds, in plain steps."""
        return statistics.median(self.ratios)


def measure(options: Options) -> list[Step]:
    """All steps of all models."""
    steps = []
    for model, make in _MODELS.items():
        options.say(model)
        net, dropout, x = make()
        y = torch.randint(10, (len(x),), generator=torch.Generator().manual_seed(0))
        plain, unit_kept = _plain(net, x, y)
        runs = {
            "STN, training": _tuned(net, dropout, x, y, centred=False),
            "Δ-STN, training": _tuned(net, dropout, x, y, centred=True),
            "STN, validation": _tuned(net, dropout, x, y, centred=False, validation=True),
        }
        ratios, unit = interleaved(plain, [run for run, _ in runs.values()], options.rounds)
        base = unit_kept + footprint.peak(plain)["allocated"]
        for (name, (run, kept)), own in zip(runs.items(), ratios, strict=True):
            memory = (kept + footprint.peak(run)["allocated"]) / base
            steps.append(Step(model, name, own, unit, memory))
    return steps


def page(steps: list[Step]) -> Page:
    """A table, and what was asked for."""
    rows = [
        [s.model, s.name, f"{s.time:.2f}", f"{s.memory:.2f}", f"{s.unit_ms:.2f}"] for s in steps
    ]
    header = ["model", "step", "time", "memory", "plain step, ms"]
    targets = [
        Target(f"{what} of a step, STN, training, {s.model}", value, _LIMIT)
        for s in steps
        if s.name == "STN, training"
        for what, value in (("time", s.time), ("memory", s.memory))
    ]
    return Page("Self-tuning networks", _TEXT, [Table("A step", header, rows)], targets)


def _plain(net: nn.Module, x: Tensor, y: Tensor) -> tuple[Callable[[], None], int]:
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()

    return run, 2 * _size(net)


def _tuned(
    net: nn.Module,
    dropout: dict[str, str],
    x: Tensor,
    y: Tensor,
    *,
    centred: bool,
    validation: bool = False,
) -> tuple[Callable[[], None], int]:
    hyper = br.hyper.Bounded(**dict.fromkeys("abc", (0.0, 0.9, 0.1)))
    tuned = br.response.SelfTuning(net, hyper, dropout, centred=centred)
    weights = torch.optim.SGD(tuned.parameters(), lr=1e-3, momentum=0.9)
    hypers = torch.optim.Adam([*hyper.parameters(), *tuned.scales.parameters()], lr=3e-3)

    def train() -> None:
        weights.zero_grad()
        tuned.training_loss(F.cross_entropy, x, y).backward()
        weights.step()

    def validate() -> None:
        hypers.zero_grad()
        tuned.validation_loss(F.cross_entropy, x, y).backward()
        hypers.step()

    return validate if validation else train, 2 * _size(tuned)


def _size(net: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in net.parameters())
