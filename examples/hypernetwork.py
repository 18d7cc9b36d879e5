"""The weights of a model as a function of its weight decay, learned once.

A linear classifier on 60 of scikit-learn's digits, squared error, with the logarithm λ of one
weight decay. A hypernetwork learns the best weights w*(λ) for all λ in [−4.5, 1] at once; the
validation loss of any λ is then one pass through it. Beside it the exact curve, which has a closed
form here, and two local runs, in which a tangent of w*(λ) is learned around a λ that moves.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import nn

from bestresponse.response import MLP, HyperNetwork, Local, Uniform

torch.set_num_threads(1)
torch.manual_seed(0)
LOW, HIGH = -4.5, 1.0

digits = load_digits()
images = torch.tensor(digits.data, dtype=torch.float32) / 16
targets = F.one_hot(torch.tensor(digits.target)).float()
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
train, valid = order[:60], order[60:1060]


class Problem:
    """A fresh model and λ, and the two losses over them."""

    def __init__(self, start):
        self.model = nn.Linear(64, 10)
        self.hyper = nn.Module()
        self.hyper.log_decay = nn.Parameter(torch.tensor(start))

    def inner(self):
        """Half the squared error on the training rows, and the decay."""
        penalty = 0.5 * self.hyper.log_decay.exp() * self.model.weight.square().sum()
        error = self.model(images[train]) - targets[train]
        return 0.5 * error.square().sum(1).mean() + penalty

    def outer(self):
        """The squared error on the validation rows."""
        return (self.model(images[valid]) - targets[valid]).square().sum(1).mean()

    def network(self, **settings):
        """A hypernetwork for the model."""
        return HyperNetwork(self.model, self.hyper, self.inner, self.outer, **settings)


def exact(log_decay):
    """The validation loss of w*(λ), by solving for w*."""
    x = torch.cat([images, torch.ones(len(images), 1)], 1).double()  # the last weight is the bias
    decay = torch.diag(torch.tensor([1.0] * 64 + [0.0])).double() * log_decay.double().exp()
    matrix = x[train].T @ x[train] / len(train) + decay
    weights = torch.linalg.solve(matrix, x[train].T @ targets[train].double() / len(train))
    return (x[valid] @ weights - targets[valid]).square().sum(1).mean()


def everywhere(steps=1000):
    """φ alone is trained, at λ from the whole range."""
    net = Problem(0.0).network(form=MLP((50,)), sampling=Uniform(LOW, HIGH), samples=16)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        net.inner_loss().backward()
        optimizer.step()
        schedule.step()
    return net


def around(start, steps=500):
    """φ and λ take turns; the path of λ."""
    problem = Problem(start)
    net = problem.network(sampling=Local(sigma=0.5), samples=8)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    hyper_optimizer = torch.optim.Adam(problem.hyper.parameters(), lr=3e-2)
    path = []
    for _ in range(steps):
        optimizer.zero_grad()
        net.inner_loss().backward()
        optimizer.step()
        hyper_optimizer.zero_grad()
        net.outer_loss().backward()
        hyper_optimizer.step()
        path.append(problem.hyper.log_decay.item())
    return path


points = torch.linspace(LOW, HIGH, 101)
curve = torch.stack([exact(point) for point in points])
predicted = everywhere().outer_losses(points[:, None])
paths = [around(start) for start in (-4.5, 1.0)]
print(f"exact: best λ {points[curve.argmin()]:.2f}, validation loss {curve.min():.4f}")
print(f"hypernetwork: best λ {points[predicted.argmin()]:.2f}, predicted {predicted.min():.4f}")
print("local runs end at λ " + ", ".join(f"{path[-1]:.2f}" for path in paths))

figure = Figure(figsize=(8, 3.2), layout="constrained")
left, right = figure.subplots(1, 2)
left.plot(points, curve, "k", label="exact")
left.plot(points, predicted, "--", label="hypernetwork")
left.set(xlabel="λ, logarithm of the decay", ylabel="validation loss")
left.legend()
for path in paths:
    right.plot(path, label=f"local, from {path[0]:.1f}")
right.axhline(points[curve.argmin()], color="k", linewidth=0.8)
right.set(xlabel="step", ylabel="λ")
right.legend()
out = Path("runs/hypernetwork.png")
out.parent.mkdir(exist_ok=True)
figure.savefig(out, dpi=120)
furthest = 100 * ((predicted - curve) / curve).abs().max()
print(f"picture: {out}; the predicted curve is off by at most {furthest:.2f} %")
