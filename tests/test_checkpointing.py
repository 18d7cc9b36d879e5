"""Activation checkpointing: exact at the live weights, refused away from them, and pure."""

import functools

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import bestresponse as br
from checks import call_gradient, relative_error
from problems import decayed_problem

EXACT = br.Implicit(br.Dense(), damping=3.0)
UNROLL = br.Unroll(br.optim.SGD(0.3), steps=4)
FIRST_ORDER = br.FiniteDifference(br.CG(max_steps=8), damping=3.0)


def batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(12, 4, generator=generator)
    return x, torch.randint(3, (12,), generator=generator)


def gradient(model, forward, method, **kwargs):
    decay, nested = decayed_problem(model, forward, method, **kwargs)
    return call_gradient(nested, decay, batch(), batch())[0]


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
    with pytest.raises(br.InputError, match=r"activation checkpointing.*br\.Implicit"):
        gradient(model, model, UNROLL)


@pytest.mark.parametrize("method", [EXACT, UNROLL, FIRST_ORDER], ids=["implicit", "unroll", "fd"])
def test_reentrant_checkpointing_is_refused(method):
    model = checkpointed(True, reentrant=True)
    x, y = batch()
    x.requires_grad_()  # without, reentrant checkpointing itself warns
    _, nested = decayed_problem(model, model, method)
    with pytest.raises(br.InputError, match="reentrant activation checkpointing"):
        nested((x, y), (x, y))


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


def test_checkpointed_weight_norm_is_refused():
    """Its recomputation would use PyTorch's own kernel, whose second derivative is wrong."""
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 5))
    model = nn.Sequential(layer, nn.Tanh(), nn.Linear(5, 3))
    forward = functools.partial(checkpoint, model, use_reentrant=False)
    with pytest.raises(br.InputError, match="checkpointing recomputed something else"):
        gradient(model, forward, br.Implicit(br.CG(max_steps=6), damping=3.0))
