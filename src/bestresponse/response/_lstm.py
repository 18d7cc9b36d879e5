"""An LSTM that responds to hyperparameters."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from bestresponse._errors import InputError
from bestresponse.response._layer import ResponseLayer

States = tuple[Tensor, Tensor]


class LSTM(ResponseLayer):
    """An LSTM whose maps from input and from state to the gates are response layers of one z.

    With a z for each example the steps are taken one by one, since no kernel gates inside; with
    one z for all, or without, it is PyTorch's own LSTM at the weights W + diag(V z) W'. Where the
    network drops recurrent weights, W and W' lose the same ones.

    Args:
        plain: the layer, kept as it is; of one direction, without projections.
        hyper: numbers in z.
        gate_std: the entries of V start with this deviation.

    Raises:
        InputError: for another kind of LSTM.

    Source: MacKay, Vicol, Lorraine, Duvenaud, Grosse, "Self-Tuning Networks" (2019), appendix,
    https://arxiv.org/abs/1903.03088

    Example:
        >>> layer = LSTM(nn.LSTM(3, 4), hyper=2)
        >>> y, (h, c) = layer(torch.zeros(5, 2, 3), torch.zeros(2, 2))  # (time, examples, inputs)
        >>> y.shape, h.shape
        (torch.Size([5, 2, 4]), torch.Size([1, 2, 4]))
    """

    def __init__(self, plain: nn.LSTM, hyper: int, gate_std: float = 0.01) -> None:
        if plain.bidirectional or plain.proj_size:
            raise InputError(
                "An LSTM of two directions or with projections has no response layer; leave it "
                "plain."
            )
        super().__init__(plain, hyper, plain.hidden_size**-0.5, gate_std)
        self.rate: str | None = None

    def forward(
        self, x: Tensor, states: States | Tensor | None = None, z: Tensor | None = None
    ) -> tuple[Tensor, States]:
        """Outputs and last states, in the shapes of `nn.LSTM`.

        Args:
            x: (time, examples, inputs), or (examples, time, inputs) with `batch_first`.
            states: h and c, each (layers, examples, width); or z in their place.
            z: (examples, h) or (1, h); None takes it from the network that the layer is in.

        Raises:
            InputError: for something else than one tensor with a batch.
        """
        if isinstance(states, Tensor):
            states, z = None, states
        if not isinstance(x, Tensor) or x.ndim != 3:
            raise InputError("A response LSTM takes one tensor of three dimensions; pad sequences.")
        z = self._now(z)
        stepwise = self.slot is not None and self.slot.forward_mode
        masks = self._masks()
        if z is None or (len(z) == 1 and not stepwise):
            return self._whole(x, states, z, masks)
        plain = self.plain
        assert isinstance(plain, nn.LSTM)
        if plain.batch_first:
            x = x.transpose(0, 1)
        if states is None:
            zeros = x.new_zeros(plain.num_layers, x.shape[1], plain.hidden_size)
            states = zeros, zeros
        last = []
        for layer in range(plain.num_layers):
            if layer and plain.dropout:
                x = F.dropout(x, plain.dropout, self.training)
            x, ended = self._layer(layer, x, (states[0][layer], states[1][layer]), z, masks)
            last.append(ended)
        h, c = (torch.stack(each) for each in zip(*last, strict=True))
        return x.transpose(0, 1) if plain.batch_first else x, (h, c)

    def _whole(
        self, x: Tensor, states: States | None, z: Tensor | None, masks: dict[str, Tensor]
    ) -> tuple[Tensor, States]:
        """By PyTorch's kernel."""
        if z is None and not masks:
            ended: tuple[Tensor, States] = self.plain(x, states)
            return ended
        weights = dict(self._elementary()) if z is None else self.explicit(z[0])
        weights |= {name: weights[name] * mask for name, mask in masks.items()}
        with _differentiable(x, self.training):
            ended = functional_call(self.plain, weights, (x, states))
        return ended

    def _layer(
        self, layer: int, x: Tensor, states: States, z: Tensor, masks: dict[str, Tensor]
    ) -> tuple[Tensor, States]:
        """One layer step by step; x is (time, examples, inputs)."""
        ih, hh = f"weight_ih_l{layer}", f"weight_hh_l{layer}"
        elementary = dict(self._elementary())
        fed = F.linear(x, elementary[ih])
        fed = self._gated(fed, self._rows(ih, z), F.linear(x, self.response[ih]))
        for name in (f"bias_ih_l{layer}", f"bias_hh_l{layer}"):
            if name in elementary:
                fed = fed + elementary[name] + self._rows(name, z) * self.response[name]
        mask = masks.get(hh, 1.0)
        both = torch.cat([elementary[hh] * mask, self.response[hh] * mask])
        gate, (h, c), outputs = self._rows(hh, z), states, []
        for step in fed.unbind():
            own, response = F.linear(h, both).chunk(2, -1)
            i, f, g, o = self._gated(step + own, gate, response).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs), (h, c)

    def _rows(self, name: str, z: Tensor) -> Tensor:
        """The gates of a parameter, (examples, 4·width)."""
        return z.to(self.gate[name]) @ self.gate[name].T

    def _masks(self) -> dict[str, Tensor]:
        """Of the recurrent weights that are dropped, the same for the whole batch."""
        if not self.training or self.rate is None or self.slot is None:
            return {}
        masks = {}
        for name, weight in self._elementary():
            if name.startswith("weight_hh"):
                keep = 1 - self.slot.draw[self.rate][0].detach().to(weight)
                masks[name] = (torch.rand_like(weight) < keep).to(weight.dtype) / keep
        return masks


def _differentiable(x: Tensor, training: bool) -> AbstractContextManager[None]:
    """The kernel of cuDNN has no backward pass in eval mode."""
    if x.is_cuda and not training:
        switched: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=False)
        return switched
    return nullcontext()
