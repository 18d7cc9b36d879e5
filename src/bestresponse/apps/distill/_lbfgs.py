"""L-BFGS within bounds that can be left off and taken up, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

_PAIRS = 20  # that L-BFGS keeps
Bound = tuple[float | None, float | None]


class Tape:
    """Values and gradients so far.

    SciPy's state cannot be kept, but the same answers lead it the same way again.
    """

    def __init__(self, saved: dict[str, Any] | None = None) -> None:
        self.values: list[float] = [] if saved is None else saved["values"]
        self.gradients: list[Tensor] = [] if saved is None else saved["gradients"]

    def state(self) -> dict[str, Any]:
        """All that is needed to go on."""
        return {"values": self.values, "gradients": self.gradients}


def l_bfgs(
    function: Callable[[np.ndarray], tuple[float, Tensor]],
    first: np.ndarray,
    evaluations: int,
    bounds: list[Bound] | None,
    tape: Tape,
    after: Callable[[], None],
) -> None:
    """Make a function small.

    Args:
        function: gives value and gradient at a point.
        first: where to begin.
        evaluations: how many, a few more to end a line search.
        bounds: of each number.
        tape: answers that are there already; new ones go onto it.
        after: called once an evaluation is on the tape.
    """
    asked = 0

    def answered(point: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal asked
        if asked == len(tape.values):
            value, gradient = function(point)
            tape.values.append(value)
            tape.gradients.append(gradient.to(torch.float64))
            asked += 1
            after()
        else:
            asked += 1
        return tape.values[asked - 1], tape.gradients[asked - 1].numpy().copy()

    options = {"maxfun": evaluations, "maxiter": evaluations, "maxcor": _PAIRS, "ftol": 1e-9}
    minimize(answered, first, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
