"""What response layers share: a plain layer, its response, and the gates between them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bestresponse._errors import InputError
from bestresponse.response._draw import Slot, spread
from bestresponse.response._linearized import with_tangent


class ResponseLayer(nn.Module):
    """A layer whose weights are W + diag(V z) W' at the hyperparameters z.

    `plain` keeps the layer as it was given, with W. Each of its parameters gets a response W' of
    its shape and a matrix V, which turns z into one gate for each of the layer's outputs.

    Args:
        plain: the layer, kept as it is.
        hyper: numbers in z.
        bound: W' starts evenly in ±bound.
        gate_std: V starts normal with this deviation; 0 makes the response start at nothing.
        axis: dimension of W that counts outputs.
    """

    slot: Slot | None

    def __init__(
        self, plain: nn.Module, hyper: int, bound: float, gate_std: float, axis: int = 0
    ) -> None:
        super().__init__()
        if hyper < 1:
            raise InputError(f"hyper={hyper} leaves nothing to respond to; give 1 or more.")
        self.plain, self.hyper, self._axis = plain, hyper, axis
        self.slot = None
        self.response, self.gate = nn.ParameterDict(), nn.ParameterDict()
        for name, weight in plain.named_parameters():
            dim = axis if weight.ndim > 1 else 0
            gates = weight.new_zeros(weight.shape[dim], hyper)
            self.response[name] = nn.Parameter(torch.empty_like(weight).uniform_(-bound, bound))
            self.gate[name] = nn.Parameter(gates.normal_(std=gate_std) if gate_std else gates)

    def explicit(self, z: Tensor) -> dict[str, Tensor]:
        """The weights W + diag(V z) W' by name.

        Args:
            z: (h,).
        """
        return {name: self._explicit(name, weight, z) for name, weight in self._elementary()}

    def half_squares(self, z: Tensor | None, rates: Tensor) -> Tensor:
        """The mean over the rows of ½ rate ‖W + diag(V z) W'‖², biases left out; a scalar.

        The weights of a row are never written out: with g = V z of entry j it is
        ½ Σ_j mean(rate)‖W_j‖² + 2 mean(rate g_j)⟨W_j, W'_j⟩ + mean(rate g_j²)‖W'_j‖².

        Args:
            z: (rows, h), or None for ½ rate ‖W‖².
            rates: (rows,), or (1,) for all rows.
        """
        parts = [
            self._half_square(name, weight, z, rates)
            for name, weight in self._elementary()
            if weight.ndim > 1
        ]
        return torch.stack(parts).sum()

    def gates(self, name: str, z: Tensor, leading: torch.Size) -> Tensor:
        """V z for each example, as it broadcasts to the outputs of the parameter `name`."""
        rows = z.to(self.gate[name]) @ self.gate[name].T
        return spread(rows, leading, self.slot.batch_dim if self.slot else 0)

    def response_parameters(self) -> list[nn.Parameter]:
        """W' and V."""
        return [*self.response.values(), *self.gate.values()]

    def squares(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """‖diag(V σ_k) W'‖² summed over hyperparameters k, and ‖W‖²."""
        moved = own = torch.zeros(())
        for name, weight in self._elementary():
            gates = (self.gate[name] * sigma.to(weight)).square().sum(1)
            response = _along(gates, weight, self._axis) * self.response[name].square()
            moved, own = moved + response.sum().cpu(), own + weight.square().sum().cpu()
        return moved, own

    def _now(self, z: Tensor | None) -> Tensor | None:
        """What the gates are fed: what is given, else what the network runs at."""
        if z is None:
            return None if self.slot is None else self.slot.draw.gates
        if z.ndim != 2 or z.shape[1] != self.hyper:
            raise InputError(
                f"z has shape {tuple(z.shape)} but must be (examples, {self.hyper}), or "
                f"(1, {self.hyper}) for all examples."
            )
        return z

    def _gated(self, plain: Tensor, gate: Tensor, response: Tensor) -> Tensor:
        """Plain + gate ⊙ response, with one tensor of their size.

        (`addcmul` would be one kernel, but forward mode runs it in Python.)
        """
        if self.slot is not None and self.slot.forward_mode:
            plain, response = with_tangent(plain), with_tangent(response)
        return (gate * response).add_(plain)

    def _elementary(self) -> Iterator[tuple[str, Tensor]]:
        """W and b, by their names."""
        return ((name, getattr(self.plain, name)) for name in self.response)

    def _explicit(self, name: str, weight: Tensor, z: Tensor) -> Tensor:
        gate = self.gate[name] @ z.to(weight)
        return weight + _along(gate, weight, self._axis) * self.response[name]

    def _half_square(self, name: str, weight: Tensor, z: Tensor | None, rates: Tensor) -> Tensor:
        rates = rates.to(weight)
        if z is None:
            return 0.5 * rates.mean() * weight.square().sum()
        gates = z.to(weight) @ self.gate[name].T
        others = [dim for dim in range(weight.ndim) if dim != self._axis]
        response = self.response[name]
        moments = (
            rates.mean(),
            (rates[:, None] * gates).mean(0),
            (rates[:, None] * gates**2).mean(0),
        )
        products = (weight.square(), 2 * weight * response, response.square())
        terms = [(m * p.sum(others)).sum() for m, p in zip(moments, products, strict=True)]
        return 0.5 * torch.stack(terms).sum()


def _along(gate: Tensor, weight: Tensor, axis: int) -> Tensor:
    """One number for each output, as it broadcasts to the weights."""
    shape = [1] * weight.ndim
    shape[axis if weight.ndim > 1 else 0] = -1
    return gate.view(shape)
