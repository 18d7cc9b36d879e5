"""SIGINT and SIGTERM as a wish to stop, which a run honours between two steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """The run was asked to stop and has written a checkpoint.

    Attributes:
        signal_number: what asked.
        hint: the command that continues.
    """

    def __init__(self, signal_number: int, hint: str) -> None:
        super().__init__(f"Stopped by {signal.Signals(signal_number).name}; continue with: {hint}")
        self.signal_number = signal_number


class Wish:
    """Whether someone wants the run to stop."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number

    @property
    def to_stop(self) -> bool:
        """True from the first signal on."""
        return self.signal_number is not None


@contextmanager
def listening() -> Iterator[Wish]:
    """Collect SIGINT and SIGTERM instead of dying of them; the old handlers come back after."""
    wish = Wish()
    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {number: signal.signal(number, wish) for number in numbers}
    except ValueError:  # not the main thread, where signals cannot be handled
        yield wish
        return
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
