"""Regression that increases or decreases in chosen features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor

from bestresponse import jacnet
from bestresponse._errors import InputError
from bestresponse.apps.estimators._additive import Additive, check_range, table_over
from bestresponse.apps.estimators._regressor import Regressor


class MonotoneRegressor(Regressor):
    """Regression that increases, or decreases, in chosen features: a theorem, not a penalty.

    Additive in the constrained features, each by a `jacnet.Monotone1d` that also sees all
    unconstrained features: no interactions among constrained ones.

    Parameters:
        monotonic_cst: for each feature 1 (increasing), −1 (decreasing) or 0 (free); None is 1 for
            all, as scikit-learn spells it.
        hidden: hidden units of each network.
        knots: of each slope, over the range of the data and half as much on both sides.
        iterations: of L-BFGS.
        alpha: of a penalty alpha·Σw² on the networks' weights.
        random_state: of the initial weights.

    Attributes:
        model_: the structure.
        loss_curve_: mean squared error in units of the target's variance.
        range_: with one feature, the predictions at the ends of the data.

    Example:
        >>> X = np.linspace(0, 3, 30)[:, None]
        >>> model = MonotoneRegressor(iterations=50).fit(X, np.exp(X[:, 0]))
        >>> bool((np.diff(model.predict(X)) > 0).all())
        True
        >>> bool(abs(model.inverse_predict([np.e])[0] - 1) < 0.1)
        True
    """

    def __init__(
        self,
        monotonic_cst: Sequence[int] | None = None,
        *,
        hidden: int = 32,
        knots: int = 65,
        iterations: int = 100,
        alpha: float = 1e-6,
        random_state: Any = 0,
    ) -> None:
        self.monotonic_cst = monotonic_cst
        self.hidden = hidden
        self.knots = knots
        self.iterations = iterations
        self.alpha = alpha
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> MonotoneRegressor:
        """Train on (n, p) features and (n,) targets."""
        return self._fit(X, y, shared=False)

    def _model(self, x: Tensor) -> Additive:
        given = self.monotonic_cst
        signs = [1] * x.shape[1] if given is None else [int(sign) for sign in given]
        if len(signs) != x.shape[1] or not set(signs) <= {-1, 0, 1} or not any(signs):
            raise InputError(
                f"monotonic_cst={given} must hold 1, -1 or 0 for each of the {x.shape[1]} "
                "features, and not only zeros."
            )
        chosen = [i for i, sign in enumerate(signs) if sign]
        rest = [i for i, sign in enumerate(signs) if not sign]
        parts = jacnet.Monotone1d(
            len(chosen),
            slope=jacnet.Softplus(1e-3),
            table=table_over(x[:, chosen] * torch.tensor([signs[i] for i in chosen]), self.knots),
            hidden=self.hidden,
            context=len(rest),
        )
        return Additive(parts, torch.tensor([float(signs[i]) for i in chosen]), chosen, rest)

    def inverse_predict(self, y: Any, *, extrapolate: bool = False) -> np.ndarray:
        """The feature at which each value is predicted, for models of one feature.

        Args:
            y: (n,).
            extrapolate: go on beyond the predictions at the ends of the data, along straight lines.

        Raises:
            InputError: for a value beyond them, or a model of several features.
        """
        check_is_fitted(self)
        if self.n_features_in_ > 1:
            raise InputError(
                f"The model has {self.n_features_in_} features, so that a prediction does not "
                "determine them; fit one of a single feature to invert it."
            )
        values = check_array(y, ensure_2d=False, dtype=np.float64).reshape(-1)
        if not extrapolate:
            check_range(values, self.range_)
        scaled = self.scale_y_(torch.tensor(values)[:, None])
        with torch.no_grad():
            found = self.model_.parts.inverse(scaled)
        return self.scale_x_.back(found.value * self.model_.signs)[:, 0].numpy()
