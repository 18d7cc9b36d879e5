"""Linear regression with input dropout, whose best rate is known, tuned while it is fitted."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

import bestresponse as br
from bestresponse.apps._examples import stream_seed

TOP = 0.9  # of the range of rates
METHODS = {"stn": "STN", "delta": "Δ-STN"}
GRID = tuple(round(TOP * (i + 0.5) / 8, 5) for i in range(8))
_ROWS, _DIM, _HELD_OUT, _NOISE, _BATCH = 60, 30, 400, 0.7, 30
_LR, _HYPER_LR, _ENTROPY = 0.02, 0.02, 1e-3
TRAINING_STEPS = 2  # to one validation step
_RESPONSE_PACE = 5  # learning rate of a Δ-STN's response over that of its weights
_AVERAGED = 6  # the rate found is the mean over the last sixth: Adam's steps never get smaller
_DTYPE = torch.float64


@dataclass(frozen=True)
class Regression:
    """The data of one seed, and what is known of them in closed form."""

    seed: int

    @cached_property
    def data(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Inputs and outputs for training, then for validation, and the weights behind them."""
        stream = torch.Generator().manual_seed(stream_seed(self.seed, "regression"))

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=stream, dtype=_DTYPE)

        x, x_held = normal(_ROWS, _DIM), normal(_HELD_OUT, _DIM)
        true = normal(_DIM) / _DIM**0.5
        y, y_held = (z @ true + _NOISE * normal(len(z)) for z in (x, x_held))
        return x, y, x_held, y_held, true

    def best_weights(self, rate: float) -> Tensor:
        """Of the expected loss under dropout: a ridge regression, (30,)."""
        x, y, *_ = self.data
        moments = x.T @ x / len(x)
        ridge = rate / (1 - rate) * torch.diag(moments.diag())
        return torch.linalg.solve(moments + ridge, x.T @ y / len(x))

    def validation_loss(self, rate: float) -> float:
        """Mean squared error of the best weights at a rate."""
        _, _, x, y, _ = self.data
        return float((x @ self.best_weights(rate) - y).square().mean())

    def test_loss(self, weights: Tensor) -> float:
        """Expected squared error on new rows, exactly."""
        return float((weights - self.data[-1]).square().sum()) + _NOISE**2

    @cached_property
    def best_rate(self) -> float:
        """The rate with the lowest validation loss, to three digits."""
        return min((i / 1000 for i in range(1, round(1000 * TOP))), key=self.validation_loss)


def loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean squared error."""
    return (outputs[:, 0] - y).square().mean()


class Tuned:
    """A self-tuning network in the middle of its training."""

    def __init__(self, problem: Regression, method: str, start: float) -> None:
        torch.manual_seed(stream_seed(problem.seed, "tuning"))
        self.hyper = br.hyper.Bounded(rate=(0.0, TOP, torch.tensor(start, dtype=_DTYPE)))
        model = nn.Linear(_DIM, 1, bias=False, dtype=_DTYPE)
        self.net = br.response.SelfTuning(
            model, self.hyper, {"": "rate"}, centred=method == "delta"
        )
        pace = _RESPONSE_PACE if self.net.centred else 1
        self._weights = torch.optim.SGD(self.net.elementary(), lr=_LR)
        self._weights.add_param_group({"params": self.net.responses(), "lr": pace * _LR})
        tuned = [*self.hyper.parameters(), *self.net.scales.parameters()]
        self._hypers = torch.optim.Adam(tuned, lr=_HYPER_LR)
        self._data = problem.data

    @property
    def rate(self) -> float:
        """As it is."""
        return float(self.hyper.values()["rate"])

    def round(self) -> None:
        """Training steps, then one validation step."""
        x, y, x_held, y_held, _ = self._data
        for _ in range(TRAINING_STEPS):
            rows = torch.randperm(_ROWS)[:_BATCH]
            self._weights.zero_grad()
            self.net.training_loss(loss, x[rows], y[rows]).backward()
            self._weights.step()
        self._hypers.zero_grad()
        self.net.validation_loss(loss, x_held, y_held, entropy=_ENTROPY).backward()
        self._hypers.step()


class Fixed:
    """The same training at one rate."""

    def __init__(self, problem: Regression, rate: float) -> None:
        torch.manual_seed(stream_seed(problem.seed, "tuning"))
        linear = nn.Linear(_DIM, 1, bias=False, dtype=_DTYPE)
        self.net = nn.Sequential(nn.Dropout(rate), linear)
        self._optimizer = torch.optim.SGD(self.net.parameters(), lr=_LR)
        self._data = problem.data

    def round(self) -> None:
        """As many training steps."""
        x, y, *_ = self._data
        for _ in range(TRAINING_STEPS):
            rows = torch.randperm(_ROWS)[:_BATCH]
            self._optimizer.zero_grad()
            loss(self.net(x[rows]), y[rows]).backward()
            self._optimizer.step()


def tuning(problem: Regression, method: str, start: float, rounds: int) -> dict[str, Any]:
    """Where the rate ends, and what that is worth."""
    run, path = Tuned(problem, method, start), [start]
    for _ in range(rounds):
        run.round()
        path.append(run.rate)
    rate = statistics.fmean(path[-max(rounds // _AVERAGED, 1) :])
    best = problem.validation_loss(problem.best_rate)
    (weights,) = run.net.freeze().parameters()
    return {
        "best_rate": problem.best_rate,
        "rate": rate,
        "last_rate": path[-1],
        "sigma": float(run.net.scales.flat().detach()),
        "excess": problem.validation_loss(rate) / best - 1,
        "test_loss": problem.test_loss(weights.detach()[0]),
        "path": path[:: max(rounds // 100, 1)],
    }


def grid(problem: Regression, rounds: int) -> dict[str, Any]:
    """Every rate of the grid; the one with the lowest validation loss."""
    _, _, x, y, _ = problem.data
    found = []
    for rate in GRID:
        run = Fixed(problem, rate)
        for _ in range(rounds):
            run.round()
        net = run.net.eval()
        with torch.no_grad():
            (weights,) = net.parameters()
            found.append((float(loss(net(x), y)), rate, problem.test_loss(weights[0])))
    _, rate, test = min(found)
    return {"rate": rate, "test_loss": test}


def cost(problem: Regression, rounds: int) -> dict[str, float]:
    """Seconds of a round of each, in turns; medians."""
    runs: dict[str, Tuned | Fixed] = {m: Tuned(problem, m, 0.3) for m in METHODS}
    runs["fixed"] = Fixed(problem, 0.3)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begun = perf_counter()
            run.round()
            taken[name].append(perf_counter() - begun)
    return {name: statistics.median(own) for name, own in taken.items()}
