"""Settings dataclasses as JSON, and the flags that have no effect."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from bestresponse._errors import InputError

Settings = TypeVar("Settings")

_HUGE = 1e37  # near the end of float32, where optimizers overflow


def flag(name: str) -> str:
    """A field's name as the flag it has on the command line."""
    return "--" + name.replace("_", "-")


def to_json(settings: Any) -> dict[str, Any]:
    """All fields of a settings dataclass, ready for JSON."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(settings).items()
    }


def from_json(kind: type[Settings], content: Mapping[str, Any]) -> Settings:
    """The settings that `to_json` wrote.

    Raises:
        InputError: for a field that is unknown or missing.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if set(fields) != set(content):
        odd = ", ".join(sorted(set(fields) ^ set(content)))
        raise InputError(f"The saved settings do not fit this version of bestresponse ({odd}).")
    return kind(
        **{name: _restored(str(fields[name].type), value) for name, value in content.items()}
    )


def _restored(kind: str, value: Any) -> Any:
    """A value that JSON has no type for, in its own."""
    if "Path" in kind and value is not None:
        return Path(value)
    return tuple(value) if isinstance(value, list) else value


def check_positive(settings: Any, *names: str) -> None:
    """Refuse fields that are not positive."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 < value < _HUGE:
            raise InputError(f"{flag(name)} is {value}; give a positive number.")


def check_not_negative(settings: Any, *names: str) -> None:
    """Refuse fields that are negative."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 <= value < _HUGE:
            raise InputError(f"{flag(name)} is {value}; give 0 or a positive number.")


def check_choice(settings: Any, name: str, choices: Iterable[str]) -> None:
    """Refuse a field whose value is none of the choices."""
    value, known = getattr(settings, name), tuple(choices)
    if value not in known:
        raise InputError(f"{flag(name)} {value} is unknown; use {', '.join(known)}.")


def changed(settings: Any) -> set[str]:
    """The fields that differ from their default."""
    return {
        field.name
        for field in dataclasses.fields(settings)
        if getattr(settings, field.name) != field.default
    }
