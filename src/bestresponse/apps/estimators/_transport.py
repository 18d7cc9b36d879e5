"""Maps that move one sample onto another."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

from bestresponse import jacnet
from bestresponse._errors import InputError
from bestresponse.apps._fitting import Scale, fit_stochastic, seeded

_PROJECTIONS = 32


class TransportMap(TransformerMixin, BaseEstimator):
    """The gradient of a convex function that moves one sample onto another: optimal transport.

    Trained on the sliced Wasserstein distance; the samples need not be paired, nor of one size.

    Parameters:
        target: the sample (m, d) to be moved to; None is a standard normal one.
        potential: "ridge" or "input-convex".
        floor: the least stretch of the map, in scaled units.
        hidden: units of the potential.
        iterations: of Adam.
        batch: rows of both samples at each iteration.
        lr: its first learning rate.
        random_state: of weights, batches and projections.

    Source: Makkuva et al., "Optimal Transport Mapping via Input Convex Neural Networks" (2020),
    https://arxiv.org/abs/1908.10962; sliced: Bonneel et al. (2015),
    https://doi.org/10.1007/s10851-014-0506-3

    Example:
        >>> X = np.random.default_rng(0).normal(size=(200, 2)) * [3.0, 0.5]
        >>> moved = TransportMap(iterations=100).fit_transform(X)
        >>> bool(np.abs(moved.std(axis=0) - 1).max() < 0.3)
        True
    """

    def __init__(
        self,
        target: Any = None,
        *,
        potential: str = "ridge",
        floor: float = 0.05,
        hidden: int = 64,
        iterations: int = 300,
        batch: int = 512,
        lr: float = 0.02,
        random_state: Any = 0,
    ) -> None:
        self.target = target
        self.potential = potential
        self.floor = floor
        self.hidden = hidden
        self.iterations = iterations
        self.batch = batch
        self.lr = lr
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> TransportMap:
        """Train on a sample (n, d); `y` is not used."""
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        random = check_random_state(self.random_state)
        target = (
            random.standard_normal((max(len(X), 256), X.shape[1]))
            if self.target is None
            else check_array(self.target, dtype=np.float64)
        )
        if target.shape[1] != X.shape[1]:
            raise InputError(
                f"target has {target.shape[1]} columns and the sample {X.shape[1]}; a transport "
                "map keeps the dimension."
            )
        x, goal = torch.tensor(X), torch.tensor(target)
        self.scale_x_, self.scale_y_ = Scale(x), Scale(goal)
        x, goal = self.scale_x_(x), self.scale_y_(goal)
        self.model_ = seeded(int(random.randint(2**31 - 1)), lambda: self._model(X.shape[1]))
        generator = torch.Generator().manual_seed(int(random.randint(2**31 - 1)))
        self.loss_curve_ = fit_stochastic(
            list(self.model_.parameters()),
            lambda: sliced_distance(
                self.model_(_drawn(x, self.batch, generator)),
                _drawn(goal, self.batch, generator),
                _directions(x.shape[1], generator),
            ),
            self.iterations,
            self.lr,
        )
        return self

    def _model(self, dim: int) -> jacnet.Structure:
        made = {"ridge": jacnet.Ridge, "input-convex": jacnet.InputConvex}
        if self.potential not in made:
            raise InputError(f"potential={self.potential!r} is unknown; use {', '.join(made)}.")
        return jacnet.ConvexGradient(
            dim, potential=made[self.potential](dim, self.hidden), floor=self.floor
        )

    def transform(self, X: Any) -> np.ndarray:
        """Where each point goes."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        with torch.no_grad():
            moved = self.model_(self.scale_x_(torch.tensor(X)))
        return self.scale_y_.back(moved).numpy()

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Where each point came from."""
        check_is_fitted(self)
        points = check_array(X, dtype=np.float64)
        with torch.no_grad():
            found = self.model_.inverse(self.scale_y_(torch.tensor(points)))
        return self.scale_x_.back(found.value).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """`transform` under the name of the other estimators."""
        return self.transform(X)

    def inverse_predict(self, y: Any) -> np.ndarray:
        """`inverse_transform` under the name of the other estimators."""
        return self.inverse_transform(y)


def sliced_distance(one: Tensor, other: Tensor, directions: Tensor) -> Tensor:
    """The mean square 2-Wasserstein distance along directions (k, d) of two samples."""
    levels = (torch.arange(max(len(one), len(other)), dtype=one.dtype) + 0.5) / max(
        len(one), len(other)
    )
    ends = []
    for sample in (one, other):
        ordered = (sample @ directions.T).sort(dim=0).values
        place = (levels * len(sample)).long().clamp(max=len(sample) - 1)
        ends.append(ordered[place])
    return (ends[0] - ends[1]).square().mean()


def _drawn(sample: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return sample[torch.randperm(len(sample), generator=generator)[:count]]


def _directions(dim: int, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(_PROJECTIONS, dim, generator=generator, dtype=torch.float64)
    return drawn / drawn.norm(dim=1, keepdim=True)
