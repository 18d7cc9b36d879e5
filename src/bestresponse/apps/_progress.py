"""Progress: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

_SECONDS_BETWEEN_LINES = 5.0


class Reporter(Protocol):
    """Where a run says how far it is."""

    def update(self, done: int, note: str) -> None:
        """`done` steps of the total, and a few figures."""
        ...


class _Pace:
    """Steps a second and time left, from this process's own steps."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self._first, self._start = total, done, time.perf_counter()

    def __call__(self, done: int, note: str) -> str:
        """The pace, once there is one, and the note."""
        rate = (done - self._first) / max(time.perf_counter() - self._start, 1e-9)
        if not rate:
            return note
        pace = f"{rate:,.0f}" if rate >= 1 else f"{rate:.2g}"
        return f"{pace} steps/s, {_clock((self.total - done) / rate)} left, {note}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _Bar:
    def __init__(self, progress: Progress, task: TaskID, pace: _Pace) -> None:
        self._progress, self._task, self._pace = progress, task, pace

    def update(self, done: int, note: str) -> None:
        self._progress.update(self._task, completed=done, note=self._pace(done, note))


class _Lines:
    def __init__(self, console: Console, pace: _Pace) -> None:
        self._console, self._pace, self._last = console, pace, time.perf_counter()

    def update(self, done: int, note: str) -> None:
        if time.perf_counter() - self._last < _SECONDS_BETWEEN_LINES and done < self._pace.total:
            return
        self._last = time.perf_counter()
        words = self._pace(done, note)
        self._console.print(f"step {done}/{self._pace.total}, {words}", soft_wrap=True)


@contextmanager
def reporting(console: Console, total: int, done: int = 0) -> Iterator[Reporter]:
    """A reporter for `total` steps of which `done` lie behind."""
    pace = _Pace(total, done)
    if not console.is_terminal:
        yield _Lines(console, pace)
        return
    columns = (
        SpinnerColumn(),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bar(progress, progress.add_task("", total=total, completed=done, note=""), pace)
