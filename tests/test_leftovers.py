"""What a call leaves on the live modules: nothing."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from problems import decayed_problem, network

METHOD = br.Implicit(br.CG(max_steps=4), damping=3.0)
UNROLL = br.Unroll(br.optim.SGD(0.3), steps=3)


class Token:
    """Something that can be referred to weakly."""


@pytest.mark.parametrize("method", [METHOD, UNROLL], ids=["implicit", "unroll"])
@pytest.mark.parametrize("kind", ["mlp", "lstm", "attention"])
def test_no_graph_is_kept_after_a_call(kind, method):
    model, batch = network(kind)
    _, nested = decayed_problem(model, model, method)
    seen = []

    def mark(module, args, out):
        """A graph node keeps what is put into its metadata alive for as long as it lives."""
        if out.grad_fn is not None:
            token = Token()
            out.grad_fn.metadata["token"] = token
            seen.append(weakref.ref(token))

    model.register_forward_hook(mark)
    loss, _ = nested(batch, batch)
    loss.backward()
    gc.collect()
    assert len(seen) >= 2
    assert all(token() is None for token in seen)
    own = {id(p) for p in model.parameters()}
    for module in model.modules():
        for value in getattr(module, "_flat_weights", []):
            assert id(value) in own


class Stashing(nn.Module):
    """Keeps its last activation, as modules with auxiliary losses do."""

    def __init__(self):
        super().__init__()
        self.layer, self.last, self.calls = nn.Linear(4, 3), None, 0

    def forward(self, x):
        self.last, self.calls = self.layer(x), self.calls + 1
        return self.last


def test_plain_attributes_are_put_back():
    _, (x, y) = network("logistic")
    model = Stashing()
    decay = br.hyper.WeightDecay(model, init=0.1)
    nested = br.Nested(
        params=model,
        hyper=decay,
        inner=lambda x, y: F.cross_entropy(model(x), y) + model.last.square().mean() + decay(model),
        outer=lambda x, y: F.cross_entropy(model(x), y),
        method=METHOD,
    )
    nested((x, y), (x, y))
    assert model.last is None
    assert model.calls == 0


class Clamped(nn.Linear):
    """Keeps its weights in a box by changing them in place."""

    def forward(self, x):
        with torch.no_grad():
            self.weight.clamp_(-0.1, 0.1)
        return super().forward(x)


IN_PLACE = {
    "max-norm": (lambda: nn.Embedding(6, 4, max_norm=0.5), torch.arange(6)),
    "clamp": (lambda: Clamped(4, 3), torch.ones(2, 4, dtype=torch.float64)),
}


@pytest.mark.parametrize("method", [METHOD, UNROLL], ids=["implicit", "unroll"])
@pytest.mark.parametrize("kind", IN_PLACE)
def test_weights_that_a_forward_pass_changes_in_place_are_kept_or_refused(kind, method):
    make, x = IN_PLACE[kind]
    model = make()
    decay = br.hyper.WeightDecay(model, init=0.1, biases=True)
    before = model.weight.detach().clone()
    loss = lambda x: (model(x) - 1).square().mean()  # noqa: E731
    try:
        br.Nested(model, decay, lambda x: loss(x) + decay(model), loss, method)((x,), (x,))
    except br.InputError as error:
        assert "in place" in str(error)
    assert torch.equal(model.weight, before)


class Caching(nn.Module):
    """Registers a buffer the first time it runs, as rotary embeddings do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        if "scale" not in dict(self.named_buffers()):
            self.register_buffer("scale", torch.full((4,), 0.5, dtype=x.dtype))
        return self.layer(x * self.scale)


class Replacing(nn.Module):
    """Puts a new tensor in the place of its buffer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.layer(x - self.mean)


@pytest.mark.parametrize("method", [METHOD, UNROLL], ids=["implicit", "unroll"])
@pytest.mark.parametrize("make", [Caching, Replacing])
def test_buffers_that_come_or_are_replaced_while_a_closure_runs(make, method):
    model, (_, batch) = make(), network("logistic")
    _, nested = decayed_problem(model, model, method)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for _ in range(2):
        _, report = nested(batch, batch)
        assert report.indirect_norm > 0
        after = model.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
