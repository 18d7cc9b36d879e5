"""An embedding that responds to hyperparameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bestresponse._errors import InputError
from bestresponse.response._layer import ResponseLayer

_BOUND = 0.1


class Embedding(ResponseLayer):
    """Rows E[i] + (V z) ⊙ E'[i], gated by embedding dimension.

    Args:
        plain: the layer, kept as it is.
        hyper: numbers in z.
        gate_std: the entries of V start with this deviation.

    Raises:
        InputError: for an embedding that changes its table as it is read (`max_norm`).

    Source: MacKay, Vicol, Lorraine, Duvenaud, Grosse, "Self-Tuning Networks" (2019), appendix,
    https://arxiv.org/abs/1903.03088

    Example:
        >>> layer = Embedding(nn.Embedding(3, 2), hyper=1)
        >>> layer(torch.tensor([[0, 2], [1, 1]]), torch.zeros(2, 1)).shape
        torch.Size([2, 2, 2])
    """

    def __init__(self, plain: nn.Embedding, hyper: int, gate_std: float = 0.01) -> None:
        if plain.max_norm is not None:
            raise InputError(
                "An Embedding with max_norm has no response layer; leave max_norm out, or the "
                "layer plain."
            )
        super().__init__(plain, hyper, _BOUND, gate_std, axis=1)
        self.rate: str | None = None
        if plain.padding_idx is not None:
            with torch.no_grad():
                self.response["weight"][plain.padding_idx].zero_()

    def forward(self, tokens: Tensor, z: Tensor | None = None) -> Tensor:
        """The rows, (examples, …, dimension).

        Args:
            tokens: int64 (examples, …).
            z: (examples, h) or (1, h); None takes it from the network that the layer is in.

        Raises:
            InputError: for another number of examples or hyperparameters.
        """
        z = self._now(z)
        rows = self.plain(tokens)
        if z is not None:
            gate = self.gates("weight", z, tokens.shape)
            rows = self._gated(rows, gate, self._rows(tokens))
        return self._dropped(rows, tokens)

    def _rows(self, tokens: Tensor) -> Tensor:
        plain = self.plain
        assert isinstance(plain, nn.Embedding)
        return F.embedding(
            tokens,
            self.response["weight"],
            plain.padding_idx,
            scale_grad_by_freq=plain.scale_grad_by_freq,
            sparse=plain.sparse,
        )

    def _dropped(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """Without some words, the same for the whole batch."""
        if not self.training or self.rate is None or self.slot is None:
            return rows
        keep = 1 - self.slot.draw[self.rate][0].detach().to(rows)
        plain = self.plain
        assert isinstance(plain, nn.Embedding)
        mask = torch.rand(plain.num_embeddings, dtype=rows.dtype, device=rows.device) < keep
        return rows * (mask[tokens].to(rows.dtype) / keep)[..., None]
