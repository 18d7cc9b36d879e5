"""A convolution that responds to hyperparameters."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from bestresponse._errors import InputError
from bestresponse.response._layer import ResponseLayer


class Conv2d(ResponseLayer):
    """A convolution plus (V_w z) ⊙ conv(x; W') + (V_b z) ⊙ b', gated by output channel.

    Args:
        plain: the layer, kept as it is; padded with zeros.
        hyper: numbers in z.
        gate_std: the entries of V start with this deviation.

    Raises:
        InputError: for another padding.

    Source: MacKay, Vicol, Lorraine, Duvenaud, Grosse, "Self-Tuning Networks" (2019), section 3,
    https://arxiv.org/abs/1903.03088

    Example:
        >>> import torch
        >>> layer = Conv2d(nn.Conv2d(1, 1, 1, bias=False), hyper=1)
        >>> _ = nn.init.ones_(layer.plain.weight), nn.init.ones_(layer.response["weight"])
        >>> _ = nn.init.ones_(layer.gate["weight"])  # so that y = (1 + z) x
        >>> layer(torch.ones(2, 1, 1, 2), torch.tensor([[0.0], [0.5]])).detach().flatten(1)
        tensor([[1.0000, 1.0000],
                [1.5000, 1.5000]])
    """

    def __init__(self, plain: nn.Conv2d, hyper: int, gate_std: float = 0.01) -> None:
        if plain.padding_mode != "zeros":
            raise InputError(
                f"Conv2d with padding_mode='{plain.padding_mode}' has no response layer; pad with "
                "zeros, or leave the layer plain."
            )
        super().__init__(plain, hyper, plain.weight[0].numel() ** -0.5, gate_std)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """The outputs (examples, channels, height, width).

        Args:
            x: (examples, channels, height, width).
            z: (examples, h) or (1, h); None takes it from the network that the layer is in.

        Raises:
            InputError: for another number of examples or hyperparameters.
        """
        z = self._now(z)
        if z is None:
            return self.plain(x)
        if len(z) == 1:
            weights = self.explicit(z[0])
            return self._conv(x, weights["weight"], weights.get("bias"))
        leading = x.shape[:1]
        gate = self.gates("weight", z, leading)[..., None, None]
        y = self._gated(self.plain(x), gate, self._conv(x, self.response["weight"], None))
        if "bias" not in self.response:
            return y
        bias = self.gates("bias", z, leading) * self.response["bias"]
        return y.add_(bias[..., None, None])  # nothing keeps y: no further copy of the maps

    def _conv(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        plain = self.plain
        assert isinstance(plain, nn.Conv2d)
        return F.conv2d(x, weight, bias, plain.stride, plain.padding, plain.dilation, plain.groups)
