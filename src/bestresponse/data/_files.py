"""Finding and opening what the user named, with sentences for what can go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bestresponse._errors import InputError


def found(path: str | Path) -> Path:
    """The path, with `~` expanded, if something is there.

    Raises:
        InputError: Nothing is there.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(f"There is no file or folder {str(path)!r}: check the path.")
    return path


def title(path: Path) -> str:
    """The file or folder name without its place, since records must not leak one."""
    return path.resolve().name


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, by name; systems leave dot files that nobody means as data."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns the operating system's refusal to read `path` into an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path.name!r} cannot be read ({error.strerror or error}): "
            "check that it is a whole file and that you may read it."
        ) from error
