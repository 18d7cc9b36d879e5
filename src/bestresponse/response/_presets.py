"""The settings of the paper, and those of its released code, which differ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from bestresponse.response._forms import MLP, Affine, Form
from bestresponse.response._sampling import Global, Local, Sampling, Simplified


@dataclass(frozen=True)
class Preset:
    """How a hypernetwork is made and trained.

    Where the paper writes N(m, s), s is read as a variance.

    Attributes:
        form: of the hypernetwork.
        sampling: of λ.
        samples: of λ a step.
        optimizer: of φ.
        lr: of φ.
        hyper_optimizer: of λ.
        hyper_lr: of λ.
        std: deviation of the initial φ.

    Source: Lorraine, Duvenaud, "Stochastic Hyperparameter Optimization through Hypernetworks"
    (2018), https://arxiv.org/abs/1802.09419; code at github.com/lorraine2/hypernet-hypertraining

    Example:
        >>> CODE_GLOBAL.settings["samples"], CODE_GLOBAL.optimizer.__name__
        (10, 'Adam')
    """

    form: Form
    sampling: Sampling
    samples: int
    optimizer: type[torch.optim.Optimizer]
    lr: float
    hyper_optimizer: type[torch.optim.Optimizer]
    hyper_lr: float
    std: float | None = 0.01

    @property
    def settings(self) -> dict[str, Any]:
        """Of the network: `HyperNetwork(params, hyper, inner, outer, **preset.settings)`."""
        return {
            "form": self.form,
            "sampling": self.sampling,
            "samples": self.samples,
            "centred": False,
            "std": self.std,
        }


_Adam, _SGD = torch.optim.Adam, torch.optim.SGD

PAPER_GLOBAL = Preset(MLP((50,)), Global(0.0, math.sqrt(1.5)), 2, _Adam, 1e-4, _Adam, 1e-4)
"""Algorithm 2 as the paper describes it."""

PAPER_LOCAL = Preset(Affine(), Local(math.sqrt(1e-5)), 2, _Adam, 1e-4, _Adam, 1e-4)
"""Algorithm 3 as the paper describes it."""

CODE_GLOBAL = Preset(
    MLP((50,)), Global(1.0, 3.0, low=-100.0, high=4.0), 10, _Adam, 1e-4, _Adam, 1e-4
)
"""Algorithm 2 as it was released."""

CODE_LOCAL = Preset(Affine(), Simplified(), 1, _SGD, 1e-4, _Adam, 1e-2)
"""What was released as Algorithm 3; its σ is 0, which makes it Algorithm 4."""
