"""Hyperparameters as one vector, and draws at points of its space."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from bestresponse.hyper import Bounded
from bestresponse.response._draw import Draw


class Points:
    """The unconstrained space of hyperparameters, (h,).

    Args:
        hyper: the hyperparameters.
    """

    def __init__(self, hyper: Bounded) -> None:
        self._hyper = hyper
        self.read: set[str] = set()

    @property
    def size(self) -> int:
        """Numbers in λ."""
        return sum(raw.numel() for raw in self._hyper.raws().values())

    def live(self, given: Mapping[str, Tensor] | None = None) -> Tensor:
        """λ as it is, (h,), differentiable; with other values of some of its parts."""
        raws = self._hyper.raws()
        return torch.cat([(given or {}).get(name, raw).reshape(-1) for name, raw in raws.items()])

    def noise(self, rows: int, shared: Iterable[str]) -> Tensor:
        """ε, (rows, h), the same in all rows for the hyperparameters that are shared."""
        raw = self.live().detach()
        noise = torch.randn(rows, len(raw), dtype=raw.dtype, device=raw.device)
        for name in shared:
            start, end, _ = self._slices()[name]
            noise[:, start:end] = noise[:1, start:end]
        return noise

    def draw(self, point: Tensor, gates: Tensor | None) -> Draw:
        """The values at `point`, (rows, h), as constants: no gradient goes through a mask."""
        slices = self._slices()

        def value(name: str) -> Tensor:
            start, end, shape = slices[name]
            rows = point[:, start:end].detach().reshape(len(point), *shape)
            return self._hyper.constrain(name, rows).detach()

        return Draw([*slices], value, gates, self.read)

    def unread(self) -> list[str]:
        """The hyperparameters that nobody asked any draw for."""
        return [name for name in self._hyper.raws() if name not in self.read]

    def _slices(self) -> dict[str, tuple[int, int, torch.Size]]:
        """Where each hyperparameter is in λ, and its shape."""
        found, start = {}, 0
        for name, raw in self._hyper.raws().items():
            found[name] = (start, start + raw.numel(), raw.shape)
            start += raw.numel()
        return found
