"""What an experiment has measured so far, kept so that an interrupted one can go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bestresponse._errors import InputError
from bestresponse.apps._run import absolute

Part = TypeVar("Part")


class Ledger:
    """Measured parts of an experiment, by name, as lines of a file beside its run folder.

    The first line says what the parts belong to; a file of other settings is begun anew.

    Args:
        out: the run folder, which is not there yet.
        heading: what the parts depend on, ready for JSON.
    """

    def __init__(self, out: Path, heading: dict[str, Any]) -> None:
        self.path = absolute(out).with_name(f".{out.name}.parts.jsonl")
        self._heading = json.dumps(heading, sort_keys=True)
        self._parts = self._read()

    def __len__(self) -> int:
        return len(self._parts)

    def once(self, name: str, measure: Callable[[], Part]) -> Part:
        """What `measure()` gives, or gave before an interruption; JSON either way.

        A number that went through the file is the same number, so that a continued experiment
        ends in the figures of one that was never interrupted.
        """
        if name not in self._parts:
            line = json.dumps({"name": name, "value": measure()})
            self._append(line)
            self._parts[name] = json.loads(line)["value"]
        part: Part = self._parts[name]
        return part

    def remove(self) -> None:
        """Forget all parts: the experiment is finished."""
        self.path.unlink(missing_ok=True)

    def _append(self, line: str) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self._parts:
                self.path.write_text(self._heading + "\n")
            with self.path.open("a") as file:
                file.write(line + "\n")
        except OSError as error:
            raise InputError(f"'{self.path}' cannot be written ({error.strerror}).") from error

    def _read(self) -> dict[str, Any]:
        """The parts in the file, as far as it is whole: the last line may be half a line."""
        try:
            heading, *lines = self.path.read_text().split("\n")
        except (OSError, ValueError):
            return {}
        if heading != self._heading:
            return {}
        parts: dict[str, Any] = {}
        for line in lines:
            try:
                content = json.loads(line)
                parts[content["name"]] = content["value"]
            except (ValueError, KeyError, TypeError):
                break
        self.path.write_text("\n".join([heading, *lines[: len(parts)]]) + "\n")
        return parts
