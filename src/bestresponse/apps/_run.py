"""The run folder: settings, metrics, checkpoints and results, each whole or not there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import nn

from bestresponse._errors import InputError

RESULT_FILE = "result.json"
_SETTINGS, _METRICS, _CHECKPOINT = "settings.json", "metrics.jsonl", "checkpoint.pt"


class RunFolder:
    """A folder that holds one run.

    Nothing in it is code: settings and results are JSON, checkpoints are tensors and numbers read
    with `weights_only=True`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: list[str] = []

    @classmethod
    def create(cls, path: Path, files: Mapping[str, Any], *, overwrite: bool) -> RunFolder:
        """A new folder with the given JSON files in it, made in one step.

        Raises:
            InputError: if something is there already (unless it is a run and `overwrite`).
        """
        check_free(path, overwrite=overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.mkdir()
        try:
            for name, content in files.items():
                _write_json(draft / name, content)
            (draft / _METRICS).touch()
            if path.exists():
                shutil.rmtree(path)
            draft.rename(path)
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
        if not (path / _SETTINGS).is_file():
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
        _write_json(self.path / name, content)

    def write_text(self, name: str, text: str) -> None:
        """Replace a text file in one step."""
        _replace(self.path / name, lambda draft: draft.write_text(text))

    def write_safetensors(self, name: str, module: nn.Module) -> None:
        """A module's parameters and buffers; readable by every framework, runs no code."""
        _replace(self.path / name, lambda draft: save_model(module, str(draft)))

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
        _replace(self.path / _CHECKPOINT, lambda path: torch.save(content, path))

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, with the metrics cut back to it; None if there is none yet."""
        path = self.path / _CHECKPOINT
        if not path.exists():
            self._cut_metrics(0)
            return None
        try:
            content = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:
            raise InputError(f"'{path}' cannot be read; the checkpoint is damaged.") from error
        self._cut_metrics(content["metrics_bytes"])
        return content["state"]

    def _cut_metrics(self, length: int) -> None:
        os.truncate(self.path / _METRICS, length)


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds something which would be lost."""
    if not path.exists():
        return
    if not path.is_dir() or (any(path.iterdir()) and not (path / _SETTINGS).is_file()):
        raise InputError(f"'{path}' exists and is no run folder; choose another --out.")
    if any(path.iterdir()) and not overwrite:
        raise InputError(
            f"'{path}' already holds a run; choose another --out, continue it with "
            f"--resume {path}, or replace it with --overwrite."
        )


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    _replace(path, lambda draft: draft.write_text(text))


def _replace(path: Path, write: Any) -> None:
    """Write beside the file, then swap: a reader or a crash sees the old or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
