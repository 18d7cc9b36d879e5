"""The values of hyperparameters that a network runs at, and where its layers find them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor

from bestresponse._errors import InputError


class Draw(Mapping[str, Tensor]):
    """Values of hyperparameters by name, a row for each example or one row for all of them.

    Args:
        names: of the hyperparameters.
        value: gives the value of one of them, (rows, …).
        gates: what the gates of response layers are fed, (rows, h); None turns them off.
        read: collects the names that somebody asked for.
    """

    def __init__(
        self,
        names: Sequence[str],
        value: Callable[[str], Tensor],
        gates: Tensor | None,
        read: set[str],
    ) -> None:
        self._names, self._value, self.gates, self._read = tuple(names), value, gates, read
        self._kept: dict[str, Tensor] = {}

    def at(self, gates: Tensor) -> Draw:
        """The same values, with other gates."""
        return Draw(self._names, self.__getitem__, gates, self._read)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise InputError(
                f"There is no hyperparameter '{name}'; known: {', '.join(self._names)}."
            )
        self._read.add(name)
        if name not in self._kept:
            self._kept[name] = self._value(name)
        return self._kept[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Slot:
    """What the layers of one network share: the draw of now, and how examples are laid out.

    Args:
        rest: makes the draw for when none is held.
        batch_dim: dimension of the layers' inputs that counts examples.
    """

    def __init__(self, rest: Callable[[], Draw], batch_dim: int) -> None:
        self._rest, self.batch_dim = rest, batch_dim
        self._held: Draw | None = None
        self.forward_mode = False

    @property
    def draw(self) -> Draw:
        """The draw that is held, or that of the hyperparameters as they are."""
        return self._rest() if self._held is None else self._held

    @contextmanager
    def holding(self, draw: Draw) -> Iterator[Draw]:
        """Run at `draw`."""
        before, self._held = self._held, draw
        try:
            yield draw
        finally:
            self._held = before


def spread(rows: Tensor, leading: Sequence[int], batch_dim: int) -> Tensor:
    """A row for each example, as it broadcasts to a layer's output.

    Args:
        rows: (n, k), or (1, k) for all examples.
        leading: the output's shape without its last dimension. Where its dimension `batch_dim`
            does not count n, a single dimension of n·t entries holds t steps of each example:
            flattened from (n, t) if `batch_dim` is 0, from (t, n) if it is 1.
        batch_dim: which of them counts examples.

    Raises:
        InputError: if neither is so.
    """
    n, width = rows.shape
    shape = [1] * len(leading) + [width]
    if n == 1:
        return rows.view(shape)
    if batch_dim < len(leading) and leading[batch_dim] == n:
        shape[batch_dim] = n
        return rows.view(shape)
    if len(leading) == 1 and leading[0] % n == 0:
        times = leading[0] // n
        return rows.repeat_interleave(times, 0) if batch_dim == 0 else rows.repeat(times, 1)
    raise InputError(
        f"A layer sees examples as {tuple(leading)} but {n} were drawn; draw as many as there are "
        "in the batch, or set batch_dim to the dimension that counts them."
    )
