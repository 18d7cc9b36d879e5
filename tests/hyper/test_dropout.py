"""Concrete dropout: the law of its mask, derivatives at pinned noise, modes, shapes, refusals."""

import copy
import math

import pytest
import torch
from torch import nn

import bestresponse as br
from bestresponse.hyper import ConcreteDropout
from checks import central_difference, relative_error

RATES = [1e-6, 0.05, 0.3, 0.5, 0.9]


def exact_mask(rate, uniform, temperature):
    """The formula as it is written."""
    z = torch.sigmoid((math.log(rate / (1 - rate)) + torch.logit(uniform)) / temperature)
    return (1 - z) / (1 - rate)


def drawn(drop, shape, seed=0):
    """A mask, and the uniform draws behind it."""
    torch.manual_seed(seed)
    mask = drop.mask(shape).detach()
    torch.manual_seed(seed)
    return mask, torch.rand(shape)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_the_mask_is_its_formula(rate, temperature):
    mask, uniform = drawn(ConcreteDropout(rate, temperature=temperature), (1000,))
    assert relative_error(mask, exact_mask(rate, uniform, temperature)) <= 1e-9


@pytest.mark.parametrize("rate", RATES)
def test_the_mean_is_that_of_the_law_and_nearly_one(rate):
    grid = (torch.arange(1_000_000) + 0.5) / 1_000_000
    expected = float(exact_mask(rate, grid, 0.1).mean())
    # σ(x/t) is the law of t times a logistic variable, whose variance is π²/3
    bias = -(math.pi**2) / 6 * 0.1**2 * rate * (1 - 2 * rate)
    assert expected - 1 == pytest.approx(bias, rel=0.1, abs=1e-5)
    mask, _ = drawn(ConcreteDropout(rate), (200_000,))
    standard_error = float(mask.std()) / math.sqrt(len(mask))
    assert abs(float(mask.mean()) - expected) <= 4 * standard_error + 1e-5
    assert standard_error < 0.01


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_a_small_temperature_is_bernoulli(rate):
    mask, uniform = drawn(ConcreteDropout(rate, temperature=1e-5), (100_000,))
    kept = uniform < 1 - rate
    assert float((mask - kept / (1 - rate)).abs().gt(1e-6).double().mean()) < 1e-3
    share = float((mask > 0.5).double().mean())
    assert abs(share - (1 - rate)) <= 4 * math.sqrt(rate * (1 - rate) / 100_000)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_the_gradient_and_the_curvature_in_the_rate(shape):
    drop = ConcreteDropout(0.3, shape, temperature=0.4)
    x, w = torch.randn(5, 4, 3), torch.randn(5, 4, 3)

    def loss(tree):
        torch.manual_seed(7)
        return (torch.func.functional_call(drop, tree, x) * w).square().sum()

    def slope(tree, keep=False):
        tree = {"logit": tree["logit"].clone().requires_grad_()}
        return torch.autograd.grad(loss(tree), tree["logit"], create_graph=keep)[0], tree["logit"]

    tree = {"logit": drop.logit.detach()}
    gradient, _ = slope(tree)
    assert relative_error(gradient, central_difference(loss, tree)["logit"]) <= 1e-6
    gradient, leaf = slope(tree, keep=True)
    (second,) = torch.autograd.grad(gradient.sum(), leaf)
    around = central_difference(lambda t: slope(t)[0].sum(), tree)["logit"]
    assert relative_error(second, around) <= 1e-6


def test_eval_mode_is_the_identity():
    drop, x = ConcreteDropout(0.5).eval(), torch.randn(3, 2)
    assert drop(x) is x
    assert not torch.equal(drop.train()(x), x)


def test_masks_are_shared_along_the_dimensions_named():
    drop, x = ConcreteDropout(0.5, temperature=1.0), torch.ones(6, 4, 3)
    locked = drop(x, dims_shared=(0,))
    assert torch.equal(locked, locked[:1].expand_as(locked))
    assert locked[0].unique().numel() > 6
    both = drop(x, dims_shared=(-3, 2))
    assert torch.equal(both, both[:1, :, :1].expand_as(both))
    assert both[0, :, 0].unique().numel() == 4
    free = drop(x)
    assert not torch.equal(free[0], free[1])


def test_each_unit_has_its_rate():
    rates = torch.tensor([1e-6, 0.2, 0.8])
    drop = ConcreteDropout(rates, (3,))
    assert relative_error(drop.rate, rates) <= 1e-12
    # z > ½ with probability p, at every temperature
    dropped = (drop(torch.ones(50_000, 3)) * (1 - rates) < 0.5).double().mean(0)
    assert (dropped - rates).abs().max() < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", [-1e4, -200.0, 17.0, 200.0, 1e4])
def test_no_logit_makes_a_mask_or_its_gradient_infinite(dtype, logit):
    drop = ConcreteDropout(0.5).to(dtype)
    drop.logit.data.fill_(logit)
    mask = drop.mask((10_000,))
    mask.mean().backward()
    assert mask.dtype == dtype
    assert bool(mask.isfinite().all()) and math.isfinite(float(drop.logit.grad))


def test_half_precision_inputs_stay_half():
    assert ConcreteDropout(0.3)(torch.ones(3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_it_copies_loads_and_is_set():
    drop = ConcreteDropout(0.3, (2,))
    other = copy.deepcopy(drop)
    other.set(0.6)
    assert relative_error(other.rate, torch.full((2,), 0.6)) <= 1e-12
    other.load_state_dict(drop.state_dict())
    assert torch.equal(other.logit, drop.logit) and drop.rate[0].item() == pytest.approx(0.3)


def test_the_hypergradient_of_a_rate_is_that_of_retraining():
    """Ridge regression on dropped inputs: its minimum by a dense solve, at pinned masks."""
    model, drop = nn.Linear(3, 1, bias=False), ConcreteDropout(0.2, (3,), temperature=0.5)
    x, y = torch.randn(40, 3), torch.randn(40, 1)
    held_x, held_y = torch.randn(20, 3), torch.randn(20, 1)
    seen = []

    def inner():
        seen.append(torch.get_rng_state())
        return (model(drop(x)) - y).square().mean() + 0.1 * model.weight.square().sum()

    def outer():
        return (model(drop(held_x)) - held_y).square().mean()

    nested = br.Nested(model, drop, inner, outer, br.Implicit(br.CG(max_steps=20, rtol=1e-12)))

    def refit(logit):
        torch.set_rng_state(seen[0])
        features = torch.func.functional_call(drop, {"logit": logit}, x)
        hessian = features.T @ features / 40 + 0.1 * torch.eye(3)
        return torch.linalg.solve(hessian, features.T @ y / 40).T

    state = nested.state_dict()
    nested()  # tells at which random state the masks are drawn
    model.weight.data.copy_(refit(drop.logit.detach()))
    nested.load_state_dict(state)
    loss, report = nested()
    loss.backward()
    assert not report.warnings

    def retrained(tree):
        return (held_x @ refit(tree["logit"]).T - held_y).square().mean()

    around = central_difference(retrained, {"logit": drop.logit.detach()}, 1e-5)["logit"]
    assert relative_error(drop.logit.grad, around) <= 1e-6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConcreteDropout(0.0), "rate of 0.0 cannot be tuned.*1e-6 is as good as none"),
        (lambda: ConcreteDropout(1.0), "rate of 1.0 cannot be tuned"),
        (lambda: ConcreteDropout(math.nan), "rate of nan"),
        (lambda: ConcreteDropout(torch.tensor([0.5, 2.0]), (2,)), "between 0 and 1"),
        (lambda: ConcreteDropout(torch.tensor([0.5, 0.5]), (3,)), r"shape \(3,\) but got \(2,\)"),
        (lambda: ConcreteDropout(temperature=0.0), "temperature=0.0 must be positive"),
        (lambda: ConcreteDropout(temperature=math.inf), "temperature=inf"),
        (lambda: ConcreteDropout()(torch.ones(2), dims_shared=(1,)), "dims_shared has 1"),
        (lambda: ConcreteDropout(shape=(3,))(torch.ones(2)), r"\(3,\) do not fit .* \(2,\)"),
        (lambda: ConcreteDropout(shape=(2,))(torch.ones(5, 2), dims_shared=(1,)), "do not fit"),
        (lambda: ConcreteDropout(shape=(2, 2)).mask((2,)), "do not fit"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(br.InputError, match=message):
        make()
