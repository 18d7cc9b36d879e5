"""How far hyperparameters are perturbed, learned."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bestresponse._errors import InputError
from bestresponse._modules import escape
from bestresponse.hyper import Bounded

_ENTROPY_OF_ONE = 0.5 * math.log(2 * math.pi * math.e)


class Perturbation(nn.Module):
    """Standard deviations σ = log(1 + eʳᵃʷ) of normal noise on unconstrained hyperparameters.

    Args:
        hyper: whose entries are perturbed, each with a deviation of its own.
        sigma: initial σ, one number, or one by name.

    Raises:
        InputError: for a σ that is not positive, or for no such hyperparameter.

    Source: MacKay, Vicol, Lorraine, Duvenaud, Grosse, "Self-Tuning Networks" (2019), section 3.3,
    https://arxiv.org/abs/1903.03088

    Example:
        >>> scales = Perturbation(Bounded(dropout=(0.0, 1.0, 0.5)), sigma=1.0)
        >>> round(scales.entropy().item(), 4)  # ½ log(2πe)
        1.4189
    """

    def __init__(self, hyper: Bounded, sigma: float | Mapping[str, float] = 0.5) -> None:
        super().__init__()
        raws = hyper.raws()
        by_name = dict(sigma) if isinstance(sigma, Mapping) else dict.fromkeys(raws, sigma)
        if by_name.keys() != raws.keys():
            raise InputError(
                f"sigma names {', '.join(by_name) or 'nothing'} but the hyperparameters are "
                f"{', '.join(raws)}; give one number, or one for each of them."
            )
        for name, value in by_name.items():
            if not 0 < value < math.inf:
                raise InputError(
                    f"sigma={value} of '{name}' must be positive: without a spread no response "
                    "can be learned; 0.5 is usual."
                )
        self._names = tuple(raws)
        self.raw = nn.ParameterDict(
            {
                escape(name): nn.Parameter(torch.full_like(raw, _inverse_softplus(by_name[name])))
                for name, raw in raws.items()
            }
        )

    def sigma(self) -> dict[str, Tensor]:
        """The deviations by name, differentiable."""
        return {name: F.softplus(self.raw[escape(name)]) for name in self._names}

    def flat(self) -> Tensor:
        """The deviations of all entries, (h,), in the order of the hyperparameters."""
        return torch.cat([value.reshape(-1) for value in self.sigma().values()])

    def entropy(self) -> Tensor:
        """Σ log(σ √(2πe)), a scalar: of the noise in the unconstrained space."""
        return (torch.log(self.flat()) + _ENTROPY_OF_ONE).sum()

    def extra_repr(self) -> str:
        """The deviations now."""
        means = {name: float(value.detach().mean()) for name, value in self.sigma().items()}
        return ", ".join(f"{name}={value:.3g}" for name, value in means.items())


def _inverse_softplus(value: float) -> float:
    return value + math.log(-math.expm1(-value))
