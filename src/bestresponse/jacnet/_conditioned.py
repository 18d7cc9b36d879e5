"""A context for any structure."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from bestresponse._result import Solution
from bestresponse.jacnet._certificate import Certificate
from bestresponse.jacnet._structure import Structure


class Conditioned(Structure):
    """f(x; c) = g(x + s(c)) + t(c): a structure that a context moves about.

    For each context what is guaranteed of g is guaranteed of f, with the same constants.

    Args:
        structure: g, without a context of its own.
        context: size of c.
        hidden: hidden units of the network of s and t, of one layer or of several.

    Example:
        >>> import torch
        >>> from bestresponse.jacnet import ConvexGradient
        >>> f = Conditioned(ConvexGradient(2), context=3)
        >>> x, c = torch.randn(5, 2), torch.randn(5, 3)
        >>> bool((f.inverse(f(x, c), c).value - x).abs().max() < 1e-4)
        True
    """

    def __init__(
        self, structure: Structure, context: int, hidden: int | Sequence[int] = 32
    ) -> None:
        super().__init__(structure.dim_in, structure.dim_out, context)
        widths = [hidden] if isinstance(hidden, int) else list(hidden)
        layers: list[nn.Module] = []
        for before, after in zip([context, *widths], widths, strict=False):
            layers += [nn.Linear(before, after), nn.Tanh()]
        last = nn.Linear(widths[-1], structure.dim_in + structure.dim_out)
        self.structure, self.shifts = structure, nn.Sequential(*layers, last)

    def _moved(self, context: Tensor | None) -> tuple[Tensor, Tensor]:
        assert context is not None
        before, after = self.shifts(context).split([self.dim_in, self.dim_out], -1)
        return before, after

    def _value(self, x: Tensor, context: Tensor | None) -> Tensor:
        before, after = self._moved(context)
        return self.structure(x + before) + after

    def jacobian(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """That of g, elsewhere."""
        self._check(x, self.dim_in, context)
        return self.structure.jacobian(x + self._moved(context)[0])

    def log_abs_det(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """That of g, elsewhere."""
        self._check(x, self.dim_in, context)
        return self.structure.log_abs_det(x + self._moved(context)[0])

    def inverse(self, y: Tensor, context: Tensor | None = None, *, throw: bool = True) -> Solution:
        """That of g, moved back."""
        self._check_output(y, context)
        before, after = self._moved(context)
        found = self.structure.inverse(y - after, throw=throw)
        return Solution(found.value - before, found.result, found.stats, converged=found.converged)

    def certificate(self) -> Certificate:
        """That of g, for each context."""
        return self.structure.certificate()
