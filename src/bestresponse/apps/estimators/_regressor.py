"""What the regressors share: scaling, training, prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from bestresponse import jacnet
from bestresponse.apps._fitting import Scale, fit, seeded
from bestresponse.apps.estimators._additive import Additive


class Regressor(RegressorMixin, BaseEstimator, ABC):
    """What both regressors share: scaling, training, the way back."""

    def _fit(self, X: Any, y: Any, *, shared: bool) -> Any:
        X, y = validate_data(self, X, y, y_numeric=True, dtype=np.float64, ensure_min_samples=2)
        x, target = torch.tensor(X), torch.tensor(np.asarray(y, dtype=np.float64))
        self.scale_x_ = Scale(x, shared=shared)
        self.scale_y_ = Scale(target[:, None])
        scaled, wanted = self.scale_x_(x), self.scale_y_(target[:, None])[:, 0]
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.model_ = seeded(seed, lambda: self._model(scaled))
        self.loss_curve_ = fit(
            list(self.model_.parameters()),
            lambda: (self.model_(scaled) - wanted).square().mean(),
            self.iterations,
            alpha=self.alpha,
        )
        ends = torch.stack([x.amin(0), x.amax(0)])
        self.range_ = np.sort(self.predict(ends.numpy())) if x.shape[1] == 1 else None
        return self

    @abstractmethod
    def _model(self, x: Tensor) -> Additive:
        """An untrained one for scaled features."""

    def predict(self, X: Any) -> np.ndarray:
        """F at each row."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        with torch.no_grad():
            values = self.model_(self.scale_x_(torch.tensor(X)))
        return self.scale_y_.back(values[:, None])[:, 0].numpy()

    def certificate(self) -> jacnet.Certificate:
        """What is guaranteed of the parts, in scaled units."""
        check_is_fitted(self)
        found: jacnet.Certificate = self.model_.parts.certificate()
        return found
