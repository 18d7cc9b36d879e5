"""`bestresponse tune`: train a classifier and tune its hyperparameters in the same run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import torch
from rich.console import Console

from bestresponse._errors import InputError
from bestresponse.apps import _models, _options
from bestresponse.apps._run import RunFolder, absolute, check_free
from bestresponse.apps.tune._outcome import Outcome
from bestresponse.apps.tune._session import Session, fingerprint
from bestresponse.apps.tune._settings import LIGHT_MODELS, TuneSettings


@dataclass(frozen=True)
class Tune(TuneSettings):
    """Train a classifier and tune its hyperparameters in the same run.

    The validation set tunes, the test set is only reported.

    Beside it stands what simple alternatives give with the same data and steps.
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
    out = absolute(settings.out or Path("runs") / f"{stamp}-tune-{name}")
    check_free(out, overwrite=settings.overwrite, resumable=True)
    threads = settings.threads or (1 if settings.model in LIGHT_MODELS else torch.get_num_threads())
    data = settings.data if settings.data == "digits" else str(absolute(Path(settings.data)))
    inner, outer = settings.hyper_batches
    return replace(
        settings, out=out, data=data, threads=threads, model=_models.located(settings.model),
        inner_batch=inner, outer_batch=outer,
    )  # fmt: skip


def _resumed(asked: Tune, console: Console) -> Outcome:
    """Continue the run in `asked.resume`."""
    asked.check()
    assert asked.resume is not None
    folder = RunFolder.open(absolute(asked.resume))
    try:
        saved = _options.from_json(Tune, folder.settings["settings"])
        settings = replace(saved, out=folder.path, overwrite=False)
        settings.check(given=set())
        expected = dict(folder.read_json("splits.json"))
        assert settings.threads and settings.steps and isinstance(settings.data, str)
    except (KeyError, TypeError, AttributeError, AssertionError, ValueError) as error:
        raise InputError(
            f"The settings in '{folder.path}' cannot be read; the run is damaged."
        ) from error
    _models.check_named(settings.model, asked.model)
    if folder.is_finished:
        console.print(f"The run in {folder.path} is finished.", soft_wrap=True, markup=False)
        return Outcome.read(folder)
    splits = settings.load_splits()
    if any(expected.get(key) != value for key, value in fingerprint(splits).items()):
        raise InputError(
            "The data is not what the run was started with; restore it, or start anew."
        )
    return Session(settings, splits, folder, console).run()
