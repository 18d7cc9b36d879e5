"""`bestresponse tune`: train a classifier and tune its hyperparameters in the same run."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console

import bestresponse as br
from bestresponse._errors import InputError
from bestresponse.apps import _models, _options
from bestresponse.apps._interrupt import Interrupted, Wish, listening
from bestresponse.apps._outcome import Outcome, outcome, print_outcome
from bestresponse.apps._progress import Reporter, reporting
from bestresponse.apps._rows import (
    BOTH,
    FILTERED,
    TUNED,
    UNTUNED,
    VALIDATION_ONLY,
    Bench,
    Data,
    make_data,
)
from bestresponse.apps._run import RunFolder, check_free
from bestresponse.apps._training import Training, score
from bestresponse.apps._tune_report import write_report
from bestresponse.apps._tuning import Hyperparameters, Tuner, quantiles
from bestresponse.data import Splits, load, split

_GROUPS = ("weights", "decay")
_CURVE_EXAMPLES = 2000  # scores along the way look at no more than this many of each role
_LEAST_STEPS, _MOST_STEPS, _PASSES = 1000, 20_000, 25
_LIGHT_MODELS = ("linear", "mlp")


@dataclass(frozen=True)
class Tune:
    """Train a classifier and tune its hyperparameters in the same run.

    The validation set tunes, the test set is only reported. Beside the tuned run, the table shows
    what the simple alternatives give with the same data and the same number of steps.
    """

    data: str = "digits"
    """`digits` (bundled), a Parquet, CSV or IDX file, or a folder of Parquet files or of one image
    folder a class."""
    target: Annotated[str | None, tyro.conf.arg(metavar="COLUMN")] = None
    """The column of classes, for CSV."""
    model: str = "mlp"
    """linear, mlp, cnn, resnet, or FILE.py:FACTORY, called as FACTORY(input_shape, classes)."""
    tune: str = "weights"
    """What is tuned, comma-separated: weights (one for each training example), decay."""
    decay_per: Literal["weight", "channel", "tensor", "model"] = "weight"
    """With decay: one decay for each of these."""
    corrupt: float = 0.0
    """Flip this share of the training labels, to show cleaning."""
    train: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Training examples; all that are left by default."""
    validation: int = 200
    """Validation examples."""
    method: Literal["implicit", "unroll", "finite-difference"] = "implicit"
    """How the best response is differentiated."""
    solver: Literal["scale", "neumann", "cg", "dense"] = "scale"
    """How the inverse Hessian is approximated (implicit, finite-difference)."""
    solver_steps: int = 5
    """Products a solve (neumann, cg)."""
    solver_lr: float = 1.0
    """The scale of `scale`, the step size of `neumann`."""
    damping: float = 0.1
    """Added to the diagonal of the inner Hessian (neumann, cg, dense)."""
    unroll_steps: int = 5
    """Steps to unroll."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Training steps; by default 25 passes over the data, at least 1,000 and at most 20,000."""
    batch_size: int = 256
    """Examples in a training step."""
    inner_batch: int = 2048
    """Training examples in a hyperparameter step (all, where there are fewer)."""
    outer_batch: int = 2048
    """Validation examples in a hyperparameter step (all, where there are fewer)."""
    warmup: int = 20
    """Training steps before the first hyperparameter step."""
    interval: int = 15
    """Training steps between two hyperparameter steps."""
    lr: float = 3e-3
    """Adam's learning rate for the weights."""
    hyper_lr: float = 0.1
    """Adam's learning rate for the hyperparameters."""
    decay: float = 2e-3
    """Weight decay; its initial value where decay is tuned."""
    patience: int = 0
    """Stop tuning after so many hyperparameter steps without a better validation loss; 0: never."""
    evaluations: int = 50
    """Points on each curve."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """CPU threads; by default 1 for linear and mlp, PyTorch's choice otherwise."""
    seed: int = 0
    """Of splits, flips, initial weights and batches."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """The run folder; by default a new one under runs/."""
    overwrite: bool = False
    """Replace a run that is already in --out."""
    checkpoint_seconds: float = 10.0
    """Seconds between two checkpoints."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Continue this run; no other flag is needed (but --model again, if it is a file)."""

    @property
    def groups(self) -> tuple[str, ...]:
        """What is tuned."""
        return tuple(part.strip() for part in self.tune.split(","))

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
        return _Session(settings, splits, None, console).run()

    def load_splits(self) -> Splits:
        """The data in its roles."""
        dataset = load(self.data, self.target)
        return split(dataset, validation=self.validation, train=self.train, seed=self.seed)

    def make_method(self, optimizer: torch.optim.Optimizer) -> Any:
        """The method of differentiation."""
        if self.method == "unroll":
            return br.Unroll(br.optim.from_torch(optimizer), steps=self.unroll_steps)
        solvers: dict[str, Any] = {
            "scale": lambda: br.Scale(self.solver_lr),
            "neumann": lambda: br.Neumann(lr=self.solver_lr, max_steps=self.solver_steps),
            "cg": lambda: br.CG(max_steps=self.solver_steps),
            "dense": br.Dense,
        }
        damping = 0.0 if self.solver == "scale" else self.damping
        kind = br.Implicit if self.method == "implicit" else br.FiniteDifference
        return kind(solvers[self.solver](), damping=damping)

    def unused(self) -> dict[str, str]:
        """Fields that have no effect beside the others, with the reason."""
        idle: dict[str, str] = {}
        if "decay" not in self.groups:
            idle["decay_per"] = "decay is not tuned"
        if self.method == "unroll":
            reason = "--method unroll solves no linear system"
            idle |= dict.fromkeys(("solver", "solver_steps", "solver_lr", "damping"), reason)
            return idle
        idle["unroll_steps"] = f"--method {self.method} unrolls nothing"
        reason = f"--solver {self.solver} has no such setting"
        if self.solver in ("scale", "dense"):
            idle["solver_steps"] = reason
        if self.solver in ("cg", "dense"):
            idle["solver_lr"] = reason
        if self.solver == "scale":
            idle["damping"] = reason
        return idle

    def check(self, given: set[str] | None = None) -> None:
        """Refuse settings that make no sense, and given ones that have no effect.

        Args:
            given: fields that were set on purpose; by default those that differ from the default.
        """
        unknown = [group for group in self.groups if group not in _GROUPS]
        if unknown or len(set(self.groups)) < len(self.groups):
            raise InputError(
                f"--tune {self.tune} is not understood; give a list of {', '.join(_GROUPS)}."
            )
        _options.check_choice(self, "decay_per", ("weight", "channel", "tensor", "model"))
        _options.check_choice(self, "method", ("implicit", "unroll", "finite-difference"))
        _options.check_choice(self, "solver", ("scale", "neumann", "cg", "dense"))
        _options.check_positive(
            self, "validation", "train", "solver_steps", "solver_lr", "unroll_steps", "steps",
            "batch_size", "inner_batch", "outer_batch", "interval", "lr", "hyper_lr", "decay",
            "evaluations", "threads", "checkpoint_seconds",
        )  # fmt: skip
        _options.check_not_negative(self, "damping", "warmup", "patience", "seed")
        if not 0 <= self.corrupt < 1:
            raise InputError(f"--corrupt is {self.corrupt}; give a share from 0 to below 1.")
        for name, reason in self.unused().items():
            if name in (_options.changed(self) if given is None else given):
                raise InputError(f"{_options.flag(name)} has no effect: {reason}; leave it out.")
        _models.factory(self.model)
        _device(self.device)


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


def _with_steps(settings: Tune, examples: int) -> Tune:
    passes = round(_PASSES * examples / settings.batch_size)
    steps = settings.steps or min(max(passes, _LEAST_STEPS), _MOST_STEPS)
    return replace(settings, steps=steps)


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
    return _Session(settings, splits, folder, console).run()


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name} is unknown; use cpu, cuda or cuda:0.") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name} is not supported; use cpu or cuda.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this PyTorch sees no GPU; use --device cpu.")
    return device


class _Session:
    """One process's work on a run."""

    def __init__(
        self, settings: Tune, splits: Splits, folder: RunFolder | None, console: Console
    ) -> None:
        settings = _with_steps(settings, len(splits.train))
        assert settings.steps is not None and settings.out is not None
        assert settings.threads is not None
        torch.set_num_threads(settings.threads)
        self.settings, self.splits, self.console = settings, splits, console
        self.steps, self.out = settings.steps, settings.out
        device = _device(settings.device)
        self.data: Data = make_data(splits, settings.corrupt, settings.seed, device)
        self.bench = Bench(settings, self.data, self._record)
        first = self.bench.plain(VALIDATION_ONLY, self.data.validation)
        both = self.bench.plain(BOTH, self.data.train.joined(self.data.validation))
        tuned, self.hyper = self.bench.tuned()
        self.trainings = {
            t.name: t for t in (first, self.bench.plain(UNTUNED, self.data.train), both, tuned)
        }
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
        splits = {"record": self.splits.record, "indices": self.splits.indices()}
        return RunFolder.create(
            self.out,
            {"settings.json": settings, "splits.json": splits},
            overwrite=self.settings.overwrite,
        )

    def run(self) -> Outcome:
        self._load()
        with (
            listening() as wish,
            reporting(self.console, 5 * self.steps, self._done()) as reporter,
        ):
            self._race([VALIDATION_ONLY], wish, reporter)
            self._add_filtered()
            # these take turns, so that a busy moment of the machine slows all of them alike
            self._race([UNTUNED, BOTH, FILTERED, TUNED], wish, reporter)
            self._save()
        return self._finish()

    def _add_filtered(self) -> None:
        if FILTERED not in self.trainings:
            judge = self.trainings[VALIDATION_ONLY].model
            self.trainings[FILTERED] = self.bench.filtered(judge)

    def _race(self, names: list[str], wish: Wish, reporter: Reporter) -> None:
        """Advance the trainings in turns, from one evaluation to the next."""
        rounds = min(self.settings.evaluations, self.steps)
        for turn in range(1, rounds + 1):
            until = turn * self.steps // rounds
            for training in (self.trainings[name] for name in names):
                if training.step < until:
                    self._advance(training, until, wish)
                    self._evaluate(training)
                    reporter.update(self._done(), self._note())
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
        model = self.settings.model
        again = f" --model {shlex.quote(model)}" if _models.is_file(model) else ""
        return f"bestresponse tune --resume {shlex.quote(str(self.folder.path))}{again}"

    def _checkpoint_is_due(self) -> bool:
        return time.perf_counter() - self._last_checkpoint > self.settings.checkpoint_seconds

    def _done(self) -> int:
        return sum(training.step for training in self.trainings.values())

    def _note(self) -> str:
        report = self._tuner().last
        if report is None:
            return "warming up"
        return f"validation loss {report.outer_loss:.4f}, hypergradient {report.norm:.2g}"

    def _tuner(self) -> Tuner:
        companion = self.trainings[TUNED].companion
        assert isinstance(companion, Tuner)
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
                self._record(
                    kind="values", name=name, step=training.step, quantiles=quantiles(values)
                )

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
        if state is None:
            return
        self.hyper.load_state_dict(state["hyper"])
        self.trainings[VALIDATION_ONLY].load(state["trainings"][VALIDATION_ONLY])
        if FILTERED in state["trainings"]:
            self._add_filtered()
        for name, saved in state["trainings"].items():
            self.trainings[name].load(saved)

    def _finish(self) -> Outcome:
        """Scores on all of the test set, weights, report; the result comes last."""
        result = outcome(
            {name: (t, score(t.model, self.data.test)) for name, t in self.trainings.items()},
            self.hyper,
            self.data,
            self._tuner().tally,
            self.settings.corrupt > 0,
        )
        self.folder.write_safetensors("model.safetensors", self.trainings[TUNED].model)
        self.folder.write_safetensors("hyper.safetensors", self.hyper)
        write_report(self.folder, self.settings, result, self.hyper, self.data)
        result.write(self.folder)
        print_outcome(result, self.folder.path, self.console)
        return result


def _some_of(count: int) -> torch.Tensor:
    """All of them, or a fixed random sample."""
    if count <= _CURVE_EXAMPLES:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(count, generator=generator)[:_CURVE_EXAMPLES].sort().values


__all__ = ["Hyperparameters", "Tune"]
