"""What a run of the benchmarks was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Options:
    """How much to measure, and whom to tell.

    Attributes:
        rounds: timings of each figure.
        trial: a part of everything, to see whether it runs; nothing is written.
        peers: the peers' wrappers by name, those that could be imported.
        say: told what is being done.
        notice: told what the reader should know.
    """

    rounds: int
    trial: bool
    peers: Mapping[str, ModuleType]
    say: Callable[[str], None]
    notice: Callable[[str], None]
