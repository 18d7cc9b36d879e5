"""A linear operator whose products are compiled while it is used."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bestresponse._tree import Space
from bestresponse.operators._base import LinearOperator
from bestresponse.operators._recording import NotRecorded, Recording
from bestresponse.operators._replay import compiled


class Compiled(LinearOperator):
    """The same operator with compiled products, wherever they can be had.

    The first product is an ordinary one. The second is recorded as it runs, operation by
    operation (about 30 µs each). At the third the recording is compiled and compared with the
    first; from there on products are compiled. Where something does not go, a warning says what,
    and products stay ordinary.

    What is compiled is one walk through a retained graph: everything that does not depend on the
    vector (activations, dropout masks, weights, numbers in the closure) has been computed by then
    and goes in as it is, so nothing of it can be stale. No forward pass is compiled, and none
    could be that saw the same masks.

    Milliseconds of processor time, one thread of a CPU (compiling: once a process for one list of
    operations, shapes and numbers):

    | | product | compiled | recording a call | compiling |
    |---|---|---|---|---|
    | MLP 16-32-32-4, 64 rows | 0.50 | 0.17 | 3.5 | 5 000–15 000 |
    | MLP 784-512-512-10, 256 rows | 16.8 | 15.0 | 5 | 1 000–9 000 |
    | two convolutions 1-16-32, 64 images | 17 | 17 | 6 | 2 000–26 000 |

    It pays where products consist of many small operations, from about 14 products a call (first
    row) or 6 (second); where arithmetic dominates, as in convolutions, it does not.

    Args:
        operator: its products run the same operations on the same constants each time.

    Example:
        >>> from bestresponse.operators import Matrix
        >>> matrix = Compiled(Matrix(torch.tensor([[2.0, 0.0], [0.0, 3.0]])))
        >>> matrix.mv(torch.ones(2))
        tensor([2., 3.])
    """

    def __init__(self, operator: LinearOperator) -> None:
        self._operator = operator
        self._product: Callable[[Tensor], Tensor] = self._first

    @property
    def space(self) -> Space:
        """Size, type and device of the flat vectors."""
        return self._operator.space

    def terms(self) -> list[tuple[float, LinearOperator]]:
        """Those of the operator, uncompiled."""
        return self._operator.terms()

    def mv(self, vector: Tensor) -> Tensor:
        """The product with a vector (n,)."""
        return self._product(vector)

    def _first(self, vector: Tensor) -> Tensor:
        product = self._operator.mv(vector)
        # copies: solvers update their vectors in place
        self._product = partial(self._second, (vector.clone(), product.clone()))
        return product

    def _second(self, known: tuple[Tensor, Tensor], vector: Tensor) -> Tensor:
        self._product = self._operator.mv
        try:
            recording = Recording(self._operator.mv, vector.contiguous())
        except Exception as error:  # whatever it is, the ordinary product is still there
            _warn(error)
            return self._operator.mv(vector)
        self._product = partial(self._third, known, recording)
        return recording.value

    def _third(self, known: tuple[Tensor, Tensor], recording: Recording, vector: Tensor) -> Tensor:
        self._product = self._operator.mv
        try:
            product = compiled(recording)
            _check_same(product(known[0]), known[1], recording)
        except Exception as error:
            _warn(error)
        else:
            self._product = product
        return self._product(vector)


def _check_same(found: Tensor, expected: Tensor, recording: Recording) -> None:
    """Refuse code that gives another product than the operator at another vector.

    So would a recording that missed something: a foreign kernel, memory shared with NumPy.
    """
    kinds = {t.dtype for t in (expected, *recording.constants) if t.is_floating_point()}
    tolerance = max(torch.finfo(kind).eps for kind in kinds) ** 0.5
    error, size = float((found - expected).norm()), float(expected.norm())
    if error > tolerance * size:
        raise NotRecorded(
            f"compiled it differs by {error / size if size else error:.1g} from the ordinary one"
        )


def _warn(error: Exception) -> None:
    why = str(error) if isinstance(error, NotRecorded) else f"{type(error).__name__}: {error}"
    warnings.warn(
        f"The curvature product stays uncompiled, since {why}; "
        "change that, or leave out compile=True.",
        stacklevel=2,
    )
