"""A function in the user's own file, named as FILE.py:FACTORY."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bestresponse._errors import InputError


def function_in_file(named: str, setting: str) -> Callable[..., Any]:
    """The function that `named` names, from its file.

    Args:
        named: FILE.py:FACTORY.
        setting: what the user calls it, for messages.

    Raises:
        InputError: if there is no such file or function, or the file fails.
    """
    path, _, name = named.rpartition(":")
    if not Path(path).is_file():
        raise InputError(f"{setting} names the file '{path}', which does not exist.")
    found = getattr(_imported(Path(path), Path(path).read_bytes()), name, None)
    if not callable(found):
        raise InputError(f"'{path}' has no function '{name}'; name one as FILE.py:FACTORY.")
    return found


@functools.cache
def _imported(path: Path, source: bytes) -> Any:
    """The user's file as a module, imported once for each of its versions.

    Python's own cache knows a file by its size and the second of its last change, so that it would
    run the old text of one that changes twice in a second.
    """
    spec = importlib.util.spec_from_file_location(f"_bestresponse_model_{path.stem}", path)
    if spec is None:
        raise InputError(f"'{path}' is no Python file; name one as FILE.py:FACTORY.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)  # its neighbours can be imported, as when Python runs it
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise InputError(f"'{path}' fails when it is imported: {said(error)}.") from error
    finally:
        with suppress(ValueError):  # the file may have tidied up itself
            sys.path.remove(folder)
    return module


def said(error: BaseException) -> str:
    """The first line of an error, without its final stop."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0].rstrip('.')}" if text else type(error).__name__
