"""One process's work on a `tune` run: take turns, evaluate, checkpoint, finish."""

from __future__ import annotations

import hashlib
import shlex
import time
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console

import bestresponse as br
from bestresponse._errors import InputError
from bestresponse.apps import _models, _options
from bestresponse.apps._interrupt import Interrupted, Wish, listening
from bestresponse.apps._progress import Reporter, reporting
from bestresponse.apps._run import RunFolder, shown
from bestresponse.apps._training import Training, score
from bestresponse.apps.tune._outcome import Outcome, outcome, print_outcome
from bestresponse.apps.tune._report import write_report
from bestresponse.apps.tune._rows import (
    BOTH,
    FILTERED,
    REFITTED,
    ROWS,
    TUNED,
    UNTUNED,
    VALIDATION_ONLY,
    Bench,
    Data,
    label,
    make_data,
)
from bestresponse.apps.tune._self_tuning_rows import SelfTuningBench
from bestresponse.apps.tune._settings import TuneSettings, find_device
from bestresponse.apps.tune._tuning import HyperSteps
from bestresponse.data import Splits

_CURVE_EXAMPLES = 2000  # scores along the way look at no more than this many of each role
_LEAST_STEPS, _MOST_STEPS, _PASSES = 1000, 20_000, 25


class Session:
    """One process's work on a run.

    Making one refuses what can be refused; only then is a new run folder written.
    """

    def __init__(
        self, settings: TuneSettings, splits: Splits, folder: RunFolder | None, console: Console
    ) -> None:
        settings = _with_steps(settings, len(splits.train))
        assert settings.steps is not None and settings.out is not None
        assert settings.threads is not None
        if settings.warmup + settings.hyper_interval > settings.steps:
            between = "--train-steps" if settings.method == "self-tuning" else "--interval"
            raise InputError(
                f"No hyperparameter step fits into {settings.steps} steps; "
                f"lower --warmup or {between}, or raise --steps."
            )
        torch.set_num_threads(settings.threads)
        self.settings, self.splits, self.console = settings, splits, console
        self.steps, self.out = settings.steps, settings.out
        device = find_device(settings.device)
        self.data: Data = make_data(splits, settings.corrupt, settings.seed, device)
        kind = SelfTuningBench if settings.method == "self-tuning" else Bench
        self.bench = kind(settings, self.data, self._record)
        first = self.bench.plain(VALIDATION_ONLY, self.data.validation)
        both = self.bench.plain(BOTH, self.data.train.joined(self.data.validation))
        tuned, self.hyper = self.bench.tuned()
        untuned, fixed = self.bench.plain(UNTUNED, self.data.train), self.bench.fixed()
        self.fixed = [training.name for training in fixed]
        self.trainings = {t.name: t for t in (first, untuned, both, *fixed, tuned)}
        # only now, when nothing is left that could be refused, is anything written
        self.folder = folder or self._new_folder()
        self._last_checkpoint = time.perf_counter()

    def _new_folder(self) -> RunFolder:
        settings = {
            "command": "tune",
            "version": br.__version__,
            "torch": torch.__version__,
            "settings": _options.to_json(self.settings),
        }
        splits = {**fingerprint(self.splits), "indices": self.splits.indices()}
        return RunFolder.create(
            self.out,
            {"settings.json": settings, "splits.json": splits},
            overwrite=self.settings.overwrite,
        )

    def run(self) -> Outcome:
        """Train to the end, or until asked to stop."""
        with self.folder.locked():
            return self._run()

    def _run(self) -> Outcome:
        self._load()
        with (
            listening() as wish,
            reporting(self.console, len(self._rows()) * self.steps, self._done()) as reporter,
        ):
            self._race([VALIDATION_ONLY], wish, reporter)
            self._add_filtered()
            # these take turns, so that a busy moment of the machine slows all of them alike
            self._race([UNTUNED, BOTH, FILTERED, *self.fixed, TUNED], wish, reporter)
            if self.settings.refit:
                self._add_refitted()
                self._race([REFITTED], wish, reporter)
            self._save()
        return self._finish()

    def _add_filtered(self) -> None:
        if FILTERED not in self.trainings:
            judge = self.trainings[VALIDATION_ONLY].model
            self.trainings[FILTERED] = self.bench.filtered(judge)

    def _add_refitted(self) -> None:
        if REFITTED not in self.trainings:
            self.trainings[REFITTED] = self.bench.refitted(self.hyper)

    def _rows(self) -> list[str]:
        rows = [name for name in ROWS if name != REFITTED or self.settings.refit]
        return [*rows, *self.fixed]

    def _race(self, names: list[str], wish: Wish, reporter: Reporter) -> None:
        """Advance the trainings in turns, from one evaluation to the next."""
        rounds = min(self.settings.evaluations, self.steps)
        for turn in range(1, rounds + 1):
            until = turn * self.steps // rounds
            for training in (self.trainings[name] for name in names):
                if training.step < until:
                    self._advance(training, until, wish)
                    self._evaluate(training)
                    reporter.update(self._done(), self._note(training.name))
                    self._stop_if_asked(wish)

    def _advance(self, training: Training, until: int, wish: Wish) -> None:
        while training.step < until:
            training.advance(until, lambda: not (wish.to_stop or self._checkpoint_is_due()))
            if training.step < until:
                self._save()
                self._stop_if_asked(wish)

    def _stop_if_asked(self, wish: Wish) -> None:
        if wish.signal_number is not None:
            self._save()
            raise Interrupted(wish.signal_number, self._resume_command())

    def _resume_command(self) -> str:
        again = _models.named_again(self.settings.model)
        return f"bestresponse tune --resume {shlex.quote(str(shown(self.folder.path)))}{again}"

    def _checkpoint_is_due(self) -> bool:
        return time.perf_counter() - self._last_checkpoint > self.settings.checkpoint_seconds

    def _done(self) -> int:
        return sum(training.step for training in self.trainings.values())

    def _note(self, row: str) -> str:
        note = self._hyper_steps().note()
        return f"{label(row)}; tuned: {note}" if note else f"training {label(row)}"

    def _hyper_steps(self) -> HyperSteps:
        companion = self.trainings[TUNED].companion
        assert isinstance(companion, HyperSteps)
        return companion

    def _record(self, **metrics: Any) -> None:
        self.folder.record(**metrics)

    def _evaluate(self, training: Training) -> None:
        """One point on the curves of a row."""
        roles = {"train": training.examples, "validation": self.data.validation,
                 "test": self.data.test}  # fmt: skip
        scores: dict[str, float] = {}
        for role, examples in roles.items():
            some = examples.subset(_some_of(len(examples)))
            result = score(training.model, some)
            scores |= {f"{role}_loss": result.loss, f"{role}_accuracy": result.accuracy}
        self._record(kind="row", row=training.name, step=training.step, **scores)
        if training.name == TUNED:
            for name, values in self.hyper.values().items():
                curves = values.over_time()
                self._record(kind="values", name=name, step=training.step, **curves)
            self._hyper_steps().observed(training.step, scores)

    def _save(self) -> None:
        self.folder.save_checkpoint(
            {
                "trainings": {name: t.state() for name, t in self.trainings.items()},
                "hyper": self.hyper.state_dict(),
            }
        )
        self._last_checkpoint = time.perf_counter()

    def _load(self) -> None:
        state = self.folder.load_checkpoint()
        if state is not None:
            try:
                self._restore(state)
            except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                raise InputError(
                    "The checkpoint does not fit the run; it is damaged, or the model's file has "
                    "changed."
                ) from error
        self.folder.cut_metrics()

    def _restore(self, state: dict[str, Any]) -> None:
        self.hyper.load_state_dict(state["hyper"])
        self.trainings[VALIDATION_ONLY].load(state["trainings"][VALIDATION_ONLY])
        if FILTERED in state["trainings"]:
            self._add_filtered()
        if REFITTED in state["trainings"]:
            self._add_refitted()
        for name, saved in state["trainings"].items():
            self.trainings[name].load(saved)

    def _finish(self) -> Outcome:
        """Scores on all of the test set, weights, report; the result comes last."""
        scores = {
            name: (t, score(t.product(), self.data.test)) for name, t in self.trainings.items()
        }
        steps = self._hyper_steps()
        result = outcome(scores, self.hyper, self.data, steps, self.settings)
        product = self.trainings[result.product].product()
        self.folder.write_safetensors("model.safetensors", product)
        self.folder.write_safetensors("hyper.safetensors", self.hyper)
        steps.write(self.folder)
        write_report(self.folder, self.settings, result, self.hyper, self.data, steps)
        result.write(self.folder)
        print_outcome(result, shown(self.folder.path), self.console)
        return result


def fingerprint(splits: Splits) -> dict[str, Any]:
    """What must be the same when a run is resumed: who has which role, and the data itself."""
    digest = hashlib.sha256()
    for part in (splits.train, splits.test):
        digest.update(part.dataset.inputs.numpy().tobytes())
        digest.update(part.dataset.labels.numpy().tobytes())
    return {"record": splits.record, "data_sha256": digest.hexdigest()}


def _some_of(count: int) -> torch.Tensor:
    """All of them, or a fixed random sample."""
    if count <= _CURVE_EXAMPLES:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(count, generator=generator)[:_CURVE_EXAMPLES].sort().values


def _with_steps(settings: TuneSettings, examples: int) -> TuneSettings:
    passes = round(_PASSES * examples / settings.batch_size)
    steps = settings.steps or min(max(passes, _LEAST_STEPS), _MOST_STEPS)
    return replace(settings, steps=steps)
