"""Hypernetworks on problems whose best response is known."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
import problems
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
from checks import assert_same, central_difference, relative_error, snapshot

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


def network(seed=0, **settings):
    """A small convolutional classifier with two bounded hyperparameters, dropout among them."""
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


BATCH = (torch.randn(6, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2]))


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


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"samples": 0}, "samples=0 learns nothing"),
        ({"form": MLP(), "centred": True}, "A centred MLP would have to be learned anew"),
        ({"sampling": Simplified(), "centred": True}, "cannot be learned under Simplified"),
        ({"sampling": Global(), "centred": True}, "cannot be learned under Global"),
        ({"sampling": Local((0.5, 0.5))}, "sigma has 2 numbers but there are 1"),
        ({"sampling": Uniform((0.0, 0.0), 1.0)}, "low has 2 numbers but there are 1"),
        ({"std": 0.0}, "std=0.0 must be positive"),
    ],
)
def test_settings_that_do_not_fit(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        Ridge(0.0).network(**settings)


def test_centred_is_what_means_something():
    forms, samplings = (Affine(), Factorized(2), MLP()), (Local(), Simplified(), Global())
    found = [[Ridge(0.0).network(form=f, sampling=s).centred for s in samplings] for f in forms]
    assert found == [[True, False, False], [True, False, False], [False, False, False]]


def test_points_and_hyperparameters_of_another_shape():
    net = Ridge(0.0).network()
    for points in (torch.zeros(3), torch.zeros(3, 2), torch.zeros(0, 1)):
        with pytest.raises(InputError, match=r"give \(n, 1\), a row for each point"):
            net.outer_losses(points)
    with pytest.raises(InputError, match=r"no hyperparameter 'logs' of shape \(2,\)"):
        net.best_response({"logs": torch.zeros(2)})
    with pytest.raises(InputError, match="no hyperparameter 'decay'"):
        net.best_response({"decay": torch.zeros(1)})


def test_a_hyperparameter_that_no_loss_reads():
    ridge = Ridge(0.0)
    idle = nn.Linear(1, 1)
    net = HyperNetwork(ridge.model, [ridge.hyper, idle], ridge.inner, ridge.outer)
    net.outer_loss()  # nothing is known yet
    net.inner_loss()
    with pytest.raises(InputError, match=r"'1.weight', '1.bias' is read by neither loss"):
        net.outer_loss()


def test_a_hyperparameter_without_a_derivative_is_read():
    model, hyper = nn.Linear(5, 1), br.hyper.Bounded(keep=(br.hyper.Integers(0, 5), 3))

    def inner():
        mask = (torch.arange(5) < hyper.keep).double()
        return (model(X * mask)[:, 0] - Y).square().mean()

    net = HyperNetwork(model, hyper, inner, lambda: model(XV).square().mean())
    net.inner_loss().backward()
    net.outer_loss().backward()


def test_a_weight_that_the_inner_loss_does_not_use():
    ridge, other = Ridge(0.0), nn.Linear(1, 1, bias=False)
    net = HyperNetwork([ridge.model, other], ridge.hyper, ridge.inner, ridge.outer)
    with pytest.raises(InputError, match=r"does not use the parameter '1\.weight'"):
        net.inner_loss()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda loss: loss * (1 + 0 * loss.item()),
        lambda loss: loss if loss > 0 else -loss,
        lambda loss: torch.zeros(()).add_(loss),
    ],
)
def test_what_cannot_be_batched_runs_with_one_sample(spoil):
    ridge = Ridge(0.0)
    inner = lambda: spoil(ridge.inner())  # noqa: E731
    net = HyperNetwork(ridge.model, ridge.hyper, inner, ridge.outer)
    with pytest.raises(InputError, match="inner closure cannot run at several hyperparameters"):
        net.inner_loss()
    HyperNetwork(ridge.model, ridge.hyper, inner, ridge.outer, samples=1).inner_loss().backward()


def test_a_mistake_in_the_closure_is_shown_as_it_is():
    ridge = Ridge(0.0)
    net = HyperNetwork(ridge.model, ridge.hyper, lambda: ridge.model(X[:, :3]).sum(), ridge.outer)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        net.inner_loss()


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (lambda model: model(X), r"returned a tensor of shape \(40, 1\)"),
        (lambda model: 3.0, "returned float"),
        (lambda model: model(X).sum().detach(), "returned a detached loss"),
    ],
)
def test_a_closure_without_a_loss(loss, sentence):
    ridge = Ridge(0.0)
    net = HyperNetwork(ridge.model, ridge.hyper, lambda: loss(ridge.model), ridge.outer)
    with pytest.raises(InputError, match=sentence):
        net.inner_loss()


def test_running_statistics_are_refused_and_batch_statistics_are_not():
    batch = torch.randn(8, 5)
    for tracking in (True, False):
        model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=tracking))
        hyper = Decay(0.0)
        inner = lambda: (model(batch) - 1).square().mean() * hyper.logs.exp().sum()  # noqa: B023, E731
        net = HyperNetwork(model, hyper, inner, lambda: model(batch).square().mean())  # noqa: B023
        if tracking:
            with pytest.raises(InputError, match="BatchNorm1d would keep running statistics"):
                net.inner_loss()
            model.eval()
        net.inner_loss().backward()
        net.outer_loss().backward()


def test_one_tensor_in_params_and_in_hyper():
    model = nn.Linear(1, 1)
    with pytest.raises(InputError, match="'weight', 'bias' is in params and in hyper"):
        HyperNetwork(model, model, lambda: 0.0, lambda: 0.0)


# what models and hyperparameters may be


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
    for network in (net, net.double()):
        network.inner_loss().backward()
        network.outer_loss().backward()
        network.write()
        assert network.outer_losses(torch.zeros(3, 1)).dtype == torch.float32
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
