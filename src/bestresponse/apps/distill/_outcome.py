"""Distill, train on all images, judge both: the figures of one seed, and of several."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, field
from typing import Any, Protocol

from torch import nn

from bestresponse.apps.distill._files import TABLE, files, read_back
from bestresponse.apps.distill._keeper import Keeper, State, Stretch, restoring
from bestresponse.apps.distill._problem import Problem, in_eight_bits, score_of
from bestresponse.apps.distill._trace import Found, Solves
from bestresponse.hyper import Distilled

_CURVE = 25  # looks that are kept


class Distiller(Protocol):
    """A way to distill."""

    @property
    def trainings(self) -> int:
        """Fresh weights that a set is judged with."""
        ...

    @property
    def steps(self) -> int:
        """Outer steps."""
        ...

    def start(self, problem: Problem) -> Distilled:
        """The set before anything is learned."""
        ...

    def distill(self, problem: Problem, stretch: Stretch) -> Found:
        """Learn a set."""
        ...

    def train(self, data: Distilled, problem: Problem, number: int) -> nn.Module:
        """A model trained on a set alone, from fresh weights number `number`."""
        ...

    def train_on_all(self, problem: Problem, stretch: Stretch) -> tuple[nn.Module, float]:
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
        solves: how exactly the inner problems were solved, where they were.
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
    solves: Solves | None = None

    @property
    def accuracy(self) -> float:
        """The mean over fresh weights."""
        return statistics.fmean(self.accuracies)


def measure(distiller: Distiller, problem: Problem, keeper: Keeper, before: int) -> Distillation:
    """One seed: the two trainings one after the other, then what is judged by the test set.

    Args:
        distiller: how.
        problem: what.
        keeper: has what an interrupted process finished, and gets the rest.
        before: steps of the run that lie behind.
    """
    steps, name = distiller.steps, f"seed {problem.seed}"

    def train_on_all(stretch: Stretch) -> State:
        model, seconds = distiller.train_on_all(problem, stretch)
        memory = stretch.memory()  # before the test set takes some
        accuracy = score_of(model, problem.test).accuracy
        return {"accuracy": accuracy, "seconds": seconds, "memory": memory}

    def learn(stretch: Stretch) -> State:
        found = distiller.distill(problem, stretch)
        every = math.ceil(len(found.points) / _CURVE)
        return {
            "data": in_eight_bits(found.data).state_dict(),
            "chosen": found.chosen,
            "curve": [list(astuple(point)) for point in found.points[::every]],
            "seconds": found.seconds,
            "memory": stretch.memory(),
            "solves": None if found.solves is None else asdict(found.solves),
        }

    full = keeper.once(f"{name}, all images", train_on_all, before, steps)
    learned = keeper.once(name, learn, before + steps, steps)
    data = distiller.start(problem)
    with restoring():
        data.load_state_dict(learned["data"])

    def judge(stretch: Stretch) -> State:
        return _judged(distiller, problem, data, stretch)

    judged = keeper.once(f"{name}, judging", judge, before + 2 * steps, 0)
    return Distillation(
        seed=problem.seed,
        data=data,
        accuracies=tuple(judged["learned"]),
        read_back=statistics.fmean(judged["read back"]),
        start=statistics.fmean(judged["first"]),
        full=full["accuracy"],
        seconds=(learned["seconds"], full["seconds"]),
        memory=(learned["memory"], full["memory"]),
        chosen=learned["chosen"],
        curve=tuple(tuple(point) for point in learned["curve"]),
        solves=None if learned["solves"] is None else Solves(**learned["solves"]),
    )


def _judged(distiller: Distiller, problem: Problem, data: Distilled, stretch: Stretch) -> State:
    """Accuracies on the test set, one for each fresh model, of three sets."""
    table = files(data, problem.dataset.class_names)[TABLE]
    lr = None if data.log_lr is None else data.lr.item()
    first = problem.start(len(data.images), frozenset(), lr, data.images.dtype)
    sets = {"learned": data, "read back": read_back(table, lr), "first": first}

    found: State = stretch.saved or {name: [] for name in sets}
    for name, images in sets.items():
        rounded = in_eight_bits(images)
        for number in range(len(found[name]), distiller.trainings):
            model = distiller.train(rounded, problem, number)
            found[name].append(score_of(model, problem.test).accuracy)
            stretch.step(0, f"test accuracy {found[name][-1]:.4f}, {name}", lambda: found)
    return found


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
        source: where its images and labels are from, in a sentence.
        real: training images.
    """

    runs: tuple[Distillation, ...]
    model: str
    name: str
    source: str
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
        return [*lines, *self.exactness()]

    def exactness(self) -> list[str]:
        """How exact the hypergradients are, in sentences; none where nothing is solved for."""
        every = [run.solves for run in self.runs if run.solves is not None]
        if not every:
            return []
        steps, unsolved, inexact, negative = (
            sum(getattr(solves, name) for solves in every)
            for name in ("steps", "unsolved", "inexact", "negative")
        )
        gradient = max(solves.inner_gradient for solves in every)
        residual = max(solves.residual for solves in every)
        lines = [
            f"The inner problem was solved to its tolerance at {steps - unsolved} of {steps} "
            f"hypergradients (inner gradient at most {gradient:.1e}), the linear system at "
            f"{steps - inexact} (relative residual at most {residual:.1e})."
        ]
        if unsolved or inexact:
            lines.append(
                "Where a tolerance was not reached the hypergradient is an approximation; raise "
                "--inner-steps or --decay, or use a model without kinks (ReLU has them)."
            )
        if negative:
            lines.append(
                f"At {negative} the inner loss had negative curvature, and the Gauss-Newton matrix "
                "took the place of its Hessian: those hypergradients are approximations."
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
                    "solves": None if run.solves is None else asdict(run.solves),
                }
                for run in self.runs
            ],
        }
