"""Learned training sets: their gradients against differences through solving and training anew."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse.hyper import Distilled

DECAY = 0.1
CLASSES = 3


def real():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 1, 2, 3, generator=generator, dtype=torch.float64)
    return x, (x.flatten(1)[:, :CLASSES]).argmax(1)


def small(**learned):
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(4, 1, 2, 3, generator=generator, dtype=torch.float64)
    return Distilled(images, torch.tensor([0, 1, 2, 0]), **learned)


def solved(loss, weights):
    """Newton with dense matrices, to 1e-12."""
    for _ in range(30):
        leaf = weights.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf), leaf)
        if gradient.norm() < 1e-12:
            break
        hessian = torch.autograd.functional.hessian(loss, weights)
        weights = weights - torch.linalg.solve(hessian, gradient)
    assert gradient.norm() < 1e-10
    return weights


def outer_after_solving(data):
    """The outer loss at the weights that solve the inner problem, and those weights."""
    images, labels, weights = data.images.detach(), data.labels.detach(), data.weights.detach()
    if labels.ndim == 1:
        labels = F.one_hot(labels, CLASSES).double()

    def inner(flat):
        logits = images.flatten(1) @ flat.view(CLASSES, -1).T
        each = -(labels * logits.log_softmax(1)).sum(1)  # written out, as a second opinion
        return (weights * each).sum() / len(images) + 0.5 * DECAY * flat.square().sum()

    found = solved(inner, torch.zeros(CLASSES * 6))
    x, y = real()
    return F.cross_entropy(x.flatten(1) @ found.view(CLASSES, -1).T, y).item(), found


def differences(data, outer, step=1e-5):
    """Central differences of `outer` with respect to every learned number."""
    found = {}
    for name, parameter in data.named_parameters():
        flat, slopes = parameter.data.view(-1), []
        for i in range(flat.numel()):
            middle, ends = flat[i].item(), []
            for sign in (1, -1):
                flat[i] = middle + sign * step
                ends.append(outer())
            flat[i] = middle
            slopes.append((ends[0] - ends[1]) / (2 * step))
        found[name] = torch.tensor(slopes).view(parameter.shape)
    return found


@pytest.mark.parametrize(
    "learned", [{}, {"learn_labels": True}, {"learn_labels": True, "learn_weights": True}]
)
def test_implicit_hypergradients_are_differences_through_solving_anew(learned):
    data = small(**learned)
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, CLASSES, bias=False))
    _, found = outer_after_solving(data)
    net[1].weight.data.copy_(found.view(CLASSES, -1))
    nested = br.Nested(
        params=net,
        hyper=data,
        inner=lambda: data.loss(net(data.images)) + 0.5 * DECAY * net[1].weight.square().sum(),
        outer=lambda x, y: F.cross_entropy(net(x), y),
        method=br.Implicit(br.CG(max_steps=100, rtol=1e-12)),
    )
    loss, report = nested((), real())
    loss.backward()
    assert report.inner_gradient_norm < 1e-10
    for name, slope in differences(data, lambda: outer_after_solving(data)[0]).items():
        gradient = data.get_parameter(name).grad
        assert slope.norm() > 1e-3
        assert (gradient - slope).norm() <= 1e-7 * slope.norm(), name


def test_unrolled_hypergradients_are_differences_through_training_anew():
    data = small(learn_labels=True, learn_weights=True, lr=0.3)
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, CLASSES))
    x, y = real()
    nested = br.Nested(
        params=net,
        hyper=data,
        inner=lambda: data.loss(net(data.images)),
        outer=lambda x, y: F.cross_entropy(net(x), y),
        method=br.Unroll(br.optim.SGD(lr=lambda: data.lr), steps=7),
    )
    loss, _ = nested((), (x, y))
    loss.backward()
    start = {name: p.detach().clone() for name, p in net.state_dict().items()}

    def trained_anew():
        net.load_state_dict(start)
        optimizer = torch.optim.SGD(net.parameters(), lr=data.lr.item())
        for _ in range(7):
            optimizer.zero_grad()
            data.loss(net(data.images)).backward(inputs=list(net.parameters()))
            optimizer.step()
        with torch.no_grad():
            return F.cross_entropy(net(x), y).item()

    slopes = differences(data, trained_anew)
    assert set(slopes) == {"images", "label_logits", "log_weights", "log_lr"}
    for name, slope in slopes.items():
        assert slope.norm() > 1e-4
        assert (data.get_parameter(name).grad - slope).norm() <= 1e-6 * slope.norm(), name


def test_the_sample_of_the_design_page_runs_as_it_stands():
    torch.set_default_dtype(torch.float32)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    x, y = torch.randn(20, 1, 28, 28), torch.arange(20) % 10
    data = br.hyper.Distilled(torch.randn(10, 1, 28, 28), labels=torch.arange(10), lr=0.02)
    nested = br.Nested(params=net, hyper=data,
                       inner=lambda: F.cross_entropy(net(data.images), data.labels),
                       outer=lambda x, y: F.cross_entropy(net(x), y),
                       method=br.Unroll(br.optim.SGD(lr=lambda: data.lr), steps=30))  # fmt: skip
    loss, report = nested((), (x, y))
    loss.backward()
    assert report.outer_loss == loss.item()
    assert data.images.grad.norm() > 0
    assert data.log_lr.grad.abs() > 0


def test_the_loss_is_pytorchs():
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    expected = F.cross_entropy(logits, labels)
    images = torch.randn(4, 2)
    assert Distilled(images, labels).loss(logits) == expected
    weighted = Distilled(images, labels, learn_weights=True)
    torch.testing.assert_close(weighted.loss(logits), expected)
    weighted.log_weights.data = torch.tensor([1.0, 2.0, 3.0, 4.0]).log()
    each = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(weighted.loss(logits), each @ weighted.weights / 4)
    soft = torch.tensor([[0.5, 0.25, 0.25]]).repeat(4, 1)
    for learn in (False, True):
        given = Distilled(images, soft, learn_labels=learn)
        torch.testing.assert_close(given.labels, soft)
        torch.testing.assert_close(given.loss(logits), F.cross_entropy(logits, soft))
    started = Distilled(images, labels, learn_labels=True).labels
    torch.testing.assert_close(started.sum(1), torch.ones(4))
    torch.testing.assert_close(started[0], torch.tensor([0.9, 0.05, 0.05]))


def test_it_saves_and_loads():
    first, second = (small(learn_labels=True, learn_weights=True, lr=0.1) for _ in range(2))
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1.0)
    second.load_state_dict(first.state_dict())
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    assert small().state_dict().keys() == {"images", "fixed_labels"}


@pytest.mark.parametrize(
    ("images", "labels", "lr", "words"),
    [
        (torch.zeros(2, 3, dtype=torch.uint8), torch.tensor([0, 1]), None, "floating-point"),
        (torch.zeros(0, 3), torch.tensor([], dtype=torch.int64), None, "floating-point"),
        (torch.zeros(2, 3), torch.tensor([0]), None, "one label"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), None, "int64"),
        (torch.zeros(2, 3), torch.tensor([0, -1]), None, "negative"),
        (torch.zeros(2, 3), torch.tensor([[0.5, 0.6], [0.5, 0.5]]), None, "add up to 1"),
        (torch.zeros(2, 3), torch.tensor([[1.5, -0.5], [0.5, 0.5]]), None, "from 0 on"),
        (torch.zeros(2, 3), torch.tensor([0, 1]), 0.0, "positive"),
        (torch.zeros(2, 3), torch.tensor([0, 1]), float("nan"), "positive"),
    ],
)
def test_refusals(images, labels, lr, words):
    with pytest.raises(br.InputError, match=words):
        Distilled(images, labels, lr=lr)


def test_no_learning_rate_is_said():
    with pytest.raises(br.InputError, match="has no learning rate"):
        _ = small().lr
