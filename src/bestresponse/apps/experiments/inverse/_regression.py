"""Linear regression on a table of UCI's, with one decay a weight: the answer in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bestresponse as br
from bestresponse._errors import InputError
from bestresponse.apps.experiments._roles import Batch

_LOG_DECAY = -7.0  # where Lorraine et al. start
_OUTER = 0.1  # of the training rows


@dataclass(frozen=True, eq=False)
class Regression:
    """A nested problem over live float64 modules, at its best response.

    Attributes:
        name: of the data.
        model: linear, with a bias.
        decay: one log decay for each weight and the bias.
        inner_batch: standardised features (n, d) and targets (n,).
        outer_batch: likewise, in the units of the inner ones.
        reference: dL_V/dλ in closed form, in the order of `decay.parameters()`.
    """

    name: str
    model: nn.Linear
    decay: br.hyper.WeightDecay
    inner_batch: Batch
    outer_batch: Batch
    reference: Tensor

    def predict(self, features: Tensor, targets: Tensor) -> Tensor:
        """Outputs (n, 1)."""
        return self.model(features)

    @staticmethod
    def loss(outputs: Tensor, features: Tensor, targets: Tensor) -> Tensor:
        """The mean squared error; (n, 1) and (n,) would broadcast to (n, n)."""
        return F.mse_loss(outputs[:, 0], targets)

    def penalty(self) -> Tensor:
        """½ Σ e^λ w²."""
        return self.decay(self.model)

    def inner(self, features: Tensor, targets: Tensor) -> Tensor:
        """The mean squared error plus the penalty."""
        return self.outer(features, targets) + self.penalty()

    def outer(self, features: Tensor, targets: Tensor) -> Tensor:
        """The mean squared error."""
        return self.loss(self.model(features), features, targets)

    def gauss_newton(self) -> br.GaussNewton:
        """The curvature, as `Implicit` takes it."""
        return br.GaussNewton(self.predict, self.loss, self.penalty)

    def nested(self, method: br.Implicit) -> br.Nested:
        """The live nested problem under a method."""
        return br.Nested(self.model, self.decay, self.inner, self.outer, method)

    def gradient(self) -> Tensor:
        """What `backward()` left on the log decays, in the order of the reference."""
        leaves = self.decay.parameters()
        return torch.cat([leaf.grad.reshape(-1) for leaf in leaves if leaf.grad is not None])


def regression(folder: Path) -> Regression:
    """The first of the folder's splits: nine tenths of its training rows inner, the rest outer.

    Args:
        folder: `data.txt` with `index_features.txt`, `index_target.txt` and `index_train_0.txt`.

    Raises:
        InputError: if these files are not there, or are no tables of numbers.
    """
    table = _numbers(folder, "data.txt", 2)
    columns = [int(i) for i in _numbers(folder, "index_features.txt", 1)]
    target = int(_numbers(folder, "index_target.txt", 1)[0])
    rows = _numbers(folder, "index_train_0.txt", 1).astype(int)
    try:
        chosen = torch.from_numpy(table[rows][:, [*columns, target]])
    except IndexError as error:
        raise InputError(
            f"The indices in '{folder}' reach beyond its data.txt; restore the folder."
        ) from error
    count = len(chosen) - max(1, round(_OUTER * len(chosen)))
    scaled = (chosen - chosen[:count].mean(0)) / chosen[:count].std(0).clamp(min=1e-12)
    return _solved(folder.name, scaled[:count], scaled[count:])


def _solved(name: str, inner: Tensor, outer: Tensor) -> Regression:
    """The modules at the best response, with the hypergradient there; targets stand last."""
    one = inner.new_ones
    x, xv = (torch.cat([rows[:, :-1], one(len(rows), 1)], 1) for rows in (inner, outer))
    y, yv = inner[:, -1], outer[:, -1]
    decays = torch.full((x.shape[1],), _LOG_DECAY, dtype=x.dtype).exp()
    curvature = 2 * x.T @ x / len(x) + torch.diag(decays)
    weights = torch.linalg.solve(curvature, 2 * x.T @ y / len(x))
    outer_gradient = 2 * xv.T @ (xv @ weights - yv) / len(xv)
    exact = -decays * weights * torch.linalg.solve(curvature, outer_gradient)
    model = nn.Linear(x.shape[1] - 1, 1, dtype=x.dtype)
    with torch.no_grad():
        model.weight.copy_(weights[None, :-1])
        model.bias.copy_(weights[-1:])
    decay = br.hyper.WeightDecay(model, per="weight", init=float(decays[0]), biases=True)
    parts = {"log_decay.weight": exact[:-1], "log_decay.bias": exact[-1:]}
    reference = torch.cat([parts[leaf] for leaf, _ in decay.named_parameters()])
    return Regression(name, model, decay, (x[:, :-1], y), (xv[:, :-1], yv), reference)


def _numbers(folder: Path, name: str, dimensions: Literal[1, 2]) -> np.ndarray:
    path = folder / name
    try:
        return np.loadtxt(path, ndmin=dimensions)
    except OSError as error:
        raise InputError(
            f"--uci {folder} has no {name}; give a folder of the UCI collection, such as "
            "bostonHousing."
        ) from error
    except ValueError as error:
        raise InputError(f"'{path}' is no table of numbers; restore the file.") from error
