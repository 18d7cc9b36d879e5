"""What could slip past the swap of live tensors: each is right to 1e-10, or refused by name."""

import copy
import functools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import bestresponse as br
from checks import call_gradient, central_difference, dense_hypergradient, relative_error

DAMPING = 3.0
EXACT = br.Implicit(br.Dense(), damping=DAMPING)
UNROLL = br.Unroll(br.optim.SGD(0.3), steps=4)
FIRST_ORDER = br.FiniteDifference(br.CG(max_steps=8), damping=DAMPING)


def batch(n=12):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 4, generator=generator)
    return x, torch.randint(3, (n,), generator=generator)


def nest(model, forward, method=EXACT, outer_forward=None, **kwargs):
    """Cross-entropy of `forward` with one decay a weight of `model`."""
    decay = br.hyper.WeightDecay(model, per="weight", init=0.1, biases=True)
    nested = br.Nested(
        params=model,
        hyper=decay,
        inner=lambda x, y: F.cross_entropy(forward(x), y) + decay(model),
        outer=lambda x, y: F.cross_entropy((outer_forward or forward)(x), y),
        method=method,
        **kwargs,
    )
    return decay, nested


def gradient(model, forward, method=EXACT, **kwargs):
    decay, nested = nest(model, forward, method, **kwargs)
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
        _, nested = nest(model, forward[inner], method, outer_forward=forward[outer])
        role = "inner" if inner == "list" else "outer"
        with pytest.raises(br.InputError, match=f"{role} closure reaches the live .*'weight'"):
            nested(batch(), batch())


def test_captured_hyperparameter_is_named():
    model, decay = nn.Linear(4, 3), None
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


def test_old_weight_norm_equals_its_parametrization_and_leaves_no_graph():
    layers = []
    for wrap in (old_weight_norm, parametrizations.weight_norm):
        torch.manual_seed(0)
        layers.append(wrap(nn.Linear(4, 3)))
    old, new = layers
    old(batch()[0])
    before = old.weight
    values = [gradient(layer, layer, method) for layer in layers for method in (EXACT, UNROLL)]
    assert old.weight is before
    # named_parameters: bias, g, v for both
    assert relative_error(values[0], values[2]) <= 1e-12
    assert relative_error(values[1], values[3]) <= 1e-12
    assert relative_error(values[0], dense(new, new)) <= 1e-10


def old_spectral_norm(layer):
    return nn.utils.spectral_norm(layer)


class Softplus(nn.Module):
    def forward(self, raw):
        return F.softplus(raw)


def parametrized(layer):
    nn.utils.parametrize.register_parametrization(layer, "weight", Softplus())
    return layer


WRAPS = {
    "old-spectral-norm": old_spectral_norm,
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


class Checkpointed(nn.Module):
    """A block with batch norm, dropout and a bend, optionally under activation checkpointing."""

    def __init__(self, use, reentrant=False):
        super().__init__()
        self.block = nn.Sequential(
            nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, 5)
        )
        self.head = nn.Linear(5, 3)
        self.use, self.reentrant = use, reentrant

    def forward(self, x):
        if not self.use:
            return self.head(self.block(x).square())
        return self.head(checkpoint(self.block, x, use_reentrant=self.reentrant).square())


def checkpointed(use, **kwargs):
    torch.manual_seed(0)
    return Checkpointed(use, **kwargs)


def test_activation_checkpointing_is_exact_for_implicit():
    plain, model = checkpointed(False), checkpointed(True)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    rng = torch.get_rng_state()
    method = br.Implicit(br.CG(max_steps=10), damping=20.0)
    assert relative_error(gradient(model, model, method), gradient(plain, plain, method)) <= 1e-12
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("method", [UNROLL, FIRST_ORDER], ids=["unroll", "fd"])
@pytest.mark.parametrize("where", ["inner", "outer"])
def test_activation_checkpointing_away_from_the_live_weights(method, where):
    """The recomputation sees the live weights: right, or refused with a sentence, never wrong."""

    def run(use):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        wrapped = functools.partial(checkpoint, model, use_reentrant=False) if use else model
        forwards = {"inner": (wrapped, model), "outer": (model, wrapped)}[where]
        return gradient(model, forwards[0], method, outer_forward=forwards[1])

    try:
        value = run(True)
    except br.InputError as error:
        assert "activation checkpointing" in str(error)
    else:
        assert relative_error(value, run(False)) <= 1e-10


def test_unroll_refuses_activation_checkpointing():
    model = checkpointed(True)
    with pytest.raises(br.InputError, match="activation checkpointing.*br.Unroll|br.Implicit"):
        gradient(model, model, UNROLL)


@pytest.mark.parametrize("method", [EXACT, UNROLL, FIRST_ORDER], ids=["implicit", "unroll", "fd"])
def test_reentrant_checkpointing_is_refused(method):
    model = checkpointed(True, reentrant=True)
    x, y = batch()
    decay, nested = nest(model, model, method)
    with pytest.raises(br.InputError, match="reentrant activation checkpointing"):
        nested((x.clone().requires_grad_(), y), (x, y))


def test_checkpointed_attention_recomputes_with_the_same_kernel():
    values = []
    for use in (False, True):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, batch_first=True)
        model = nn.ModuleList([layer, nn.Linear(4, 3)])

        def forward(x, model=model, use=use):
            x = x.reshape(-1, 2, 4)
            x = checkpoint(model[0], x, use_reentrant=False) if use else model[0](x)
            return model[1](x.flatten(0, 1))

        values.append(gradient(model, forward, br.Implicit(br.CG(max_steps=6), damping=3.0)))
    assert relative_error(values[1], values[0]) <= 1e-12


def test_a_checkpoint_that_does_not_keep_the_rng_leaves_the_global_one_alone():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3))
    forward = functools.partial(checkpoint, model, use_reentrant=False, preserve_rng_state=False)
    before = torch.get_rng_state()
    gradient(model, forward, br.Implicit(br.CG(max_steps=2), damping=3.0))
    assert torch.equal(torch.get_rng_state(), before)


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
