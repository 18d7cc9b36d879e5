"""`bestresponse distill`: learn a few images that a model can be trained on alone."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console

import bestresponse as br
from bestresponse._errors import InputError
from bestresponse.apps import _models, _options
from bestresponse.apps._distill_files import files
from bestresponse.apps._distill_implicit import ImplicitDistiller
from bestresponse.apps._distill_outcome import Distillation, Distiller, Outcome, measure
from bestresponse.apps._distill_problem import make_problem
from bestresponse.apps._distill_report import report
from bestresponse.apps._distill_unroll import UnrollDistiller, check_unrollable
from bestresponse.apps._progress import Reporter, reporting
from bestresponse.apps._run import RESULT_FILE, RunFolder, absolute, check_free, shown
from bestresponse.data import load

_UNROLL_ONLY = ("inner_steps", "inner_lr", "hyper_lr", "batch_size", "full_epochs")
_STEPS = {"implicit": 100, "unroll": 160}


def _optional(metavar: str) -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


@dataclass(frozen=True)
class Distill:
    """Learn a few images that a model can be trained on alone.

    The images are tuned on the training images, the validation part chooses the iterate, the
    test set is only reported. Beside it stands the model trained on all training images.
    """

    data: str = "digits"
    """`digits` (bundled), or images as a Parquet or IDX file, a folder of those, or a folder with
    one image folder a class."""
    model: str = "linear"
    """linear, mlp, cnn, or FILE.py:FACTORY, called as FACTORY(input_shape, classes)."""
    images: Annotated[int | None, _optional("INT")] = None
    """Learned images; by default one for each class."""
    mode: Annotated[Literal["implicit", "unroll"] | None, _optional("implicit|unroll")] = None
    """implicit: the inner problem is solved, and differentiated exactly (--model linear, its
    default); unroll: through the steps of a training from fresh weights (any model)."""
    learn: Annotated[str | None, _optional("LIST")] = None
    """Learned beside the images, comma-separated: labels, weights, and with unroll lr (the default
    there); none for nothing."""
    decay: float = 0.01
    """implicit: of the inner problem, ½·decay·‖w‖²."""
    steps: Annotated[int | None, _optional("INT")] = None
    """Outer steps: of L-BFGS on all training images (implicit, 100) or of Adam on batches
    (unroll, 160)."""
    inner_steps: int = 10
    """unroll: steps of gradient descent on the images, with momentum 0.9."""
    inner_lr: float = 0.03
    """unroll: their learning rate; where it starts, if it is learned."""
    hyper_lr: float = 0.03
    """unroll: Adam's learning rate for images and what else is learned."""
    batch_size: int = 256
    """unroll: training images in an outer step."""
    full_epochs: int = 1
    """unroll: passes over all training images that the comparison is trained for."""
    validation: Annotated[int | None, _optional("INT")] = None
    """Images that choose the iterate; by default a tenth."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One distillation each: of roles, first images and weights. The files hold the first one."""
    threads: Annotated[int | None, _optional("INT")] = None
    """CPU threads; by default PyTorch's choice."""
    out: Annotated[Path | None, _optional("FOLDER")] = None
    """The run folder; by default runs/distill and the name of the data."""
    overwrite: bool = False
    """Replace a run that is already there."""

    @property
    def resolved_mode(self) -> str:
        """The mode, by default that of the model."""
        return self.mode or ("implicit" if self.model == "linear" else "unroll")

    @property
    def learned(self) -> frozenset[str]:
        """What is learned beside the images."""
        default = "lr" if self.resolved_mode == "unroll" else "none"
        words = frozenset(word.strip() for word in (self.learn or default).split(","))
        return words - {"none"} if words == {"none"} else words

    def check(self, given: set[str] | None = None) -> None:
        """Refuse settings that make no sense, and given ones that have no effect."""
        given = _options.changed(self) if given is None else given
        mode = self.resolved_mode
        if self.mode is not None:
            _options.check_choice(self, "mode", ("implicit", "unroll"))
        _models.factory(self.model)
        if mode == "implicit" and self.model != "linear":
            raise InputError(
                "--mode implicit needs an inner problem with one solution; use --model linear, "
                "or --mode unroll."
            )
        known = {"labels", "weights"} | ({"lr"} if mode == "unroll" else set())
        if not self.learned <= known:
            raise InputError(
                f"--learn {self.learn} is not understood with --mode {mode}; give none or a list "
                f"of {', '.join(sorted(known))}."
            )
        idle = _UNROLL_ONLY if mode == "implicit" else ("decay",)
        for name in idle:
            if name in given:
                raise InputError(
                    f"{_options.flag(name)} has no effect with --mode {mode}; leave it out."
                )
        _options.check_positive(
            self, "images", "decay", "steps", "inner_steps", "inner_lr", "hyper_lr", "batch_size",
            "full_epochs", "validation", "threads",
        )  # fmt: skip
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise InputError("--seeds must be one or more different numbers from 0 on.")
        most = 8 * (os.cpu_count() or 1)
        if self.threads is not None and self.threads > most:
            raise InputError(f"--threads {self.threads} is too many for this machine; use {most}.")

    def run(self, console: Console | None = None) -> Outcome:
        """Distill, write the run folder in one step, and say what was found.

        Raises:
            InputError: for settings or data that cannot be used; nothing is written then.
            SolveError: if a number stops being finite; nothing is written then.
        """
        console = console or Console()
        self.check()
        name = Path(self.data).stem or "data"
        out = absolute(self.out or Path("runs") / f"distill-{name}")
        check_free(out, overwrite=self.overwrite)
        dataset = load(self.data)
        settings = replace(
            self,
            out=out,
            mode=self.resolved_mode,  # type: ignore[arg-type]
            images=self.images or len(dataset.class_names),
            steps=self.steps or _STEPS[self.resolved_mode],
        )
        assert settings.images is not None and settings.steps is not None
        problems = [
            make_problem(dataset, settings.images, self.validation, seed) for seed in self.seeds
        ]
        net = _models.build(self.model, dataset.shape, len(dataset.class_names), seed=0)
        if settings.mode == "unroll":
            check_unrollable(net, self.model)
        if self.threads:
            torch.set_num_threads(self.threads)
        distiller = settings._distiller()
        runs: list[Distillation] = []
        with reporting(console, 2 * settings.steps * len(problems)) as reporter:
            for number, problem in enumerate(problems):
                note = _Note(reporter, 2 * settings.steps * number, f"seed {problem.seed}: ")
                runs.append(measure(distiller, problem, note, settings.steps))
        outcome = Outcome(tuple(runs), self.model, dataset.name, len(problems[0].train))
        content = settings._files(outcome, dataset.class_names)
        RunFolder.create(out, content, overwrite=self.overwrite)
        for line in (outcome.verdict, *outcome.notes()):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        console.print(f"Report: {shown(out / 'report.html')}", highlight=False, soft_wrap=True)
        return outcome

    def _distiller(self) -> Distiller:
        assert self.images is not None and self.steps is not None
        if self.mode == "implicit":
            return ImplicitDistiller(self.images, self.learned, self.decay, self.steps)
        return UnrollDistiller(
            self.model, self.images, self.learned, self.steps, self.inner_steps, self.inner_lr,
            self.hyper_lr, self.batch_size, self.full_epochs,
        )  # fmt: skip

    def _files(self, outcome: Outcome, class_names: tuple[str, ...]) -> dict[str, Any]:
        settings = _options.to_json(self)
        return {
            "settings.json": {
                "command": "distill",
                "version": br.__version__,
                "torch": torch.__version__,
                "settings": settings,
            },
            "report.html": report(outcome, class_names, settings),
            RESULT_FILE: outcome.as_json(),
            **files(outcome.runs[0].data, class_names),
        }


class _Note:
    """Steps of one seed among those of all."""

    def __init__(self, reporter: Reporter, before: int, prefix: str) -> None:
        self._reporter, self._before, self._prefix = reporter, before, prefix

    def __call__(self, done: int, note: str) -> None:
        """As a reporter's `update`."""
        self._reporter.update(self._before + done, self._prefix + note)
