"""`bestresponse distill`: learn a few images that a model can be trained on alone."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from bestresponse._errors import InputError
from bestresponse.apps import _models, _options
from bestresponse.apps._run import RESULT_FILE, RunFolder, absolute, check_free
from bestresponse.apps.distill._adam import check_model
from bestresponse.apps.distill._implicit import ImplicitDistiller
from bestresponse.apps.distill._outcome import Distiller, Outcome
from bestresponse.apps.distill._response import ResponseDistiller
from bestresponse.apps.distill._session import Session
from bestresponse.apps.distill._unroll import UnrollDistiller
from bestresponse.data import load

_ADAM = ("inner_steps", "hyper_lr", "batch_size", "full_epochs")
_IDLE = {
    "linear": (*_ADAM, "inner_lr", "tolerance", "restart"),
    "implicit": ("inner_lr",),
    "unroll": ("decay", "tolerance", "restart"),
}
_STEPS = {"linear": 100, "implicit": 160, "unroll": 60}
_INNER_STEPS = {"linear": 10, "implicit": 500, "unroll": 50}


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
    """implicit: through the best response, where the inner problem is solved; exact for --model
    linear, its default. unroll: through the steps of a training from fresh weights."""
    learn: Annotated[str | None, _optional("LIST")] = None
    """Learned beside the images, comma-separated: labels, weights, and with unroll lr (the default
    there); none for nothing."""
    decay: float = 0.01
    """implicit: of the inner problem, ½·decay·‖w‖²."""
    steps: Annotated[int | None, _optional("INT")] = None
    """Outer steps: of L-BFGS on all training images (--model linear, 100) or of Adam on batches
    (implicit, but linear: 160; unroll: 60)."""
    inner_steps: Annotated[int | None, _optional("INT")] = None
    """On the images. unroll: of gradient descent with momentum 0.9 (50). implicit, but linear: of
    L-BFGS at the most (500)."""
    inner_lr: float = 0.03
    """unroll: its learning rate; where it starts, if it is learned."""
    tolerance: float = 1e-6
    """implicit, but linear: of the inner gradient's largest entry."""
    restart: int = 10
    """implicit, but linear: outer steps until fresh weights are drawn; in between the inner
    problem is solved from the last answer on."""
    hyper_lr: float = 0.03
    """Adam's learning rate for images and what else is learned."""
    batch_size: int = 256
    """Training images in an outer step of Adam."""
    full_epochs: Annotated[int | None, _optional("INT")] = None
    """Passes over all training images that the comparison is trained for; by default one, or as
    many as make 400 batches (linear: as many evaluations as the distillation has)."""
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
    checkpoint_seconds: float = 30.0
    """Seconds between two checkpoints; one is also written when the run is asked to stop."""
    resume: Annotated[Path | None, _optional("RUN")] = None
    """Continue the run in this folder with its own settings, to the same result."""

    @property
    def resolved_mode(self) -> str:
        """The mode, by default that of the model."""
        return self.mode or ("implicit" if self.model == "linear" else "unroll")

    @property
    def way(self) -> str:
        """How the images are learned: linear, implicit (any other model) or unroll."""
        mode = self.resolved_mode
        return "linear" if mode == "implicit" and self.model == "linear" else mode

    @property
    def learned(self) -> frozenset[str]:
        """What is learned beside the images."""
        default = "lr" if self.resolved_mode == "unroll" else "none"
        words = frozenset(word.strip() for word in (self.learn or default).split(","))
        return words - {"none"} if words == {"none"} else words

    def check(self, given: set[str] | None = None) -> None:
        """Refuse settings that make no sense, and given ones that have no effect."""
        given = _options.changed(self) if given is None else given
        if self.resume is not None:
            return _models.check_resumed(given, self.model)
        mode = self.resolved_mode
        if self.mode is not None:
            _options.check_choice(self, "mode", ("implicit", "unroll"))
        _models.factory(self.model)
        known = {"labels", "weights"} | ({"lr"} if mode == "unroll" else set())
        if not self.learned <= known:
            raise InputError(
                f"--learn {self.learn} is not understood with --mode {mode}; give none or a list "
                f"of {', '.join(sorted(known))}."
            )
        for name in _IDLE[self.way]:
            if name in given:
                model = " and --model linear" if self.way == "linear" else ""
                raise InputError(
                    f"{_options.flag(name)} has no effect with --mode {mode}{model}; leave it out."
                )
        _options.check_positive(
            self, "images", "decay", "steps", "inner_steps", "inner_lr", "tolerance", "restart",
            "hyper_lr", "batch_size", "full_epochs", "validation", "threads", "checkpoint_seconds",
        )  # fmt: skip
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise InputError("--seeds must be one or more different numbers from 0 on.")
        most = 8 * (os.cpu_count() or 1)
        if self.threads is not None and self.threads > most:
            raise InputError(f"--threads {self.threads} is too many for this machine; use {most}.")

    def run(self, console: Console | None = None) -> Outcome | None:
        """Distill, write the run folder, and say what was found.

        Raises:
            InputError: before anything is written, for settings or data that cannot be used.
            SolveError: if a number stops being finite; the last checkpoint stays.
            Interrupted: after SIGINT or SIGTERM, once a checkpoint is written.
        """
        console = console or Console()
        self.check()
        if self.resume is not None:
            return _resumed(self, console)
        out = absolute(self.out or Path("runs") / f"distill-{Path(self.data).stem or 'data'}")
        check_free(out, overwrite=self.overwrite, resumable=True)
        dataset = load(self.data)
        net = _models.build(self.model, dataset.shape, len(dataset.class_names), seed=0)
        check_model(net, self.model)
        settings = replace(
            self,
            out=out,
            data=self.data if self.data == "digits" else str(absolute(Path(self.data))),
            model=_models.located(self.model),
            mode=self.resolved_mode,  # type: ignore[arg-type]
            images=self.images or len(dataset.class_names),
            steps=self.steps or _STEPS[self.way],
            inner_steps=self.inner_steps or _INNER_STEPS[self.way],
        )
        return Session(settings, settings._distiller(), dataset, None, console).run()

    def _distiller(self) -> Distiller:
        assert self.images and self.steps and self.inner_steps
        if self.way == "linear":
            return ImplicitDistiller(self.images, self.learned, self.decay, self.steps)
        common: dict[str, Any] = {
            "model": self.model,
            "images": self.images,
            "learn": self.learned,
            "steps": self.steps,
            "hyper_lr": self.hyper_lr,
            "batch_size": self.batch_size,
            "full_epochs": self.full_epochs,
            "inner_steps": self.inner_steps,
        }
        if self.way == "unroll":
            return UnrollDistiller(**common, inner_lr=self.inner_lr)
        return ResponseDistiller(
            **common, decay=self.decay, tolerance=self.tolerance, restart=self.restart
        )


def _resumed(asked: Distill, console: Console) -> Outcome | None:
    """Continue the run in `asked.resume`; None if it is finished."""
    assert asked.resume is not None
    folder = RunFolder.open(absolute(asked.resume))
    try:
        assert folder.settings["command"] == "distill"
        saved = _options.from_json(Distill, folder.settings["settings"])
        settings = replace(saved, out=folder.path, overwrite=False)
        settings.check(given=set())
        distiller = settings._distiller()
    except (KeyError, TypeError, AttributeError, AssertionError, ValueError) as error:
        raise InputError(
            f"'{folder.path}' holds no run of distill that can be read; give the folder of an "
            "earlier --out."
        ) from error
    _models.check_named(settings.model, asked.model)
    if folder.is_finished:
        console.print(f"The run in {folder.path} is finished.", soft_wrap=True, markup=False)
        console.print(folder.read_json(RESULT_FILE)["verdict"], highlight=False, markup=False)
        return None
    return Session(settings, distiller, load(settings.data), folder, console).run()
