"""Which tensors somebody computes with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from bestresponse._tree import Tree


class Reads(TorchFunctionMode):
    """Notes which tensors of two trees are passed to a function of PyTorch, while it is entered.

    A gradient would not tell: of what is rounded, or sets the rate of a mask, there is none.

    Attributes:
        first: names of those of the first tree.
        second: of the second one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first: set[str] = set()
        self.second: set[str] = set()
        self._watched: dict[int, tuple[set[str], str, Tensor]] = {}

    def look_for(self, first: Tree, second: Tree) -> None:
        """From now on, these tensors."""
        trees = ((self.first, first), (self.second, second))
        self._watched = {
            id(leaf): (found, name, leaf) for found, tree in trees for name, leaf in tree.items()
        }

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func not in _LOOKS:
            for item in _items((*args, *(kwargs or {}).values())):
                if id(item) in self._watched:
                    found, name, _ = self._watched[id(item)]
                    found.add(name)
        return func(*args, **(kwargs or {}))


def _items(values: Iterable[Any]) -> Iterator[Any]:
    """The values, those in lists and tuples too."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _items(value)
        else:
            yield value


_LOOKS = [
    *(getattr(Tensor, name).__get__ for name in (
        "shape", "dtype", "device", "ndim", "requires_grad", "is_leaf", "layout", "grad_fn",
    )),
    Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point,
]  # fmt: skip
"""What tells nothing of a tensor's values."""
