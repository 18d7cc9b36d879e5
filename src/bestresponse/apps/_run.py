"""The run folder: settings, metrics, checkpoints and results, each whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import nn

from bestresponse._errors import InputError

RESULT_FILE = "result.json"
_SETTINGS, _METRICS, _CHECKPOINT = "settings.json", "metrics.jsonl", "checkpoint.pt"
_FILES = {
    RESULT_FILE,
    _SETTINGS,
    _METRICS,
    _CHECKPOINT,
    "splits.json",
    "report.html",
    "model.safetensors",
    "hyper.safetensors",
    "schedule.csv",
    "distilled.png",
    "distilled.npz",
    "distilled.parquet",
}
_DRAFT = "draft-"  # a file on its way; one process writes a run, so one name is enough


class RunFolder:
    """A folder that holds one run.

    Nothing in it is code: settings and results are JSON, checkpoints are tensors and numbers read
    with `weights_only=True`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: list[str] = []
        self._metrics_bytes = 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from working on the run meanwhile.

        Raises:
            InputError: if another process does.
        """
        with (self.path / _SETTINGS).open() as file:
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except ImportError:  # not a Unix system
                pass
            except OSError as error:
                raise InputError(
                    f"Another process is working on the run in '{self.path}'; wait for it."
                ) from error
            yield

    @classmethod
    def create(cls, path: Path, files: Mapping[str, Any], *, overwrite: bool) -> RunFolder:
        """A new folder with the given files in it, made in one step.

        Args:
            path: where.
            files: text and bytes as they are, modules as safetensors, everything else as JSON;
                with a result the run is finished.
            overwrite: replace a run that is there.

        Raises:
            InputError: if something is there already (unless it is a run and `overwrite`).
        """
        check_free(path, overwrite=overwrite)
        texts = {
            name: content if isinstance(content, str) else _json(content)
            for name, content in files.items()
            if not isinstance(content, nn.Module | bytes)
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", dir=path.parent))
        except OSError as error:
            raise InputError(f"--out '{path}' cannot be made ({error.strerror}).") from error
        try:
            draft.chmod(0o755)
            for name, text in texts.items():
                (draft / name).write_text(text)
            for name, content in files.items():
                if isinstance(content, nn.Module):
                    save_model(content, str(draft / name))
                elif isinstance(content, bytes):
                    (draft / name).write_bytes(content)
            if RESULT_FILE not in files:
                (draft / _METRICS).touch()
            _put(draft, path)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run.

        Raises:
            InputError: if the folder holds no run.
        """
        if not is_run(path):
            raise InputError(
                f"'{path}' holds no run to resume; give the folder of an earlier --out."
            )
        return cls(path)

    def read_json(self, name: str) -> Any:
        """A JSON file of the run."""
        try:
            return json.loads((self.path / name).read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"'{self.path / name}' cannot be read; the run is damaged.") from error

    def write_json(self, name: str, content: Any) -> None:
        """Replace a JSON file in one step."""
        self.write_text(name, _json(content))

    def write_text(self, name: str, text: str) -> None:
        """Replace a text file in one step."""
        replace_file(self.path / name, lambda draft: draft.write_text(text))

    def write_bytes(self, name: str, content: bytes) -> None:
        """Replace any other file in one step."""
        replace_file(self.path / name, lambda draft: draft.write_bytes(content))

    def write_file(self, name: str, write: Callable[[Path], object]) -> None:
        """Replace a file that `write` writes to the path it is given."""
        replace_file(self.path / name, write)

    def write_safetensors(self, name: str, module: nn.Module) -> None:
        """A module's parameters and buffers; readable by every framework, runs no code."""
        replace_file(self.path / name, lambda draft: save_model(module, str(draft)))

    @property
    def settings(self) -> dict[str, Any]:
        """What the run was started with."""
        return self.read_json(_SETTINGS)

    @property
    def is_finished(self) -> bool:
        """Whether the result is there."""
        return (self.path / RESULT_FILE).is_file()

    def record(self, **metrics: Any) -> None:
        """One line for `metrics.jsonl`, written with the next checkpoint or `flush`."""
        self._pending.append(json.dumps(metrics))

    def flush(self) -> int:
        """Write pending metrics; the length of the file in bytes."""
        with (self.path / _METRICS).open("a") as file:
            file.writelines(line + "\n" for line in self._pending)
            self._pending.clear()
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def metrics(self) -> list[dict[str, Any]]:
        """All recorded metrics, in order."""
        self.flush()
        return [json.loads(line) for line in (self.path / _METRICS).read_text().splitlines()]

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint in one step; it remembers how long the metrics were."""
        content = {"metrics_bytes": self.flush(), "state": state}
        replace_file(self.path / _CHECKPOINT, lambda path: torch.save(content, path))

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint; None if there is none yet. `cut_metrics` goes with it."""
        path = self.path / _CHECKPOINT
        if not path.exists():
            return None
        try:
            content = torch.load(path, weights_only=True, map_location="cpu")
            self._metrics_bytes = int(content["metrics_bytes"])
            return dict(content["state"])
        except Exception as error:
            raise InputError(f"'{path}' cannot be read; the checkpoint is damaged.") from error

    def cut_metrics(self) -> None:
        """Forget metrics that are newer than the checkpoint that was loaded, if any."""
        path = self.path / _METRICS
        if not path.is_file() or path.stat().st_size < self._metrics_bytes:
            raise InputError(f"'{path}' is shorter than it was; the run is damaged.")
        os.truncate(path, self._metrics_bytes)


def _put(draft: Path, path: Path) -> None:
    """Make the draft the folder; in a folder that is there, the settings come last."""
    if not path.exists():
        draft.rename(path)
        return
    for old in path.iterdir():
        old.unlink()
    for file in sorted(draft.iterdir(), key=lambda file: file.name == _SETTINGS):
        file.rename(path / file.name)
    draft.rmdir()


def absolute(path: Path) -> Path:
    """The same place, whatever the working directory will be; links stay."""
    return Path(os.path.abspath(path.expanduser()))


def shown(path: Path) -> Path:
    """A path as a person would type it here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def is_run(path: Path) -> bool:
    """Whether a folder was made by this program, and holds nothing else."""
    try:
        settings = json.loads((path / _SETTINGS).read_text())
    except (OSError, ValueError):
        return False
    known = isinstance(settings, dict) and {"command", "settings", "version"} <= set(settings)
    return known and all(entry.name.removeprefix(_DRAFT) in _FILES for entry in path.iterdir())


def check_free(path: Path, *, overwrite: bool, resumable: bool = False) -> None:
    """Refuse a folder that holds something which would be lost.

    Args:
        path: where a run is to be written.
        overwrite: whether a run that is there may be replaced.
        resumable: whether the command could continue a run instead.
    """
    try:
        absent = not path.exists() and not path.is_symlink()
        empty = not absent and path.is_dir() and not any(path.iterdir())
    except OSError as error:
        raise InputError(f"--out '{path}' cannot be used ({error.strerror}).") from error
    if absent or (empty and not path.is_symlink()):
        return
    if path.is_symlink() or not is_run(path):
        raise InputError(
            f"'{path}' is no run folder, or holds other files too; choose another --out."
        )
    if not overwrite:
        instead = f", continue it with --resume {path}," if resumable else ""
        raise InputError(
            f"'{path}' already holds a run; choose another --out{instead} or replace it with "
            "--overwrite."
        )


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def replace_file(path: Path, write: Any) -> None:
    """Write beside the file, then swap: a reader or a crash sees the old or the new one."""
    draft = path.with_name(f"{_DRAFT}{path.name}")
    try:
        write(draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
