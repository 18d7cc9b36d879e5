"""The reweighting network: its formula, its start, and its hypergradient through re-solving."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse.hyper import ReweightingNetwork
from checks import relative_error

LABELS = torch.tensor([0, 2, 1, 1, 0, 2])
STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))
"""Offsets and factors of the difference quotient whose error is of fourth order."""


def made(**settings):
    """A network away from its start, on two inputs."""
    torch.manual_seed(0)
    network = ReweightingNetwork(2, **settings)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("transform", ["sigmoid", "softmax"])
@pytest.mark.parametrize("classes", [0, 3])
def test_the_formula(transform, classes):
    network = made(classes=classes, hidden=5, transform=transform)
    x = torch.randn(6, 1, 2)
    labels = LABELS if classes else None
    expected = []
    for i in range(6):
        one_hot = [float(label == LABELS[i]) for label in range(classes)]
        seen = torch.tensor([*x[i, 0].tolist(), *one_hot])
        hidden = (network.hidden.weight @ seen + network.hidden.bias).clamp(min=0)
        expected.append(network.score.weight[0] @ hidden + network.score.bias[0])
    score = torch.stack(expected)
    if transform == "sigmoid":
        weights = 1 / (1 + torch.exp(-score))
    else:
        gates = torch.exp(1 / (1 + torch.exp(-score / 10)))
        weights = 6 * gates / gates.sum()
    assert relative_error(network(x, labels), weights) < 1e-14


def test_softmax_weights_have_mean_one_and_a_bounded_ratio():
    network = made(transform="softmax")
    with torch.no_grad():
        network.score.weight.mul_(1e4)
    weights = network(torch.randn(50, 2)).detach()
    assert float(weights.mean()) == pytest.approx(1, abs=1e-14)
    assert 2 < float(weights.max() / weights.min()) <= math.e * (1 + 1e-12)


def test_examples_begin_alike():
    x = torch.randn(6, 2)
    assert ReweightingNetwork(2)(x).tolist() == [0.5] * 6
    start = ReweightingNetwork(2, classes=3, init=2.0)(x, LABELS)
    assert start.tolist() == pytest.approx([1 / (1 + math.exp(-2))] * 6, abs=1e-15)
    assert ReweightingNetwork(2, transform="softmax")(x).tolist() == pytest.approx([1.0] * 6)


def test_width_is_that_of_the_inputs():
    sizes = {
        name: tuple(p.shape) for name, p in ReweightingNetwork(4, classes=3).named_parameters()
    }
    assert sizes == {
        "hidden.weight": (7, 7), "hidden.bias": (7,), "score.weight": (1, 7), "score.bias": (1,),
    }  # fmt: skip
    assert ReweightingNetwork(4, hidden=2).hidden.weight.shape == (2, 4)


@pytest.mark.parametrize("transform", ["sigmoid", "softmax"])
def test_its_hypergradient_is_that_of_solving_again(transform):
    """Each weight of the network moved, w solved anew: differences of fourth order."""
    network = made(classes=3, hidden=2, transform=transform)
    x, x_val, y_val = torch.randn(6, 2), torch.randn(5, 2), torch.tensor([0, 1, 2, 2, 1])
    model = nn.Linear(2, 3)

    def inner():
        losses = F.cross_entropy(model(x), LABELS, reduction="none")
        decay = sum(p.square().sum() for p in model.parameters())
        return (network(x, LABELS) * losses).mean() + 0.1 * decay

    def outer():
        return F.cross_entropy(model(x_val), y_val)

    def solve():
        for _ in range(30):
            leaves = list(model.parameters())
            flat = torch.cat(
                [g.flatten() for g in torch.autograd.grad(inner(), leaves, create_graph=True)]
            )
            rows = [torch.autograd.grad(g, leaves, retain_graph=True) for g in flat]
            hessian = torch.stack([torch.cat([r.flatten() for r in row]) for row in rows])
            step = torch.linalg.solve(hessian, flat).detach()
            nn.utils.vector_to_parameters(
                nn.utils.parameters_to_vector(leaves).detach() - step, leaves
            )
        return float(outer().detach())

    solve()
    nested = br.Nested(model, network, inner, outer, br.Implicit(br.Dense()))
    nested()[0].backward()
    size = 1e-2
    for name, parameter in network.named_parameters():
        differences = torch.zeros(parameter.numel())
        for i in range(parameter.numel()):
            entry = parameter.data.view(-1)[i : i + 1]
            before = entry.clone()
            for offset, factor in STENCIL:
                entry.copy_(before + offset * size)
                differences[i] += factor * solve() / size
            entry.copy_(before)
        error = (differences - parameter.grad.flatten()).abs().max()
        assert error < 1e-8 * max(1.0, float(parameter.grad.abs().max())), name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReweightingNetwork(0), "inputs=0 is too small"),
        (lambda: ReweightingNetwork(2, classes=-1), "classes=-1 is too small"),
        (lambda: ReweightingNetwork(2, hidden=0), "hidden=0 is too small"),
        (lambda: ReweightingNetwork(2, transform="relu"), "transform='relu' is unknown"),
        (lambda: ReweightingNetwork(2)(torch.zeros(3)), r"shape \(3,\)"),
        (lambda: ReweightingNetwork(2)(torch.zeros(3, 4)), r"shape \(3, 4\).* 2 numbers"),
        (lambda: ReweightingNetwork(2)(torch.zeros(6, 2), LABELS), "made without classes"),
        (lambda: ReweightingNetwork(2, classes=3)(torch.zeros(6, 2)), "needs the labels"),
        (lambda: ReweightingNetwork(2, classes=3)(torch.zeros(5, 2), LABELS), r"shape \(6,\)"),
        (lambda: ReweightingNetwork(2, classes=2)(torch.zeros(6, 2), LABELS), "label 2 is none"),
        (lambda: ReweightingNetwork(2, classes=3)(torch.zeros(6, 2), -LABELS), "label -2 is none"),
        (lambda: ReweightingNetwork(2, classes=3)(torch.zeros(6, 2), LABELS.double()), "float64"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(br.InputError, match=message):
        make()
