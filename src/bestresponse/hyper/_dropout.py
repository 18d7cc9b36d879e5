"""Dropout whose rate has a gradient: the concrete relaxation of its mask."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bestresponse._errors import InputError
from bestresponse._guards import mask_shape


def concrete_mask(logit: Tensor, shape: Sequence[int], temperature: float) -> Tensor:
    """A relaxed dropout mask (1 − z)/(1 − p), z = σ((logit p + logit u)/t) with uniform u.

    It is differentiable in the rate p, any number of times. Its mean over u is
    1 − (π²/6) t² p (1 − 2p) for small temperatures t: at t = 0.1, within 1.7 % of p.

    Args:
        logit: of the rate; it broadcasts to `shape`.
        shape: of the mask; every entry draws its own u, from the global random state.
        temperature: t; the mask tends to Bernoulli's 0 and 1/(1 − p) as t tends to 0.
    """
    uniform = torch.rand(tuple(shape), dtype=logit.dtype, device=logit.device)
    # rand may give 0, whose logit is infinite
    noise = torch.logit(uniform, eps=torch.finfo(logit.dtype).eps / 2)
    # the quotient in logarithms: finite at every rate that a logit can have
    return torch.exp(F.logsigmoid(-(logit + noise) / temperature) - F.logsigmoid(-logit))


class ConcreteDropout(nn.Module):
    """Dropout with its rate as a hyperparameter: x · (1 − z)/(1 − p) in training mode.

    z = σ((logit p + logit u)/t) relaxes a Bernoulli variable of rate p, so that a loss has a
    derivative with respect to p at fixed draws u. In eval mode it is the identity. The logit of
    p is the parameter; it belongs into `hyper`, not among the model's weights.

    Args:
        init: initial rate, a number in (0, 1), or a tensor of the shape `shape`.
        shape: of the rates: `()` for one, `(n,)` for one for each of the n last entries of x.
        temperature: of the relaxation; small is close to dropout, with steep derivatives.

    Raises:
        InputError: for a rate or a temperature out of range.

    Source: Gal, Hron, Kendall, "Concrete Dropout" (2017), https://arxiv.org/abs/1705.07832; the
    relaxation by Maddison, Mnih, Teh (2017), https://arxiv.org/abs/1611.00712 and Jang, Gu, Poole
    (2017), https://arxiv.org/abs/1611.01144

    Example:
        >>> drop = ConcreteDropout(init=0.25)
        >>> x = torch.ones(4, 3)
        >>> drop(x).shape, torch.equal(drop.eval()(x), x)
        (torch.Size([4, 3]), True)
        >>> round(drop.rate.item(), 6)
        0.25
    """

    def __init__(
        self,
        init: float | Tensor = 0.1,
        shape: Sequence[int] = (),
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise InputError(f"temperature={temperature} must be positive; 0.1 is usual.")
        self.temperature = temperature
        self.logit = nn.Parameter(torch.zeros(tuple(shape), dtype=torch.get_default_dtype()))
        self.set(init)

    @property
    def rate(self) -> Tensor:
        """The rates p, differentiable in the logits."""
        return torch.sigmoid(self.logit)

    def set(self, rate: float | Tensor) -> None:
        """Put the rates to one number, or to a tensor of their shape.

        Raises:
            InputError: for a rate that is not in the open interval (0, 1), or another shape.
        """
        exact = torch.as_tensor(rate, dtype=torch.float64).detach()
        if not bool(((exact > 0) & (exact < 1)).all()):
            raise InputError(
                f"A dropout rate of {rate} cannot be tuned: it must be between 0 and 1, "
                "both excluded; 1e-6 is as good as none."
            )
        if exact.ndim and exact.shape != self.logit.shape:
            raise InputError(
                f"The rates have shape {tuple(self.logit.shape)} but got {tuple(exact.shape)}; "
                "give one number, or a tensor of that shape."
            )
        with torch.no_grad():
            self.logit.copy_(torch.logit(exact))

    def mask(self, shape: Sequence[int]) -> Tensor:
        """A mask of that shape, whatever the mode; for weights, and other things than inputs.

        Raises:
            InputError: if the rates do not broadcast to the shape.
        """
        self._check(tuple(shape))
        return concrete_mask(self.logit, shape, self.temperature)

    def forward(self, x: Tensor, *, dims_shared: Sequence[int] = ()) -> Tensor:
        """`x` times a fresh mask in training mode, `x` itself in eval mode.

        Args:
            x: floating-point, of any shape to which the rates broadcast.
            dims_shared: dimensions of x along which one mask serves all entries, such as time
                (locked or variational dropout).

        Raises:
            InputError: if a dimension is not there, or the rates do not broadcast.
        """
        if not self.training:
            return x
        mask = self.mask(mask_shape(x, dims_shared))
        return x * mask.to(x.dtype)

    def _check(self, shape: tuple[int, ...]) -> None:
        """The rates fit if they are aligned with the last dimensions."""
        own = tuple(self.logit.shape)
        fits = len(own) <= len(shape) and all(
            length in (1, size) for length, size in zip(own[::-1], shape[::-1], strict=False)
        )
        if not fits:
            raise InputError(
                f"Rates of shape {own} do not fit a mask of shape {shape}; the last dimensions "
                "must agree, and cannot be shared where each entry has a rate."
            )

    def extra_repr(self) -> str:
        """Shape of the rates and temperature."""
        return f"shape={tuple(self.logit.shape)}, temperature={self.temperature}"
