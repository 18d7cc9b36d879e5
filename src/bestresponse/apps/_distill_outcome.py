"""Distill, train on all images, judge both: the figures of one seed, and of several."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

import bestresponse as br
from bestresponse.apps._distill_files import TABLE, files, read_back
from bestresponse.apps._distill_problem import Problem, in_eight_bits, score_of
from bestresponse.apps._distill_trace import Found
from bestresponse.hyper import Distilled

Said = Callable[[int, str], None]
_CURVE = 25  # looks whose test accuracy is drawn
_CURVE_EXAMPLES = 2000  # and the test images that it is of, at the most


class Distiller(Protocol):
    """A way to distill."""

    @property
    def trainings(self) -> int:
        """Fresh weights that a set is judged with."""
        ...

    def distill(self, problem: Problem, said: Said) -> Found:
        """Learn a set."""
        ...

    def train(self, data: Distilled, problem: Problem, number: int) -> nn.Module:
        """A model trained on a set alone, from fresh weights number `number`."""
        ...

    def train_on_all(self, problem: Problem, said: Said) -> tuple[nn.Module, float]:
        """A model trained on all training images, and the seconds that took."""
        ...


@dataclass(frozen=True)
class Distillation:
    """The figures of one seed; accuracies are those on the test set.

    Attributes:
        seed: which.
        data: the set, in eight bits a pixel.
        accuracies: one for each training from fresh weights on the set.
        read_back: their mean for the set as a loader finds it in the Parquet file.
        start: the same for the set before anything was learned.
        full: of the model trained on all training images.
        seconds: of the distillation; and of that training.
        memory: peak of the process in bytes, data included, likewise; None where unknown.
        chosen: the outer step that the set is from.
        curve: (outer step, outer loss, validation accuracy, accuracy on some test images).
    """

    seed: int
    data: Distilled = field(repr=False)
    accuracies: tuple[float, ...]
    read_back: float
    start: float
    full: float
    seconds: tuple[float, float]
    memory: tuple[int | None, int | None]
    chosen: int
    curve: tuple[tuple[int, float, float, float], ...] = field(repr=False)

    @property
    def accuracy(self) -> float:
        """The mean over fresh weights."""
        return statistics.fmean(self.accuracies)


def measure(distiller: Distiller, problem: Problem, said: Said, steps: int) -> Distillation:
    """One seed: the two trainings one after the other, then what is judged by the test set."""

    def of_both(before: int) -> Said:
        # a line search may end a few evaluations late
        return lambda done, note: said(before + min(done, steps), note)

    peak = br.diagnostics.PeakMemory()
    model, full_seconds = distiller.train_on_all(problem, of_both(0))
    full_memory = peak.level()
    peak = br.diagnostics.PeakMemory()
    found = distiller.distill(problem, of_both(steps))
    memory = peak.level()
    data = in_eight_bits(found.data)
    table = files(data, problem.dataset.class_names)[TABLE]
    said(2 * steps, "judging")
    lr = None if data.log_lr is None else data.lr.item()
    again = in_eight_bits(read_back(table, lr))

    def judged(images: Distilled) -> tuple[float, ...]:
        models = [distiller.train(images, problem, i) for i in range(distiller.trainings)]
        return tuple(score_of(model, problem.test).accuracy for model in models)

    first = in_eight_bits(problem.start(len(data.images), frozenset(), lr, data.images.dtype))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randperm(len(problem.test), generator=generator)[:_CURVE_EXAMPLES]
    some = problem.test.subset(drawn)
    every = max(1, math.ceil(len(found.points) / _CURVE))
    return Distillation(
        seed=problem.seed,
        data=data,
        accuracies=judged(data),
        read_back=statistics.fmean(judged(again)),
        start=statistics.fmean(judged(first)),
        full=score_of(model, problem.test).accuracy,
        seconds=(found.seconds, full_seconds),
        memory=(memory, full_memory),
        chosen=found.chosen,
        curve=tuple(
            (p.step, p.outer_loss, p.validation_accuracy, score_of(p.model, some).accuracy)
            for p in found.points[::every]
        ),
    )


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The deviation of a sample; 0 for one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class Outcome:
    """What a run came to, over its seeds.

    Attributes:
        runs: one for each seed.
        model: as the flag has it.
        name: of the data.
        real: training images.
    """

    runs: tuple[Distillation, ...]
    model: str
    name: str
    real: int

    @property
    def images(self) -> int:
        """How many were learned."""
        return len(self.runs[0].data.images)

    def of(self, figure: Callable[[Distillation], float]) -> tuple[float, float]:
        """Mean and deviation of a figure over the seeds."""
        return mean_and_deviation([figure(run) for run in self.runs])

    @property
    def verdict(self) -> str:
        """One sentence for everyone."""
        accuracy, full = self.of(lambda r: r.accuracy)[0], self.of(lambda r: r.full)[0]
        return (
            f"Trained on {self.images} learned images of {self.name} alone, {self.model} reaches "
            f"{accuracy:.2%} test accuracy; on all {self.real:,} training images {full:.2%}."
        )

    @property
    def seeds(self) -> str:
        """How many, in words."""
        return f"{len(self.runs)} seed{'s' if len(self.runs) > 1 else ''}"

    def headline(self) -> dict[str, float]:
        """The figures by name."""
        accuracy, full = self.of(lambda r: r.accuracy), self.of(lambda r: r.full)
        every = [value for run in self.runs for value in run.accuracies]
        figures = {
            "test_accuracy": accuracy[0],
            "test_accuracy_deviation_over_seeds": accuracy[1],
            "test_accuracy_deviation_over_trainings": mean_and_deviation(every)[1],
            "full_data_test_accuracy": full[0],
            "full_data_test_accuracy_deviation": full[1],
            "read_back_test_accuracy": self.of(lambda r: r.read_back)[0],
            "first_images_test_accuracy": self.of(lambda r: r.start)[0],
            "seconds": self.of(lambda r: r.seconds[0])[0],
            "full_data_seconds": self.of(lambda r: r.seconds[1])[0],
            "relative_seconds": self.of(lambda r: r.seconds[0] / r.seconds[1])[0],
        }
        mine, other = self.runs[0].memory  # later ones hold what earlier ones left behind
        if mine and other:
            figures["peak_memory"] = mine
            figures["relative_peak_memory"] = mine / other
        return figures

    def notes(self) -> list[str]:
        """The other figures in sentences."""
        head = self.headline()
        fresh = len(self.runs[0].accuracies)
        trainings = f", {fresh} fresh initialisations each" if fresh > 1 else ""
        deviation = head["test_accuracy_deviation_over_trainings"]
        spread = f" ± {deviation:.4f}" if fresh * len(self.runs) > 1 else ""
        lines = [
            f"Test accuracy {head['test_accuracy']:.4f}{spread} over {self.seeds}{trainings}; "
            "read back from the Parquet file "
            f"{head['read_back_test_accuracy']:.4f}; before learning "
            f"{head['first_images_test_accuracy']:.4f}.",
            f"{head['seconds']:.1f} s a distillation, {head['relative_seconds']:.2f} × one "
            "training on all images.",
        ]
        if "relative_peak_memory" in head:
            lines.append(
                f"Peak memory {head['peak_memory'] / 1e6:.0f} MB, "
                f"{head['relative_peak_memory']:.2f} × that of training on all images "
                "(data included)."
            )
        return lines

    def as_json(self) -> dict[str, Any]:
        """For the result file; the headline comes first."""
        return {
            "verdict": self.verdict,
            "headline": self.headline(),
            "seeds": [
                {
                    "seed": run.seed,
                    "test_accuracies": run.accuracies,
                    "read_back_test_accuracy": run.read_back,
                    "first_images_test_accuracy": run.start,
                    "full_data_test_accuracy": run.full,
                    "seconds": run.seconds[0],
                    "full_data_seconds": run.seconds[1],
                    "peak_memory": run.memory[0],
                    "full_data_peak_memory": run.memory[1],
                    "chosen_step": run.chosen,
                    "curve": run.curve,
                }
                for run in self.runs
            ],
        }
