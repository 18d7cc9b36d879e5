"""The design's samples, run as written on small synthetic data."""

from itertools import cycle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from checks import call_gradient, central_difference, dense_hypergradient, relative_error


def data(n, noise, seed):
    """Ten features of which three matter; labels partly at random, so that decay helps."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 10, generator=generator)
    y = (x[:, 0] + x[:, 1] - x[:, 2] > 0).long()
    flip = torch.rand(n, generator=generator) < noise
    return x, torch.where(flip, 1 - y, y)


def batches(x, y, size):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def test_one_weight_decay_per_weight_on_a_loop_you_already_have():
    model = nn.Linear(10, 2)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    train, val = data(40, 0.2, 1), data(200, 0.0, 2)
    train_loader, val_loader = batches(*train, 20), batches(*val, 100)
    validation = lambda: F.cross_entropy(model(val[0]), val[1]).item()  # noqa: E731

    # the sample, but for the length of its loop
    decay = br.hyper.WeightDecay(model, per="weight", init=1e-4)
    hyper_opt = torch.optim.Adam(decay.parameters(), lr=1e-2)

    def inner(x, y):
        return F.cross_entropy(model(x), y) + decay(model)

    def outer(x, y):
        return F.cross_entropy(model(x), y)

    nested = br.Nested(
        params=model,
        hyper=decay,
        inner=inner,
        outer=outer,
        method=br.Implicit(br.CG(max_steps=10), damping=1e-3),
    )
    start, losses, reports = validation(), [], []
    for step, (batch, val_batch) in zip(
        range(2000), zip(cycle(train_loader), cycle(val_loader), strict=False), strict=False
    ):
        opt.zero_grad()
        inner_loss = nested.inner_loss(*batch)
        inner_loss.backward()
        opt.step()
        losses.append(inner_loss.item())
        if step % 50 == 49:
            loss, report = nested(batch, val_batch)
            hyper_opt.zero_grad()
            loss.backward()
            hyper_opt.step()
            reports.append(report)
    assert len(losses) == 2000
    assert len(reports) == 40
    assert torch.isfinite(torch.tensor(losses)).all()
    log = torch.cat([p.detach().reshape(-1) for p in decay.parameters()])
    assert torch.isfinite(log).all()
    assert (log != log[0]).any()
    assert validation() < start
    assert all(report.products == 10 for report in reports)

    # and one of its hypergradients, by a dense solve
    batch, val_batch = train, val
    nested.method = br.Implicit(br.CG(max_steps=100), damping=1e-3)
    value, report = call_gradient(nested, decay, batch, val_batch)
    exact = dense_hypergradient(
        model.parameters(),
        decay.parameters(),
        lambda: inner(*batch),
        lambda: outer(*val_batch),
        damping=1e-3,
    )
    assert relative_error(value, exact) <= 1e-8
    assert relative_error(call_gradient(nested, decay, batch, val_batch)[0], value) == 0
    assert report.relative_residual <= 1e-8


class Examples(nn.Module):
    """Learned inputs and a learned learning rate, as a distilled data set holds them."""

    def __init__(self, images, labels, lr):
        super().__init__()
        self.images, self.rate = nn.Parameter(images), nn.Parameter(torch.tensor(lr).log())
        self.labels = labels

    @property
    def lr(self):
        return self.rate.exp()


def distillation(steps=30, checkpoint=None):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 6), nn.Tanh(), nn.Linear(6, 2))
    held = Examples(torch.randn(4, 10), labels=torch.arange(4) % 2, lr=0.02)
    nested = br.Nested(
        params=net,
        hyper=held,
        inner=lambda: F.cross_entropy(net(held.images), held.labels),
        outer=lambda x, y: F.cross_entropy(net(x), y),
        method=br.Unroll(br.optim.SGD(lr=lambda: held.lr), steps=steps, checkpoint=checkpoint),
    )
    return net, held, nested


@pytest.mark.parametrize("checkpoint", [None, 7])
def test_data_and_learning_rate_as_hyperparameters(checkpoint):
    net, held, nested = distillation(checkpoint=checkpoint)
    x, y = data(60, 0.0, 3)
    value, _ = call_gradient(nested, held, (), (x, y))

    def retrained(hyper):
        weights = {name: p.detach().requires_grad_() for name, p in net.named_parameters()}
        for _ in range(30):
            out = torch.func.functional_call(net, weights, (hyper["images"],))
            grads = torch.autograd.grad(F.cross_entropy(out, held.labels), list(weights.values()))
            weights = {
                name: (w - hyper["rate"].exp() * g).detach().requires_grad_()
                for (name, w), g in zip(weights.items(), grads, strict=True)
            }
        return F.cross_entropy(torch.func.functional_call(net, weights, (x,)), y).detach()

    start = {name: p.detach().clone() for name, p in held.named_parameters()}
    difference = central_difference(retrained, start)
    flat = torch.cat([difference[name].reshape(-1) for name, _ in held.named_parameters()])
    assert relative_error(value, flat) <= 1e-6


def test_distillation_teaches():
    _, held, nested = distillation()
    x, y = data(60, 0.0, 3)
    optimizer = torch.optim.Adam(held.parameters(), lr=0.05)
    losses = []
    for _ in range(40):
        loss, report = nested((), (x, y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(report.outer_loss)
    assert losses[-1] < 0.8 * losses[0]
    assert held.lr.item() != pytest.approx(0.02)
