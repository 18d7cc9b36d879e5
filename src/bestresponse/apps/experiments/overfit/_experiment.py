"""`bestresponse experiment overfit`: enough hyperparameters fit the validation set itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from bestresponse._errors import InputError
from bestresponse.apps import _options
from bestresponse.apps.experiments._experiment import Experiment, Findings, Pulse, check_seeds
from bestresponse.apps.experiments._threads import one_thread
from bestresponse.apps.experiments.overfit import _report as report
from bestresponse.apps.experiments.overfit._cost import cost
from bestresponse.apps.experiments.overfit._report import Model
from bestresponse.apps.experiments.overfit._run import RECIPES, Pace, Roles, model_of, overfit
from bestresponse.data import load


@dataclass(frozen=True)
class Overfit(Experiment):
    """One decay per weight, tuned on as few images as are trained on, until both are learned.

    Training and validation accuracy reach 99.9 %, test accuracy does not: with as many
    hyperparameters as weights, the validation set says as little as the training set. Models are
    linear, mlp (a hidden layer as wide as the input), alexnet, resnet44 and resnet18.
    """

    data: str = "digits"
    """Labelled data: `digits` (bundled), or a file or folder as in `bestresponse tune`."""
    models: tuple[str, ...] = ("linear", "mlp")
    """Any of linear, mlp, alexnet, resnet44, resnet18."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the images and the initial weights; figures are means over them."""
    images: int = 50
    """Training images, and as many for validation."""
    test: int = 1000
    """Test images, from the data's own test set where there is one."""
    interval: int = 12
    """Training steps between two hyperparameter steps."""
    hyper_lr: float = 0.3
    """RMSprop's learning rate for the logarithms of the decays."""
    most_steps: int = 4000
    """Training steps after which a run ends, even without reaching 99.9 %."""
    rounds: int = 3
    """Timings of which the median is taken."""

    verb: ClassVar[str] = "overfit"
    title: ClassVar[str] = "Overfitting the validation set"

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        _options.check_positive(
            self, "images", "test", "interval", "hyper_lr", "most_steps", "rounds"
        )
        check_seeds(self.seeds)
        unknown = [name for name in self.models if name not in RECIPES]
        if unknown or not self.models or len(set(self.models)) < len(self.models):
            given_names = " ".join(self.models) or "empty"
            raise InputError(
                f"--models is {given_names}; give different ones of {', '.join(RECIPES)}."
            )

    @property
    def steps(self) -> int:
        """The cost of each model, and a run at each seed."""
        return len(self.models) * (1 + len(self.seeds))

    def measure(self, pulse: Pulse) -> Findings:
        """Model by model."""
        data = load(self.data)
        roles = {seed: Roles.of(data, self.images, self.test, seed) for seed in self.seeds}
        some = roles[self.seeds[0]]
        for name in self.models:  # what cannot be made is refused before anything is trained
            model_of(RECIPES[name], some, 0)
        found = [Model(name, runs=[]) for name in self.models]
        for model in found:
            model.runs += [self._run(model.name, roles[seed], seed, pulse) for seed in self.seeds]
            model.cost = self._cost(model.name, some, pulse)
        headline = _headline(found)
        sections = (
            report.accuracies(found, self.images, data.name),
            report.decays(found),
            report.costs(found, self.interval),
        )
        curves = {model.name: {"runs": model.runs, "cost": model.cost} for model in found}
        return Findings(_verdict(found), headline, sections, curves)

    @property
    def _pace(self) -> Pace:
        return Pace(self.interval, self.hyper_lr, self.most_steps)

    def _run(self, name: str, roles: Roles, seed: int, pulse: Pulse) -> dict[str, Any]:
        """One network, one seed."""
        title = f"{name}, seed {seed}"

        def say(words: str) -> None:
            pulse.say(f"{title}: {words}")

        with one_thread():
            return pulse.once(title, lambda: overfit(RECIPES[name], roles, self._pace, seed, say))

    def _cost(self, name: str, roles: Roles, pulse: Pulse) -> dict[str, Any]:
        """Of one network."""
        return pulse.once(f"{name}, cost", lambda: cost(name, roles, self._pace, self.rounds))


def _headline(found: list[Model]) -> dict[str, float | None]:
    runs = [run for model in found for run in model.runs]
    headline: dict[str, float | None] = {
        "runs_that_reach_both": sum(run["reached"] for run in runs) / len(runs)
    }
    for model in found:
        for role in ("train", "validation", "test"):
            headline[f"{model.name}_{role}_accuracy"] = model.mean(role)
        headline[f"{model.name}_hyperparameters"] = model.runs[0]["hyperparameters"]
        headline[f"{model.name}_steps"] = model.mean("step")
        headline[f"{model.name}_time"] = model.cost["time"]
        if model.cost["memory"] is not None:
            headline[f"{model.name}_memory"] = model.cost["memory"]
    return headline


def _verdict(found: list[Model]) -> str:
    runs = [run for model in found for run in model.runs]
    reached = sum(run["reached"] for run in runs)
    counts = sorted(run["hyperparameters"] for run in runs)
    tests = sorted(100 * model.mean("test") for model in found)
    times = max(model.cost["time"] for model in found)
    how_many = f"{counts[0]:,}" + (f" to {counts[-1]:,}" if counts[-1] > counts[0] else "")
    between = f"{tests[0]:.0f} %" + (f" to {tests[-1]:.0f} %" if tests[-1] > tests[0] else "")
    return (
        f"{reached} of {len(runs)} runs with {how_many} decays predict 99.9 % or more of their "
        f"training and of their validation images; of the test images it is {between}, for at "
        f"most {times:.2f} times the time of training without tuning."
    )
