"""What could slip past the swap of live tensors: each is right to 1e-10, or refused by name."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import bestresponse as br
from checks import call_gradient, central_difference, dense_hypergradient, relative_error
from problems import decayed_problem

DAMPING = 3.0
EXACT = br.Implicit(br.Dense(), damping=DAMPING)
UNROLL = br.Unroll(br.optim.SGD(0.3), steps=4)
FIRST_ORDER = br.FiniteDifference(br.CG(max_steps=8), damping=DAMPING)


def batch(n=12):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 4, generator=generator)
    return x, torch.randint(3, (n,), generator=generator)


def gradient(model, forward, method=EXACT, **kwargs):
    decay, nested = decayed_problem(model, forward, method, **kwargs)
    return call_gradient(nested, decay, batch(), batch())[0]


def dense(model, forward):
    decay = br.hyper.WeightDecay(model, per="weight", init=0.1, biases=True)
    x, y = batch()
    return dense_hypergradient(
        model.parameters(),
        decay.parameters(),
        lambda: F.cross_entropy(forward(x), y) + decay(model),
        lambda: F.cross_entropy(forward(x), y),
        DAMPING,
    )


@pytest.mark.parametrize("method", [EXACT, UNROLL, FIRST_ORDER], ids=["implicit", "unroll", "fd"])
def test_captured_list_of_parameters_is_named(method):
    model = nn.Linear(4, 3)
    weights = list(model.parameters())
    for inner, outer in (("list", "module"), ("module", "list")):
        forward = {"list": lambda x: F.linear(x, *weights), "module": model}
        _, nested = decayed_problem(model, forward[inner], method, outer_forward=forward[outer])
        role = "inner" if inner == "list" else "outer"
        with pytest.raises(br.InputError, match=f"{role} closure reaches the live .*'weight'"):
            nested(batch(), batch())


def test_captured_hyperparameter_is_named():
    model = nn.Linear(4, 3)
    decay = br.hyper.WeightDecay(model, per="model", init=0.1)
    leaf = next(decay.parameters())
    inner = lambda x, y: F.cross_entropy(model(x), y) + leaf * model.weight.square().sum()  # noqa: E731
    outer = lambda x, y: F.cross_entropy(model(x), y)  # noqa: E731
    nested = br.Nested(model, decay, inner, outer, EXACT)
    with pytest.raises(br.InputError, match="inner closure reaches the live parameter 'log_decay"):
        nested(batch(), batch())


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


class WrittenOut(nn.Module):
    """Weight normalization as a formula; its parameters in the order of the library's layers."""

    def __init__(self):
        super().__init__()
        layer = nn.Linear(4, 3)
        norms = layer.weight.detach().norm(dim=1, keepdim=True)
        self.bias, self.g = nn.Parameter(layer.bias.detach()), nn.Parameter(norms)
        self.v = nn.Parameter(layer.weight.detach())

    def forward(self, x):
        return F.linear(x, self.v * (self.g / self.v.norm(dim=1, keepdim=True)), self.bias)


@pytest.mark.parametrize("wrap", [old_weight_norm, parametrizations.weight_norm])
@pytest.mark.parametrize("method", [EXACT, UNROLL, FIRST_ORDER], ids=["implicit", "unroll", "fd"])
def test_weight_norm_equals_its_formula_and_leaves_no_graph(wrap, method):
    """PyTorch 2.13's own second derivative of weight norm is wrong (its gradgradcheck fails)."""
    torch.manual_seed(0)
    model = wrap(nn.Linear(4, 3))
    torch.manual_seed(0)
    formula = WrittenOut()
    model(batch()[0])
    before = vars(model).get("weight")
    value = gradient(model, model, method)
    assert vars(model).get("weight") is before
    assert relative_error(value, gradient(formula, formula, method)) <= 1e-8
    if method is EXACT:
        assert relative_error(value, dense(formula, formula)) <= 1e-10


class Softplus(nn.Module):
    def forward(self, raw):
        return F.softplus(raw)


def parametrized(layer):
    nn.utils.parametrize.register_parametrization(layer, "weight", Softplus())
    return layer


WRAPS = {
    "old-spectral-norm": nn.utils.spectral_norm,
    "spectral-norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "own-parametrization": parametrized,
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_parametrized_layers_equal_the_dense_solve(wrap):
    torch.manual_seed(0)
    model = nn.Sequential(WRAPS[wrap](nn.Linear(4, 3)), nn.Tanh(), nn.Linear(3, 3))
    model.train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    # in training mode spectral norm moves its vectors: compare in the mode where they are fixed
    gradient(model, model)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    model.eval()
    assert relative_error(gradient(model, model), dense(model, model)) <= 1e-10


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.two.weight = self.one.weight
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.two(torch.tanh(self.one(x))))


def test_tied_weights_equal_the_dense_solve():
    model = Tied()
    assert relative_error(gradient(model, model), dense(model, model)) <= 1e-10
    assert model.two.weight is model.one.weight


def test_hooks_fire_on_the_swapped_weights():
    model, doubled = nn.Linear(4, 3), nn.Linear(4, 3)
    with torch.no_grad():
        doubled.weight.copy_(model.weight)
        doubled.bias.copy_(model.bias)
    model.register_forward_hook(lambda module, args, out: 2 * out)
    model.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    expected = gradient(doubled, lambda x: 2 * doubled(x + 1))
    assert relative_error(gradient(model, model), expected) <= 1e-12


def test_a_learned_learning_rate_is_purified_with_the_closures():
    data = br.hyper.Bounded(lr=(0.0, 1.0, 0.3), scale=(0.0, 2.0, torch.tensor([0.7, 1.2, 0.9])))
    x, y = batch()
    model = nn.Linear(4, 3)
    nested = br.Nested(
        params=model,
        hyper=data,
        inner=lambda: F.cross_entropy(model(x) * data.scale, y),
        outer=lambda x, y: F.cross_entropy(model(x), y),
        method=br.Unroll(br.optim.SGD(lr=lambda: data.lr), steps=5),
    )
    value, _ = call_gradient(nested, data, (), (x, y))

    def retrained(raw):
        other = copy.deepcopy(model)
        scale = data._ranges["scale"].constrain(raw["scale"])
        lr = float(data._ranges["lr"].constrain(raw["lr"]))
        for _ in range(5):
            loss = F.cross_entropy(other(x) * scale, y)
            grads = torch.autograd.grad(loss, list(other.parameters()))
            with torch.no_grad():
                for weight, grad in zip(other.parameters(), grads, strict=True):
                    weight -= lr * grad
        return F.cross_entropy(other(x), y).detach()

    raw = {name: data.raw[name].detach() for name in ("lr", "scale")}
    assert relative_error(value, central_difference(retrained, raw)) <= 1e-6
