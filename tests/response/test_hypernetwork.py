"""Hypernetworks on problems whose best response is known."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse import InputError
from bestresponse.response import (
    MLP,
    Affine,
    Factorized,
    Global,
    HyperNetwork,
    Local,
    Simplified,
    Uniform,
)
from checks import central_difference, relative_error
from hypernetworks import BATCH, Decay, Ridge, exact_outer, network, solved


def fit(net, steps, *batch):
    """L-BFGS on φ at one set of draws, the same for every evaluation."""
    state = net.get_extra_state()
    optimizer = torch.optim.LBFGS(
        net.parameters(), max_iter=steps, history_size=50, line_search_fn="strong_wolfe",
        tolerance_grad=1e-10, tolerance_change=1e-14,
    )  # fmt: skip

    def closure():
        net.set_extra_state(state)
        optimizer.zero_grad()
        loss = net.inner_loss(*batch)
        loss.backward()
        return loss

    optimizer.step(closure)
    return net


def weights_and_slope(response, logs):
    return torch.autograd.functional.jvp(response, logs, torch.ones_like(logs))


def test_a_global_network_recovers_the_response_its_slope_and_the_losses():
    ridge = Ridge(0.0)
    net = fit(ridge.network(form=MLP((50, 50)), sampling=Uniform(-3.0, 2.0), samples=200), 150)
    learned = lambda logs: net.best_response({"logs": logs})["weight"][0]  # noqa: E731
    points = torch.linspace(-3.0, 2.0, 21)[:, None]
    for log in points:
        found, slope = weights_and_slope(learned, log)
        exact, exact_slope = weights_and_slope(solved, log)
        assert relative_error(found, exact) < 1e-2
        assert F.cosine_similarity(slope, exact_slope, dim=0) > 0.99
    exact = torch.stack([exact_outer(point) for point in points])
    assert relative_error(net.outer_losses(points), exact) < 1e-2


@pytest.mark.parametrize("form", [Affine(), Factorized(rank=5)])
@pytest.mark.parametrize("logs", [(-1.0,), (-1.0, 0.0, 0.5, 1.0, -0.3)])
def test_a_local_network_has_the_hypergradient_of_the_implicit_theorem(form, logs):
    ridge = Ridge(*logs)
    net = fit(ridge.network(form=form, sampling=Local(0.1), samples=200), 60)
    net.outer_loss().backward()
    learned = ridge.hyper.logs.grad
    with torch.no_grad():
        ridge.model.weight.copy_(solved(ridge.hyper.logs)[None])
    implicit = torch.autograd.grad(ridge.nested()()[0], ridge.hyper.logs)[0]
    difference = central_difference(
        lambda tree: float(exact_outer(tree["logs"])), {"logs": ridge.hyper.logs.detach()}
    )["logs"]
    assert relative_error(implicit, difference) < 1e-6
    assert relative_error(learned, difference) < 0.05


def test_agreement_trusts_it_where_it_is():
    ridge = Ridge(-1.0, 0.0, 0.5, 1.0, -0.3)
    net = fit(ridge.network(sampling=Local(0.2), samples=200), 60)
    assert not br.diagnostics.agreement(ridge.nested(), net).trusted  # the model is still untrained
    net.write()
    found = br.diagnostics.agreement(ridge.nested(), net)
    assert found.trusted and found.cosine > 0.99 and found.distance < 1e-12
    assert found.hypergradient_cosine > 0.99


@pytest.mark.parametrize(
    "settings",
    [
        {"form": Affine()},
        {"form": Factorized(2), "centred": False},
        {"form": MLP((4,)), "sampling": Global(0.0, 1.0, high=1.0)},
    ],
)
def test_all_samples_at_once_are_a_loop_over_them(settings):
    net, model, hyper = network(samples=5, **settings)
    model.eval()  # masks would differ
    together = net.inner_loss(*BATCH)
    gradient = torch.autograd.grad(together, [*net.parameters()])

    net, model, hyper = network(samples=5, **settings)
    model.eval()
    live = net.point
    points = net.sampling.points(live, 5, net._stream)
    alone = []
    for point in points:
        given = {"raw.decay": point[0], "raw.smooth": point[1]}
        weights = net.best_response(given)
        values = {name: hyper.constrain(name, given[f"raw.{name}"]) for name in ("decay", "smooth")}
        loss = F.cross_entropy(torch.func.functional_call(model, weights, BATCH[:1]), BATCH[1])
        squares = sum(w.square().sum() for w in weights.values())
        alone.append(loss * (1 - values["smooth"]) + values["smooth"] + values["decay"] * squares)
    loop = torch.stack(alone).mean()
    assert relative_error(together, loop) < 1e-12
    expected = torch.autograd.grad(loop, [*net.parameters()])
    assert relative_error(dict(enumerate(gradient)), dict(enumerate(expected))) < 1e-12


def test_each_sample_has_masks_of_its_own():
    """Of ½ Σ mask · w² with w = 1 in every sample, the mean over samples has a binomial spread."""
    model, hyper = nn.Linear(1, 1, bias=False), Decay(0.0)
    nn.init.ones_(model.weight)
    losses = []

    def inner():
        mask = F.dropout(torch.ones(1000), 0.5, training=True)
        losses.append((mask * model.weight.flatten()).sum() / 1000 + 0 * hyper.logs.sum())
        return losses[-1]

    net = HyperNetwork(model, hyper, inner, inner, samples=64)
    mean = net.inner_loss().item()
    assert 0 < abs(mean - 1) < 4 / (64 * 1000) ** 0.5
    again = net.inner_loss().item()
    assert mean != again


def test_draws_are_seeded_and_leave_the_global_stream_alone():
    torch.manual_seed(5)
    net, model, hyper = network()
    before = torch.get_rng_state()
    other = HyperNetwork(
        model, hyper, net._closures._closures["inner"], net._closures._closures["outer"],
        form=MLP(), seed=1,
    )  # fmt: skip
    losses = [net.inner_loss(*BATCH).item() for _ in range(2)]
    other.inner_loss(*BATCH)
    net.outer_loss(*BATCH)
    net.outer_losses(torch.zeros(40, 2), *BATCH)
    assert torch.equal(before, torch.get_rng_state())
    assert losses[0] != losses[1]
    assert [network()[0].inner_loss(*BATCH).item()] == losses[:1]
    assert network(seed=1)[0].inner_loss(*BATCH).item() != losses[0]


def test_a_training_step_touches_the_network_alone_and_a_validation_step_the_hyperparameters():
    net, model, hyper = network()
    net.inner_loss(*BATCH).backward()
    assert all(p.grad is not None for p in net.parameters())
    assert all(p.grad is None for p in [*model.parameters(), *hyper.parameters()])
    net.zero_grad()
    net.outer_loss(*BATCH).backward()
    assert all(p.grad is None for p in [*model.parameters(), *net.parameters()])
    assert all(p.grad is not None and p.grad != 0 for p in hyper.parameters())
    assert all(p.requires_grad for p in [*net.parameters(), *hyper.parameters()])
    assert sum(p.numel() for p in net.parameters()) == 47 * 3


def test_the_outer_loss_is_that_of_the_response_in_eval_mode_and_differentiates_it():
    net, model, hyper = network()
    raws = {f"raw.{name}": raw.detach() for name, raw in hyper.raws().items()}

    def loss(tree):
        outputs = torch.func.functional_call(model, weights(tree), BATCH[:1])
        return F.cross_entropy(outputs, BATCH[1])

    start = net.point
    linear = net.network[0]
    names = {name: p.shape for name, p in model.named_parameters()}

    def weights(tree):
        flat = linear(torch.stack([*tree.values()]) - start)
        pieces = flat.split([shape.numel() for shape in names.values()])
        return {n: p.view(s) for (n, s), p in zip(names.items(), pieces, strict=True)}

    model.eval()
    expected = central_difference(lambda tree: loss(tree).item(), raws)
    value = loss(raws).item()
    model.train()
    found = net.outer_loss(*BATCH)
    assert found.item() == pytest.approx(value, rel=1e-12)
    found.backward()
    assert relative_error({n: p.grad for n, p in hyper.named_parameters()}, expected) < 1e-6
    assert model.training and model[3].training
    assert net.outer_losses(start[None], *BATCH).item() == pytest.approx(value, rel=1e-12)


def test_what_the_outer_loss_reads_of_the_hyperparameters_counts():
    ridge = Ridge(0.5)
    net = HyperNetwork(
        ridge.model, ridge.hyper, ridge.inner, lambda: ridge.outer() + 3 * ridge.hyper.logs.sum()
    )
    net.outer_loss().backward()
    assert ridge.hyper.logs.grad.item() == pytest.approx(3)  # the slope A is still zero


def test_simplified_is_local_without_spread():
    settings = {"centred": False, "std": 0.1, "samples": 3}
    one = Ridge(0.3).network(sampling=Simplified(), **settings)
    other = Ridge(0.3).network(sampling=Local(1e-14), **settings)
    loss, other_loss = one.inner_loss(), other.inner_loss()
    assert loss.item() == pytest.approx(other_loss.item(), rel=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(loss, [*one.parameters()]),
        torch.autograd.grad(other_loss, [*other.parameters()]),
        strict=True,
    ):
        assert relative_error(ours, theirs) < 1e-10


def test_it_starts_as_the_model_is():
    net, model, _ = network(form=MLP((7,)))
    net = HyperNetwork(model, Decay(0.0), lambda: 0.0, lambda: 0.0, form=MLP((7,)))
    for name, weight in net.best_response({"logs": torch.tensor([9.0])}).items():
        assert torch.equal(weight, model.get_parameter(name))


def test_write_puts_the_response_into_the_model():
    net, model, _ = network()
    response = {name: weight.detach() for name, weight in net.best_response().items()}
    net.write()
    for name, weight in response.items():
        assert torch.equal(model.get_parameter(name), weight)
    assert model[0].weight.requires_grad
    net.network[0].bias.data[2] = float("nan")
    with pytest.raises(InputError, match=r"'0.weight' values that are not finite"):
        net.write()
    assert torch.equal(model[0].weight, response["0.weight"])


def test_a_saved_state_continues():
    net, *_ = network()
    net.inner_loss(*BATCH)
    kept, file = copy.deepcopy(net.state_dict()), io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    expected = net.inner_loss(*BATCH).item()
    net.network[0].bias.data += 1
    for state in (kept, torch.load(file)):
        other, *_ = network(seed=7)
        other.load_state_dict(state)
        assert other.inner_loss(*BATCH).item() == expected


def test_a_copy_has_its_own_network_over_the_same_model():
    net, model, _ = network()
    other = copy.deepcopy(net)
    other.network[0].bias.data += 1
    assert other.inner_loss(*BATCH) != net.inner_loss(*BATCH)
    other.write()
    assert torch.equal(model[0].bias, other.best_response()["0.bias"])
