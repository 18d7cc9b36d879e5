"""What models, hyperparameters and closures of hypernetworks may be."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
import problems
from bestresponse import InputError
from bestresponse.response import (
    Factorized,
    HyperNetwork,
)
from checks import assert_same, relative_error, snapshot
from hypernetworks import BATCH, Decay, Ridge, X, network


def test_tied_weights_several_hyperparameter_modules_and_a_selection():
    """One vector w for the tied weights; what is not selected stays, as a loop over samples."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 1))
    model[2].weight = model[0].weight
    decay, scale = Decay(0.1, 0.2, 0.3), nn.Linear(1, 1, bias=False)
    x = torch.randn(9, 3)

    def inner():
        penalty = (decay.logs.exp() * model[2].weight.square()).sum()
        return (model(x) - 1).square().mean() * scale.weight.exp().sum() + penalty

    net = HyperNetwork(
        br.select(model, lambda name: not name.startswith("3")), [decay, scale], inner, inner,
        form=Factorized(2), std=0.4,
    )  # fmt: skip
    assert [*net.best_response()] == ["0.weight", "0.bias", "2.bias"]
    assert net.point.tolist() == [0.1, 0.2, 0.3, scale.weight.item()]
    state = net.get_extra_state()
    found = net.inner_loss()
    net.set_extra_state(state)
    losses = []
    for point in net.sampling.points(net.point, 4, net._stream):
        given = {"0.logs": point[:3], "1.weight": point[3:].view(1, 1)}
        weights = net.best_response(given)
        outputs = torch.func.functional_call(model, weights | {"2.weight": weights["0.weight"]}, x)
        penalty = (given["0.logs"].exp() * weights["0.weight"].square()).sum()
        losses.append((outputs - 1).square().mean() * point[3].exp() + penalty)
    assert relative_error(found, torch.stack(losses).mean()) < 1e-12
    frozen = model[3].weight.clone()
    net.write()
    assert torch.equal(model[3].weight, frozen) and model[2].weight is model[0].weight


def test_weight_decay_per_weight_is_batched():
    model = nn.Linear(4, 2)
    decay = br.hyper.WeightDecay(model, per="weight", init=0.5)
    loss = lambda: decay(model)  # noqa: E731
    with pytest.raises(InputError, match="does not use the parameter 'bias'"):
        HyperNetwork(model, decay, loss, loss).inner_loss()
    weights = br.select(model, lambda name: name == "weight")
    net = HyperNetwork(weights, decay, loss, loss, std=1.0)
    state = net.get_extra_state()
    found = net.inner_loss()
    net.set_extra_state(state)
    losses = []
    for point in net.sampling.points(net.point, 4, net._stream):
        weight = net.best_response({"log_decay.weight": point.view(2, 4)})["weight"]
        losses.append(0.5 * (point.view(2, 4).exp() * weight.square()).sum())
    assert relative_error(found, torch.stack(losses).mean()) < 1e-12


def test_types_of_model_hyperparameters_and_network_may_differ():
    model, hyper = nn.Linear(5, 1, dtype=torch.float32), Decay(-0.5)  # λ in float64
    seen = set()

    def inner():
        seen.add((model.weight.dtype, hyper.logs.dtype))
        penalty = hyper.logs.float().exp() * model.weight.square().sum()
        return (model(X.float()) + 1).square().mean() + penalty.sum()

    net = HyperNetwork(model, hyper, inner, inner)
    assert net.network[0].weight.dtype == torch.float32
    for each in (net, net.double()):
        each.inner_loss().backward()
        each.outer_loss().backward()
        each.write()
        assert each.outer_losses(torch.zeros(3, 1)).dtype == torch.float32
    assert seen == {(torch.float32, torch.float64)}
    assert hyper.logs.grad.dtype == torch.float64


def test_the_response_is_exact_under_autocast():
    ridge = Ridge(0.3)
    model = ridge.model.float()
    seen = []

    def loss():
        outputs = model(X.float())
        seen.append(outputs.dtype)
        return outputs.float().square().mean() + (ridge.hyper.logs * model.weight).sum()

    net = HyperNetwork(model, ridge.hyper, loss, loss)
    net.network[0].weight.data.normal_()
    exact = net.best_response({"logs": torch.tensor([1.2345])})["weight"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(exact, net.best_response({"logs": torch.tensor([1.2345])})["weight"])
        net.inner_loss().backward()
    assert seen == [torch.bfloat16]


def test_both_losses_in_one_graph():
    """φ is a constant of one and a variable of the other."""
    net, _, hyper = network()
    net.inner_loss(*BATCH).backward()
    net.outer_loss(*BATCH).backward()
    modules = [*net.parameters(), *hyper.parameters()]
    apart = {i: p.grad.clone() for i, p in enumerate(modules)}
    net, _, hyper = network()
    (net.inner_loss(*BATCH) + net.outer_loss(*BATCH)).backward()
    modules = [*net.parameters(), *hyper.parameters()]
    assert relative_error({i: p.grad for i, p in enumerate(modules)}, apart) < 1e-14


def test_losses_can_be_looked_at_without_gradients():
    net, *_ = network(seed=2)
    with torch.no_grad():
        losses = net.inner_loss(*BATCH), net.outer_loss(*BATCH)
    assert not any(loss.requires_grad for loss in losses)
    net, *_ = network(seed=2)
    assert net.inner_loss(*BATCH).item() == losses[0].item()


def test_batches_by_name():
    net, *_ = network()
    other, *_ = network()
    named = {"x": BATCH[0], "y": BATCH[1]}
    assert net.inner_loss(**named) == other.inner_loss(*BATCH)
    assert net.outer_loss(**named) == other.outer_loss(*BATCH)


def test_weights_captured_past_their_module():
    ridge = Ridge(0.0)
    captured = [*ridge.model.parameters()]
    inner = lambda: ridge.inner() + captured[0].square().sum()  # noqa: E731
    with pytest.raises(InputError, match="inner closure reaches the live parameter 'weight' past"):
        HyperNetwork(ridge.model, ridge.hyper, inner, ridge.outer).inner_loss()
    net = HyperNetwork(ridge.model, ridge.hyper, ridge.outer, inner)
    for loss in (net.outer_loss, lambda: net.outer_losses(torch.zeros(2, 1))):
        with pytest.raises(InputError, match="outer closure reaches the live parameter"):
            loss()
            loss()


def test_a_model_that_has_changed():
    net, model, _ = network()
    model[0].weight.requires_grad_(False)
    with pytest.raises(InputError, match="other weights or hyperparameters than when"):
        net.inner_loss(*BATCH)


def test_nothing_of_the_model_changes_but_by_write():
    net, model, hyper = network()
    before = snapshot(model, hyper)
    net.inner_loss(*BATCH)
    net.outer_loss(*BATCH)
    net.outer_losses(torch.zeros(3, 2), *BATCH)
    net.best_response()["0.weight"].data.fill_(7)
    assert_same(before, snapshot(model, hyper))


@pytest.mark.parametrize("kind", ["lstm", "attention"])
def test_recurrence_takes_one_sample_and_attention_many(kind):
    model, batch = problems.network(kind)
    decay = br.hyper.WeightDecay(model, per="model", biases=True)
    inner = lambda x, y: F.cross_entropy(model(x), y) + decay(model)  # noqa: E731
    net = HyperNetwork(model, decay, inner, inner, samples=3)
    if kind == "lstm":
        with pytest.raises(InputError, match="cannot run at several hyperparameters at once"):
            net.inner_loss(*batch)
        net.samples = 1
    net.inner_loss(*batch).backward()
    net.outer_loss(*batch).backward()
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters())


def test_activation_checkpointing_is_refused():
    from torch.utils.checkpoint import checkpoint

    ridge = Ridge(0.0)
    model = ridge.model
    inner = lambda: checkpoint(model, X, use_reentrant=False).square().mean()  # noqa: E731
    for samples in (1, 4):
        net = HyperNetwork(model, ridge.hyper, inner, ridge.outer, samples=samples)
        with pytest.raises(InputError, match="activation checkpointing"):
            net.inner_loss()
