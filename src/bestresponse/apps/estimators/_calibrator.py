"""Probabilities from scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch.nn import functional as F

from bestresponse import jacnet
from bestresponse._errors import InputError
from bestresponse.apps._fitting import Scale, fit, seeded
from bestresponse.apps.estimators._additive import Additive, check_range, table_over


class Calibrator(ClassifierMixin, BaseEstimator):
    """Probabilities from scores: increasing in each score, smooth, with an inverse.

    P(y = 1 | scores) = σ(Σ fᵢ(scoreᵢ)) with increasing fᵢ: what isotonic regression does by steps
    and Platt's method by a line.

    Parameters:
        hidden: hidden units of each network.
        knots: of each slope.
        iterations: of L-BFGS.
        alpha: of a penalty alpha·Σw² on the networks' weights.
        random_state: of the initial weights.

    Attributes:
        classes_: the two classes.
        range_: with one score, the probabilities at the ends of the data.

    Example:
        >>> scores = np.linspace(-4, 4, 80)[:, None]
        >>> y = (np.random.default_rng(0).random(80) < 1 / (1 + np.exp(-scores[:, 0]))).astype(int)
        >>> p = Calibrator(iterations=50).fit(scores, y).predict_proba(scores)[:, 1]
        >>> bool((np.diff(p) > 0).all())
        True
    """

    def __init__(
        self,
        *,
        hidden: int = 16,
        knots: int = 33,
        iterations: int = 100,
        alpha: float = 1e-4,
        random_state: Any = 0,
    ) -> None:
        self.hidden = hidden
        self.knots = knots
        self.iterations = iterations
        self.alpha = alpha
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        """Two classes only."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.classifier_tags.poor_score = True  # more of a feature never means less of a class
        return tags

    def fit(self, X: Any, y: Any) -> Calibrator:
        """Train on scores (n, p) and classes (n,)."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        if kind != "binary":
            raise ValueError(
                f"Only binary classification is supported. The type of the target is {kind}."
            )
        self.classes_, places = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("Calibrator can't be trained on one class; give examples of both.")
        x, labels = torch.tensor(X), torch.tensor(places, dtype=torch.float64)
        self.scale_ = Scale(x)
        scaled, count = self.scale_(x), x.shape[1]
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.model_ = seeded(seed, lambda: Additive(
            jacnet.Monotone1d(
                count, slope=jacnet.Softplus(1e-3), table=table_over(scaled, self.knots),
                hidden=self.hidden,
            ),
            torch.ones(count), list(range(count)), [],
        ))  # fmt: skip
        self.loss_curve_ = fit(
            list(self.model_.parameters()),
            lambda: F.binary_cross_entropy_with_logits(self.model_(scaled), labels),
            self.iterations,
            alpha=self.alpha,
        )
        ends = torch.stack([x.amin(0), x.amax(0)]).numpy()
        self.range_ = self.predict_proba(ends)[:, 1] if count == 1 else None
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """The calibrated logit of the second class."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        with torch.no_grad():
            return self.model_(self.scale_(torch.tensor(X))).numpy()

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probabilities of both classes, (n, 2)."""
        second = torch.sigmoid(torch.tensor(self.decision_function(X))).numpy()
        return np.stack([1 - second, second], axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """The likelier class."""
        likely = self.decision_function(X) > 0  # refuses what is not fitted
        return self.classes_[likely.astype(int)]

    def inverse_predict(self, probability: Any, *, extrapolate: bool = False) -> np.ndarray:
        """The score at which each probability of the second class is reached, for one score.

        Raises:
            InputError: for a probability outside of the calibrated range, or several scores.
        """
        check_is_fitted(self)
        if self.n_features_in_ > 1:
            raise InputError("A probability does not determine several scores; calibrate one.")
        values = check_array(probability, ensure_2d=False, dtype=np.float64).reshape(-1)
        inside = (values > 0) & (values < 1)
        check_range(values, np.array([0.0, 1.0]) if extrapolate and inside.all() else self.range_)
        with torch.no_grad():
            found = self.model_.parts.inverse(torch.logit(torch.tensor(values))[:, None])
        return self.scale_.back(found.value)[:, 0].numpy()
