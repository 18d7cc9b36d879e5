"""One process's work on a `distill` run: seed after seed, then the files."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import bestresponse as br
from bestresponse._errors import InputError
from bestresponse.apps import _models, _options
from bestresponse.apps._interrupt import listening
from bestresponse.apps._progress import reporting
from bestresponse.apps._run import RESULT_FILE, RunFolder, shown
from bestresponse.apps.distill._files import files
from bestresponse.apps.distill._keeper import Keeper
from bestresponse.apps.distill._outcome import Distillation, Distiller, Outcome, measure
from bestresponse.apps.distill._problem import make_problem, roles
from bestresponse.apps.distill._report import report
from bestresponse.apps.tune._session import fingerprint
from bestresponse.data import Dataset

_SETTINGS, _ROLES = "settings.json", "splits.json"


class Session:
    """One process's work on a run.

    Making one refuses what can be refused; only then is a new run folder written.

    Args:
        settings: of the run, a `Distill` whose defaults are filled in.
        distiller: that they mean.
        dataset: that they name.
        folder: the run's, if it is there already.
        console: where to speak.

    Raises:
        InputError: for data that does not fit, or is not what the run was started with.
    """

    def __init__(
        self,
        settings: Any,
        distiller: Distiller,
        dataset: Dataset,
        folder: RunFolder | None,
        console: Console,
    ) -> None:
        self.settings, self.distiller, self.dataset = settings, distiller, dataset
        self.console = console
        self.problems = [
            make_problem(dataset, settings.images, settings.validation, seed)
            for seed in settings.seeds
        ]
        data = fingerprint(roles(dataset, settings.validation, settings.seeds[0]))
        if folder is not None and folder.read_json(_ROLES) != data:
            raise InputError(
                "The data is not what the run was started with; restore it, or start anew."
            )
        self.folder = folder or RunFolder.create(
            settings.out, {_SETTINGS: self._heading(), _ROLES: data}, overwrite=settings.overwrite
        )

    def run(self) -> Outcome:
        """Go on to the end, or until asked to stop."""
        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)
        self.console.print(self.dataset.source, highlight=False, markup=False, soft_wrap=True)
        with self.folder.locked(), listening() as wish:
            keeper = Keeper(
                self.folder, wish, self._resume_command(), self.settings.checkpoint_seconds
            )
            outcome = self._measured(keeper)
            self._write(outcome)
        for line in (outcome.verdict, *outcome.notes()):
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        where = shown(self.folder.path / "report.html")
        self.console.print(f"Report: {where}", highlight=False, soft_wrap=True)
        return outcome

    def _measured(self, keeper: Keeper) -> Outcome:
        steps = 2 * self.distiller.steps
        runs: list[Distillation] = []
        total = steps * len(self.problems)
        with reporting(self.console, total, keeper.done) as keeper.reporter:
            for number, problem in enumerate(self.problems):
                runs.append(measure(self.distiller, problem, keeper, steps * number))
        return Outcome(
            tuple(runs),
            Path(self.settings.model).name,  # a factory's file without its folders
            self.dataset.name,
            self.dataset.source,
            len(self.problems[0].train),
        )

    def _write(self, outcome: Outcome) -> None:
        """The files; the result comes last."""
        names = self.dataset.class_names
        for name, content in files(outcome.runs[0].data, names).items():
            self.folder.write_bytes(name, content)
        settings = _options.to_json(self.settings)
        self.folder.write_text("report.html", report(outcome, names, settings))
        self.folder.write_json(RESULT_FILE, outcome.as_json())

    def _heading(self) -> dict[str, Any]:
        return {
            "command": "distill",
            "version": br.__version__,
            "torch": torch.__version__,
            "settings": _options.to_json(self.settings),
        }

    def _resume_command(self) -> str:
        folder = shlex.quote(str(shown(self.folder.path)))
        return f"bestresponse distill --resume {folder}{_models.named_again(self.settings.model)}"
