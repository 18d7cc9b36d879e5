"""Regression with a bounded slope."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bestresponse import jacnet
from bestresponse._errors import InputError
from bestresponse.apps.estimators._additive import Additive, table_over
from bestresponse.apps.estimators._regressor import Regressor


class LipschitzRegressor(Regressor):
    """Regression whose prediction changes by at most `bound` times the distance of the features.

    Additive, each feature by a `jacnet.Lipschitz1d` of bound/√p, so that the gradient's length is
    at most the bound, in the units of the data.

    Parameters:
        bound: the Lipschitz constant.
        hidden: hidden units of each network.
        knots: of each slope.
        iterations: of L-BFGS.
        alpha: of a penalty alpha·Σw² on the networks' weights.
        random_state: of the initial weights.

    Example:
        >>> X = np.linspace(-2, 2, 40)[:, None]
        >>> model = LipschitzRegressor(bound=1.0, iterations=50).fit(X, np.abs(3 * X[:, 0]))
        >>> bool(np.abs(np.diff(model.predict(X)) / np.diff(X[:, 0])).max() <= 1 + 1e-9)
        True
    """

    def __init__(
        self,
        bound: float = 1.0,
        *,
        hidden: int = 32,
        knots: int = 65,
        iterations: int = 100,
        alpha: float = 1e-6,
        random_state: Any = 0,
    ) -> None:
        self.bound = bound
        self.hidden = hidden
        self.knots = knots
        self.iterations = iterations
        self.alpha = alpha
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> LipschitzRegressor:
        """Train on (n, p) features and (n,) targets."""
        if not 0 < self.bound < float("inf"):
            raise InputError(f"bound={self.bound} must be positive, and finite.")
        return self._fit(X, y, shared=True)

    def __sklearn_tags__(self) -> Any:
        """A bound that is too tight for the data fits it poorly, as it should."""
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True
        return tags

    def _model(self, x: Tensor) -> Additive:
        count = x.shape[1]
        unit = float(self.scale_x_.spread[0] / self.scale_y_.spread[0])
        limit = self.bound * unit / count**0.5
        parts = jacnet.Lipschitz1d(
            count, slope=jacnet.Interval(-limit, limit), table=table_over(x, self.knots),
            hidden=self.hidden,
        )  # fmt: skip
        return Additive(parts, torch.ones(count), list(range(count)), [])

    def inverse_predict(self, y: Any) -> np.ndarray:
        """There is none: a Lipschitz function may take a value twice."""
        raise InputError(
            "LipschitzRegressor need not be one to one; use MonotoneRegressor to invert it."
        )
