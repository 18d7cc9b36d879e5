"""Nested problems that carry their exact answer."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br


@dataclass
class Ridge:
    """Ridge regression with one log decay per weight; the outer loss also depends on λ directly."""

    d: int = 6
    n: int = 40

    def __post_init__(self):
        generator = torch.Generator().manual_seed(3)
        draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
        self.x, self.y = draw(self.n, self.d) / self.n**0.5, draw(self.n)
        self.xv, self.yv = draw(self.n, self.d), draw(self.n)
        self.hyper = {"log_decay": 0.3 * draw(self.d) - 0.5}

    def inner(self, params, hyper):
        residual = self.x @ params["w"] - self.y
        return 0.5 * residual @ residual + 0.5 * (hyper["log_decay"].exp() * params["w"] ** 2).sum()

    def outer(self, params, hyper):
        residual = self.xv @ params["w"] - self.yv
        return 0.5 * residual @ residual + 0.7 * (hyper["log_decay"] ** 2).sum()

    def matrix(self, hyper):
        return self.x.T @ self.x + torch.diag(hyper["log_decay"].exp())

    def best_response(self, hyper):
        return {"w": torch.linalg.solve(self.matrix(hyper), self.x.T @ self.y)}

    def exact(self):
        """dL_V/dλ in closed form: 1.4 λ − e^λ w* A⁻¹ ∂L_V/∂w."""
        w = self.best_response(self.hyper)["w"]
        q = torch.linalg.solve(self.matrix(self.hyper), self.xv.T @ (self.xv @ w - self.yv))
        return 1.4 * self.hyper["log_decay"] - self.hyper["log_decay"].exp() * w * q

    def hypergradient(self, method, **kwargs):
        params = self.best_response(self.hyper)
        return br.hypergradient(self.inner, self.outer, params, self.hyper, method, **kwargs)


class _Sequence(nn.Module):
    """An LSTM or attention over a short sequence, then a linear read-out."""

    def __init__(self, kind):
        super().__init__()
        if kind == "lstm":
            self.body = nn.LSTM(4, 5, batch_first=True)
        else:
            self.body = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, batch_first=True)
        self.head = nn.Linear(5 if kind == "lstm" else 4, 3)

    def forward(self, x):
        out = self.body(x)
        return self.head((out[0] if isinstance(out, tuple) else out).mean(1))


def network(kind):
    """A small model of each family, with a batch that fits it."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(3, (12,), generator=generator)
    shape = {"conv": (12, 1, 6, 6), "lstm": (12, 5, 4), "attention": (12, 5, 4)}.get(kind, (12, 4))
    x = torch.randn(*shape, generator=generator)
    models = {
        "logistic": lambda: nn.Linear(4, 3),
        "mlp": lambda: nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 3)
        ),
        "conv": lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)
        ),
        "lstm": lambda: _Sequence("lstm"),
        "attention": lambda: _Sequence("attention"),
    }
    return models[kind](), (x, labels)


NETWORKS = ("logistic", "mlp", "conv", "lstm", "attention")


def tuned_network(kind, method, **kwargs):
    """A network with one decay per weight, as a live nested problem."""
    model, batch = network(kind)
    decay = br.hyper.WeightDecay(model, per="weight", init=0.1, biases=True)
    nested = br.Nested(
        params=model,
        hyper=decay,
        inner=lambda x, y: F.cross_entropy(model(x), y) + decay(model),
        outer=lambda x, y: F.cross_entropy(model(x), y),
        method=method,
        **kwargs,
    )
    return model, decay, nested, batch


def decayed_problem(model, forward, method, outer_forward=None, **kwargs):
    """Cross-entropy of `forward` with one decay a weight of `model`, as a live nested problem."""
    decay = br.hyper.WeightDecay(model, per="weight", init=0.1, biases=True)
    nested = br.Nested(
        params=model,
        hyper=decay,
        inner=lambda x, y: F.cross_entropy(forward(x), y) + decay(model),
        outer=lambda x, y: F.cross_entropy((outer_forward or forward)(x), y),
        method=method,
        **kwargs,
    )
    return decay, nested
