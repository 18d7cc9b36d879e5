"""One function in one dimension for each feature, added up."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from bestresponse import jacnet
from bestresponse._errors import InputError

_MARGIN = 0.5  # of the data's range that the table of a slope reaches beyond it


class Additive(nn.Module):
    """Σ fᵢ(xᵢ; the rest): one function in one dimension for each constrained feature."""

    signs: Tensor
    parts: jacnet.Structure

    def __init__(
        self, parts: jacnet.Structure, signs: Tensor, chosen: list[int], rest: list[int]
    ) -> None:
        super().__init__()
        self.parts, self.chosen, self.rest = parts, chosen, rest
        self.register_buffer("signs", signs)

    def forward(self, x: Tensor) -> Tensor:
        """(n, p) to (n,)."""
        context = x[:, self.rest] if self.rest else None
        return self.parts(x[:, self.chosen] * self.signs, context).sum(-1)


def table_over(x: Tensor, knots: int) -> jacnet.Knots:
    """Over the data's range, and half as much on both sides."""
    low, high = float(x.min()), float(x.max())
    margin = _MARGIN * (high - low) + 1e-3
    return jacnet.Knots(low - margin, high + margin, knots)


def check_range(values: np.ndarray, ends: np.ndarray | None) -> None:
    assert ends is not None
    outside = np.flatnonzero((values < ends[0]) | (values > ends[-1]))
    if len(outside):
        first = outside[0]
        raise InputError(
            f"Value number {first}, {values[first]:.6g}, lies outside of the range that the data "
            f"covers, {ends[0]:.6g} to {ends[-1]:.6g}; pass extrapolate=True to go beyond it."
        )
