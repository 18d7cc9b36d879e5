"""Other libraries' ways of computing the same hypergradients, one file a library."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import version

from benchmarks.entrants import Entrant
from benchmarks.problems import Case

_PACKAGES = {"TorchOpt": "torchopt", "higher": "higher"}


def available() -> tuple[dict[str, Callable[[Case], Iterable[Entrant]]], dict[str, str]]:
    """The peers that can be imported, and for every peer its version or why it is missing."""
    found, states = {}, {}
    warnings.filterwarnings("ignore", message=".*functorch.*")  # TorchOpt calls it by its old name
    for name, package in _PACKAGES.items():
        try:
            found[name] = importlib.import_module(f"benchmarks.peers.{package}").entrants
            states[name] = version(package)
        except (ImportError, RuntimeError) as error:
            states[name] = f"not available ({error})"[:90]
    return found, states
