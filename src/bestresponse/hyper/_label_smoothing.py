"""Label smoothing whose strength is a hyperparameter."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bestresponse._errors import InputError


class LabelSmoothing(nn.Module):
    """Cross-entropy with targets (1 − ε)·one-hot + ε/classes, differentiable in ε.

    ε = σ(raw) lies in (0, 1). PyTorch's own `cross_entropy` takes ε as a number only.

    Args:
        init: initial ε.

    Raises:
        InputError: if `init` is not between 0 and 1.

    Source: Szegedy et al., "Rethinking the Inception Architecture" (2016),
    https://arxiv.org/abs/1512.00567

    Example:
        >>> smoothing = LabelSmoothing(init=0.2)
        >>> logits, labels = torch.tensor([[0.0, 0.0]]), torch.tensor([1])
        >>> round(smoothing(logits, labels).item(), 4)  # log 2, whatever ε is
        0.6931
    """

    def __init__(self, init: float = 0.1) -> None:
        super().__init__()
        if not 0 < init < 1:
            raise InputError(f"init={init} is no label smoothing; give a number between 0 and 1.")
        self.raw = nn.Parameter(torch.logit(torch.tensor(float(init))))

    @property
    def strength(self) -> Tensor:
        """ε, a scalar."""
        return torch.sigmoid(self.raw)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each example: logits (b, classes) and labels (b,) to (b,)."""
        logs = F.log_softmax(logits, dim=1)
        right = F.nll_loss(logs, labels, reduction="none")
        return (1 - self.strength) * right - self.strength * logs.mean(1)

    def extra_repr(self) -> str:
        """The strength now."""
        return f"strength={self.strength.item():.3g}"
