"""Which files and which columns of a Parquet data set hold what."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bestresponse._errors import InputError
from bestresponse.data._files import title

_FILE = re.compile(r"(train|validation|test)(?:-(\d+)-of-(\d+))?\.parquet")
_LABEL_NAMES = ("label", "labels", "fine_label", "coarse_label")


@dataclass(frozen=True)
class Columns:
    """Where the images and labels of a schema are, and what it calls the classes."""

    image: str
    label: str
    names: tuple[str, ...] | None


def shards(folder: Path) -> dict[str, list[Path]]:
    """The Parquet files of a folder by role, each role's shards in order and complete.

    Raises:
        InputError: A file name says no role, a shard is missing, or no file is for training.
    """
    roles: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*.parquet")):
        roles.setdefault(_match(file)[1], []).append(file)
    if "train" not in roles:
        raise InputError(f"Folder {title(folder)!r} has no train-….parquet: add the file.")
    for files in roles.values():
        _check_complete(files)
    return roles


def _match(file: Path) -> re.Match[str]:
    match = _FILE.fullmatch(file.name)
    if match is None:
        raise InputError(
            f"The name {file.name!r} says no role: call it train-, validation- or "
            "test-00000-of-00001.parquet, or give the path of this one file."
        )
    return match


def _check_complete(files: list[Path]) -> None:
    numbers = [(int(m[2] or 0), int(m[3] or 1)) for m in map(_match, files)]
    total = numbers[0][1]
    if numbers != [(number, total) for number in range(total)]:
        raise InputError(
            f"The shards {', '.join(file.name for file in files)} are not one complete set of "
            f"{total}: fetch the missing ones or remove those of another set."
        )


def columns(schema: Any, file: str) -> Columns:
    """Finds the image and label columns of a pyarrow schema by type and name.

    Raises:
        InputError: There is none, or more than one that could be meant.
    """
    label = _label(schema, file)
    return Columns(_image(schema, file), label, _class_names(schema, label))


def _image(schema: Any, file: str) -> str:
    structs = [field.name for field in schema if _is_image(field.type)]
    candidates = structs or [field.name for field in schema if _is_binary(field.type)]
    return _only(candidates, "image column (struct<bytes, path> or binary)", schema, file)


def _label(schema: Any, file: str) -> str:
    import pyarrow.types as types

    integers = [field.name for field in schema if types.is_integer(field.type)]
    named = [name for name in _LABEL_NAMES if name in integers]
    return _only(named[:1] or integers, "integer label column", schema, file)


def _only(candidates: list[str], what: str, schema: Any, file: str) -> str:
    if len(candidates) == 1:
        return candidates[0]
    listed = ", ".join(f"{field.name} ({field.type})" for field in schema)
    number = "several candidates for" if candidates else "no candidate for"
    raise InputError(
        f"{file!r} has {number} the {what} among {listed}: keep exactly one, "
        f"or name the labels {_LABEL_NAMES[0]!r}."
    )


def _is_binary(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_image(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_struct(kind) and any(
        field.name == "bytes" and _is_binary(field.type) for field in kind
    )


def _class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (LookupError, TypeError, ValueError):  # this file does not name its classes
        return None
    return tuple(str(name) for name in names) if isinstance(names, list) else None
