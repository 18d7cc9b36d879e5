"""Other libraries' ways of computing the same hypergradients, one file a library."""

from __future__ import annotations

import importlib
import warnings
from importlib.metadata import version
from types import ModuleType

_PACKAGES = {"TorchOpt": "torchopt", "Betty": "betty", "higher": "higher"}
_DISTRIBUTIONS = {"betty": "betty-ml"}


def available() -> tuple[dict[str, ModuleType], dict[str, str]]:
    """The wrappers of the peers that can be imported; of every peer its version or what is wrong.

    A wrapper has `entrants(case)`, to be timed, and `contenders(case, lr)`, to be judged by their
    accuracy, where `lr` is a good step size.
    """
    found, states = {}, {}
    warnings.filterwarnings("ignore", message=".*functorch.*")  # TorchOpt calls it by its old name
    for name, package in _PACKAGES.items():
        try:
            found[name] = importlib.import_module(f"benchmarks.peers.{package}")
            states[name] = version(_DISTRIBUTIONS.get(package, package))
        except (ImportError, RuntimeError) as error:
            states[name] = f"not available ({error})"[:90]
    return found, states
