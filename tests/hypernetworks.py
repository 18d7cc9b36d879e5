"""Small nested problems for hypernetworks: one with a closed response, one with everything."""

import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse.response import HyperNetwork

X = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = X @ torch.arange(1.0, 6.0, dtype=torch.float64) / 5 + 0.3 * torch.randn(
    40, generator=torch.Generator().manual_seed(1), dtype=torch.float64
)
XV = torch.randn(30, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
YV = XV @ torch.arange(1.0, 6.0, dtype=torch.float64) / 8


class Decay(nn.Module):
    """Log decays λ, one or one for each weight."""

    def __init__(self, *logs):
        super().__init__()
        self.logs = nn.Parameter(torch.tensor(logs))


def solved(logs):
    """w*(λ), the minimum of ½ mean (xᵀw − y)² + ½ Σ e^λ w²."""
    decay = torch.diag(logs.exp().expand(5))
    return torch.linalg.solve(X.T @ X / 40 + decay, X.T @ Y / 40)


def exact_outer(logs):
    return (XV @ solved(logs) - YV).square().mean()


class Ridge:
    """The problem over live modules."""

    def __init__(self, *logs):
        self.model, self.hyper = nn.Linear(5, 1, bias=False), Decay(*logs)

    def inner(self):
        penalty = 0.5 * (self.hyper.logs.exp() * self.model.weight.square()).sum()
        return 0.5 * (self.model(X)[:, 0] - Y).square().mean() + penalty

    def outer(self):
        return (self.model(XV)[:, 0] - YV).square().mean()

    def network(self, **settings):
        return HyperNetwork(self.model, self.hyper, self.inner, self.outer, **settings)

    def nested(self):
        return br.Nested(self.model, self.hyper, self.inner, self.outer, br.Implicit(br.Dense()))


def network(seed=0, **settings):
    """A small convolutional classifier with dropout, and two bounded hyperparameters."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 3)
    )
    hyper = br.hyper.Bounded(decay=(br.hyper.LogRange(1e-4, 1.0), 1e-2), smooth=(0.0, 0.5, 0.1))

    def inner(x, y):
        squares = sum(w.square().sum() for w in model.parameters())
        loss = F.cross_entropy(model(x), y) * (1 - hyper.smooth) + hyper.smooth
        return loss + hyper.decay * squares

    def outer(x, y):
        return F.cross_entropy(model(x), y)

    net = HyperNetwork(model, hyper, inner, outer, seed=seed, std=0.3, **settings)
    return net, model, hyper


BATCH = (
    torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64),
    torch.tensor([0, 1, 2, 0, 1, 2]),
)
