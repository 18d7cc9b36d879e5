"""A linear layer that responds to hyperparameters."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from bestresponse.response._layer import ResponseLayer


class Linear(ResponseLayer):
    """Outputs W x + b + (V_w z) ⊙ (W' x) + (V_b z) ⊙ b', with z of each example.

    It is W(z) = W + diag(V_w z) W' without ever writing out a matrix for an example: two products
    instead of one. With one z for all examples it is one product with W(z); without z the plain
    layer itself.

    Args:
        plain: the layer, kept as it is.
        hyper: numbers in z.
        gate_std: the entries of V start with this deviation.

    Source: MacKay, Vicol, Lorraine, Duvenaud, Grosse, "Self-Tuning Networks" (2019), section 3,
    https://arxiv.org/abs/1903.03088

    Example:
        >>> import torch
        >>> layer = Linear(nn.Linear(2, 1, bias=False), hyper=1)
        >>> _ = nn.init.ones_(layer.plain.weight), nn.init.ones_(layer.response["weight"])
        >>> _ = nn.init.ones_(layer.gate["weight"])  # so that y = (1 + z)(x₁ + x₂)
        >>> layer(torch.ones(2, 2), torch.tensor([[0.0], [0.5]])).detach()
        tensor([[2.],
                [3.]])
    """

    def __init__(self, plain: nn.Linear, hyper: int, gate_std: float = 0.01) -> None:
        super().__init__(plain, hyper, plain.in_features**-0.5, gate_std)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """The outputs.

        Args:
            x: (examples, …, inputs).
            z: (examples, h) or (1, h); None takes it from the network that the layer is in.

        Raises:
            InputError: for another number of examples or hyperparameters.
        """
        z = self._now(z)
        if z is None:
            return self.plain(x)
        if len(z) == 1:
            weights = self.explicit(z[0])
            return F.linear(x, weights["weight"], weights.get("bias"))
        leading = x.shape[:-1]
        gate = self.gates("weight", z, leading)
        y = self._gated(self.plain(x), gate, F.linear(x, self.response["weight"]))
        if "bias" not in self.response:
            return y
        return y + self.gates("bias", z, leading) * self.response["bias"]
