"""Tuned dropout of a linear regression ends at the best rate, which has a closed form.

`bestresponse experiment stn-regression` does this at full length, over seeds and starts.
"""

import pytest
import torch
from torch import nn

import bestresponse as br

N, D, TOP = 60, 30, 0.9


def problem():
    stream = torch.Generator().manual_seed(1)
    x, held, true = (torch.randn(*s, generator=stream) for s in [(N, D), (400, D), (D,)])
    true /= D**0.5
    y, y_held = (z @ true + 0.7 * torch.randn(len(z), generator=stream) for z in (x, held))
    return x, y, held, y_held


def best_weights(x, y, rate):
    moments = x.T @ x / N
    ridge = rate / (1 - rate) * torch.diag(moments.diag())
    return torch.linalg.solve(moments + ridge, x.T @ y / N)


def test_dropout_is_the_ridge_penalty_that_the_closed_form_says():
    x, y, *_ = problem()
    rate, w = 0.3, torch.randn(D)
    hyper = br.hyper.Bounded(rate=(0.0, TOP, rate))
    net = br.response.SelfTuning(nn.Linear(D, 1, bias=False), hyper, {"": "rate"}, centred=True)
    net.model.plain.weight.data.copy_(w)
    many = 4000
    with torch.no_grad():
        losses = (net(x.repeat(many, 1))[:, 0] - y.repeat(many)).square()
    wanted = (y - x @ w).square().mean() + rate / (1 - rate) * (w**2 * (x**2).mean(0)).sum()
    error = losses.std() / (many * N) ** 0.5
    assert abs(losses.mean() - wanted) < 4 * error and error < 0.01 * wanted


@pytest.mark.parametrize("centred", [False, True], ids=["STN", "Delta-STN"])
def test_the_rate_ends_at_the_best_one(centred):
    x, y, held, y_held = problem()
    hyper = br.hyper.Bounded(rate=(0.0, TOP, 0.6))
    net = br.response.SelfTuning(nn.Linear(D, 1, bias=False), hyper, {"": "rate"}, centred=centred)
    weights = torch.optim.SGD(net.parameters(), lr=0.05)
    hypers = torch.optim.Adam([*hyper.parameters(), *net.scales.parameters()], lr=0.03)
    rounds, rates = 700, []

    def loss(out, y):
        return (out[:, 0] - y).square().mean()

    for step in range(3 * rounds):
        if step % 3 < 2:
            weights.zero_grad()
            net.training_loss(loss, x, y).backward()
            weights.step()
        else:
            hypers.zero_grad()
            net.validation_loss(loss, held, y_held).backward()
            hypers.step()
            rates.append(hyper.rate.item())
    found = sum(rates[-rounds // 3 :]) / len(rates[-rounds // 3 :])
    curve = {
        i / 1000: (held @ best_weights(x, y, i / 1000) - y_held).square().mean().item()
        for i in range(1, 900)
    }
    best = min(curve, key=curve.get)
    assert abs(found - best) <= 0.05
    assert curve[round(found, 3)] <= 1.005 * curve[best]
