"""Forms of hypernetworks, and presets."""

import pytest
import torch
from torch import nn

import bestresponse as br
from bestresponse import InputError
from bestresponse.response import (
    CODE_GLOBAL,
    CODE_LOCAL,
    MLP,
    PAPER_GLOBAL,
    PAPER_LOCAL,
    Affine,
    Factorized,
    HyperNetwork,
    Simplified,
)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("form", "hyper", "parameters"),
    [
        (Factorized(rank=10), 7850, 164_860),
        (Affine(), 10, 86_350),
        (Affine(), 1, 15_700),
        (MLP(hidden=(50,)), 1, 400_450),
    ],
)
def test_the_counts_of_the_paper(form, hyper, parameters):
    assert count(form.build(hyper, torch.zeros(7850), std=None)) == parameters
    assert count(form.build(hyper, torch.zeros(7850), std=0.01)) == parameters


def test_the_model_of_the_paper():
    """784 → 10 with one decay per weight."""
    model = nn.Linear(784, 10)
    decay = br.hyper.WeightDecay(model, per="weight", biases=True)
    loss = lambda: model(torch.zeros(1, 784)).sum() + decay(model)  # noqa: E731
    net = HyperNetwork(model, decay, loss, loss, form=Factorized(10))
    assert count(net) == 164_860
    net.inner_loss().backward()


@pytest.mark.parametrize("form", [Affine(), Factorized(2), MLP((3, 4))])
def test_initial_weights(form):
    own = torch.randn(6)
    points = torch.randn(5, 3)
    assert torch.equal(form.build(3, own, std=None)(points), own.expand(5, 6))
    drawn = torch.cat([p.flatten() for p in form.build(300, torch.zeros(600), 0.01).parameters()])
    assert drawn.std().item() == pytest.approx(0.01, rel=0.1)
    assert form.build(3, own.float(), None)(points.float()).dtype == torch.float32


def test_affine_and_factorized_are_affine_and_mlp_is_not():
    for form in (Affine(), Factorized(2), MLP((8,))):
        network = form.build(2, torch.zeros(4), std=1.0)
        a, b = torch.randn(2), torch.randn(2)
        bend = network(a + b) - network(a) - network(b) + network(torch.zeros(2))
        assert (bend.norm() < 1e-12) == form.linear


@pytest.mark.parametrize("make", [lambda: Factorized(0), lambda: MLP(()), lambda: MLP((5, 0))])
def test_empty_layers(make):
    with pytest.raises(InputError):
        make()


@pytest.mark.parametrize("preset", [PAPER_GLOBAL, PAPER_LOCAL, CODE_GLOBAL, CODE_LOCAL])
def test_presets_make_networks_and_optimizers(preset):
    model, knob = nn.Linear(2, 1), nn.Linear(1, 1, bias=False)
    loss = lambda: model(torch.ones(1, 2)).square().sum() * knob.weight.exp().sum()  # noqa: E731
    net = HyperNetwork(model, knob, loss, loss, **preset.settings)
    preset.optimizer(net.parameters(), lr=preset.lr)
    preset.hyper_optimizer(knob.parameters(), lr=preset.hyper_lr)
    net.inner_loss().backward()
    assert not net.centred


def test_presets_differ_where_paper_and_code_do():
    assert PAPER_LOCAL.sampling.sigma == pytest.approx(1e-5**0.5)
    assert CODE_LOCAL.sampling == Simplified() and CODE_LOCAL.optimizer is torch.optim.SGD
    assert (CODE_GLOBAL.samples, PAPER_GLOBAL.samples) == (10, 2)
    assert (CODE_GLOBAL.sampling.mean, CODE_GLOBAL.sampling.high) == (1.0, 4.0)
