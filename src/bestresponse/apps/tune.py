"""`bestresponse tune`: train a classifier and tune its hyperparameters in the same run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import torch
from rich.console import Console

from bestresponse._errors import InputError
from bestresponse.apps import _models, _options
from bestresponse.apps._outcome import Outcome
from bestresponse.apps._run import RunFolder, check_free
from bestresponse.apps._session import Session
from bestresponse.apps._tune_settings import TuneSettings

_LIGHT_MODELS = ("linear", "mlp")


@dataclass(frozen=True)
class Tune(TuneSettings):
    """Train a classifier and tune its hyperparameters in the same run.

    The validation set tunes, the test set is only reported. Beside the tuned run, the table shows
    what the simple alternatives give with the same data and the same number of steps.
    """

    def run(self, console: Console | None = None) -> Outcome:
        """Train, tune, write the run folder, and say how it went.

        Raises:
            InputError: before anything is written, for settings or data that cannot be used.
            SolveError: if a number stops being finite; the last checkpoint stays.
            Interrupted: after SIGINT or SIGTERM, once a checkpoint is written.
        """
        console = console or Console()
        if self.resume is not None:
            return _resumed(self, console)
        settings = _resolved(self)
        splits = settings.load_splits()
        return Session(settings, splits, None, console).run()


def _resolved(settings: Tune) -> Tune:
    """The settings with every default that depends on the others filled in, checked."""
    settings.check()
    name = Path(settings.data).stem or "data"
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    out = settings.out or Path("runs") / f"{stamp}-tune-{name}"
    check_free(out, overwrite=settings.overwrite)
    data = settings.data if settings.data == "digits" else str(Path(settings.data).resolve())
    threads = settings.threads or (
        1 if settings.model in _LIGHT_MODELS else torch.get_num_threads()
    )
    return replace(settings, out=out, data=data, threads=threads)


def _resumed(asked: Tune, console: Console) -> Outcome:
    """Continue the run in `asked.resume`."""
    assert asked.resume is not None
    extra = _options.changed(asked) - {"resume", "model"}
    if extra:
        raise InputError(
            "--resume continues with the run's own settings; "
            f"leave {_options.flag(min(extra))} out."
        )
    folder = RunFolder.open(asked.resume)
    settings = replace(_options.from_json(Tune, folder.settings["settings"]), out=asked.resume)
    if _models.is_file(settings.model) and asked.model != settings.model:
        raise InputError(
            "The run's model is code in a file, which is not run unless you name it again; "
            f"add --model {shlex.quote(settings.model)} if you trust it."
        )
    settings.check(given=set())
    if folder.is_finished:
        console.print(f"The run in {folder.path} is finished.", soft_wrap=True)
        return Outcome.read(folder)
    splits = settings.load_splits()
    if splits.record != folder.read_json("splits.json")["record"]:
        raise InputError(
            "The data is not what the run was started with; restore it, or start anew."
        )
    return Session(settings, splits, folder, console).run()
