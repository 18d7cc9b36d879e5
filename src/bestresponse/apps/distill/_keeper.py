"""What a run of `distill` has finished and where it stands, kept so that it can go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import bestresponse as br
from bestresponse._errors import InputError
from bestresponse.apps._interrupt import Interrupted, Wish
from bestresponse.apps._progress import Reporter
from bestresponse.apps._run import RunFolder

State = dict[str, Any]
"""Tensors, numbers, words, lists and dicts: what a checkpoint may hold."""


class Stretch:
    """A long piece of work, which says how far it is and can be left off after any step.

    This one nobody watches.

    Args:
        saved: the state where an earlier process left off; None at the beginning.
    """

    def __init__(self, saved: State | None = None) -> None:
        self.saved = saved

    def step(self, done: int, note: str, state: Callable[[], State]) -> None:
        """So many steps are done.

        Args:
            done: how many.
            note: a few figures.
            state: gives all that is needed to go on from here.
        """

    def memory(self) -> int | None:
        """The peak of the processes that worked on it, in bytes, as far as it is known."""
        return None


@contextmanager
def restoring() -> Iterator[None]:
    """Say it plainly when what was saved does not fit what it is put into."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(
            "The checkpoint does not fit the run; it is damaged, or the model's file has changed."
        ) from error


class Keeper:
    """Finished parts of a run by name, and the state of the one that runs.

    Args:
        folder: of the run; its checkpoint is read and written.
        wish: whether someone wants the run to stop.
        hint: the command that continues it.
        seconds: between two checkpoints.
    """

    def __init__(self, folder: RunFolder, wish: Wish, hint: str, seconds: float) -> None:
        self._folder, self._wish, self._hint, self._seconds = folder, wish, hint, seconds
        saved = folder.load_checkpoint() or {"parts": {}, "left": None, "done": 0}
        folder.cut_metrics()
        with restoring():
            self._parts: dict[str, State] = saved["parts"]
            self._left: State | None = saved["left"]
            self.done: int = saved["done"]
        self._last = time.perf_counter()
        self.reporter: Reporter | None = None

    def once(self, name: str, work: Callable[[Stretch], State], before: int, steps: int) -> State:
        """What `work` gives, or gave before an interruption.

        Args:
            name: tells this part from the others.
            work: does it.
            before: steps of the run that lie behind.
            steps: that it has at the most.
        """
        if name not in self._parts:
            left = self._left if self._left and self._left["name"] == name else None
            self._parts[name] = work(_Kept(self, name, before, steps, left))
            self._save(None)
            self._stop_if_asked()
        return self._parts[name]

    def after(self, left: Callable[[], State], done: int, note: str) -> None:
        """Report, and keep the state if it is time or someone asked."""
        self.done = done
        if self.reporter is not None:
            self.reporter.update(done, note)
        if self._wish.to_stop or time.perf_counter() - self._last > self._seconds:
            self._save(left())
        self._stop_if_asked()

    def _save(self, left: State | None) -> None:
        self._left = left
        self._folder.save_checkpoint({"parts": self._parts, "left": left, "done": self.done})
        self._last = time.perf_counter()

    def _stop_if_asked(self) -> None:
        if self._wish.signal_number is not None:
            raise Interrupted(self._wish.signal_number, self._hint)


class _Kept(Stretch):
    """A stretch of a run."""

    def __init__(
        self, keeper: Keeper, name: str, before: int, steps: int, left: State | None
    ) -> None:
        super().__init__(None if left is None else left["state"])
        self._keeper, self._name, self._before, self._steps = keeper, name, before, steps
        self._memory = None if left is None else left["memory"]
        self._peak = br.diagnostics.PeakMemory()

    def step(self, done: int, note: str, state: Callable[[], State]) -> None:
        """Report, and leave off if asked."""
        done = self._before + min(done, self._steps)  # a line search may end a few steps late

        def left() -> State:
            return {"name": self._name, "memory": self.memory(), "state": state()}

        self._keeper.after(left, done, f"{self._name}: {note}")

    def memory(self) -> int | None:
        """The highest of all processes."""
        level = self._peak.level()
        return level if level is None or self._memory is None else max(level, self._memory)
