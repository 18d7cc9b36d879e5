"""A hypernetwork over a whole range of one decay, and what its curve is worth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import bestresponse as br
from bestresponse.apps.experiments.hypernet._data import Roles, Rows
from bestresponse.apps.experiments.hypernet._problem import Elementary
from bestresponse.apps.experiments.hypernet._retrain import Retraining, losses, timed

_FINE = 20  # points of the predicted curve to one of the grid
_DESCENT = (120, 0.1)  # steps of Adam on λ, and its learning rate


def learned(
    problem: Elementary,
    net: br.response.HyperNetwork,
    pace: tuple[float, int, float],
    grid: Tensor,
    retraining: Retraining,
    roles: Roles,
) -> dict[str, Any]:
    """The hypernetwork's own curve, after training it; and what the λ it likes best is worth.

    Args:
        problem: whose weights it has.
        net: not trained yet.
        pace: learning rate of Adam, its steps, and the share of the rate at the end.
        grid: of cross-validation, (S,).
        retraining: of that, too.
        roles: of the images.

    Returns:
        Ready for JSON: `points` and `predicted`, the curve; `best`, its minimum, `descended`, where
        Adam on λ through the hypernetwork ends, from 0; `best_predicted`, the predicted validation
        loss at `best`, and `best_retrained` with weights trained from scratch there; the `test`
        losses of the hypernetwork's weights and of those; CPU `seconds` of all but the retraining.
    """
    train, held, unseen = roles
    fine = torch.linspace(float(grid[0]), float(grid[-1]), _FINE * (len(grid) - 1) + 1)

    def search() -> tuple[Tensor, float]:
        learn(net, train, *pace)
        return net.outer_losses(fine[:, None], *held), descended(problem, net, held)

    (curve, end), seconds = timed(search)
    best = fine[curve.argmin()].reshape(1, 1)
    weights = retraining.weights(problem, best, train)
    return {
        "points": fine.tolist(),
        "predicted": curve.tolist(),
        "at_grid": net.outer_losses(grid[:, None], *held).tolist(),
        "best": float(best),
        "descended": end,
        "best_predicted": float(curve.min()),
        "best_retrained": float(losses(problem, weights, held)),
        "test": float(net.outer_losses(best, *unseen)),
        "retrained_test": float(losses(problem, weights, unseen)),
        "seconds": seconds,
    }


def learn(
    net: br.response.HyperNetwork, train: Rows, lr: float, steps: int, end: float = 1.0
) -> None:
    """Adam on the hypernetwork's weights alone; the rate goes linearly to the share `end`."""
    adam = torch.optim.Adam(net.parameters(), lr=lr)
    rate = torch.optim.lr_scheduler.LinearLR(adam, 1.0, end, total_iters=steps)
    for _ in range(steps):
        adam.zero_grad()
        net.inner_loss(*train).backward()
        adam.step()
        rate.step()


def descended(problem: Elementary, net: br.response.HyperNetwork, held: Rows) -> float:
    """Where Adam on λ ends, from 0, with the hypernetwork as it is."""
    steps, lr = _DESCENT
    problem.move(torch.zeros(1))
    adam = torch.optim.Adam(problem.decays.parameters(), lr=lr)
    for _ in range(steps):
        adam.zero_grad()
        net.outer_loss(*held).backward()
        adam.step()
    return float(problem.log_decays)
