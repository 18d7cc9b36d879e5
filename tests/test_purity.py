"""A call leaves everything as it was, draws from its own stream, and repeats what it drew."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import bestresponse as br
from checks import assert_same, call_gradient, relative_error, snapshot
from problems import network, tuned_network

METHODS = {
    "cg": br.Implicit(br.CG(max_steps=4), damping=6.0),
    "cg-tolerance": br.Implicit(br.CG(max_steps=9, rtol=1e-3), damping=6.0),
    "neumann": br.Implicit(br.Neumann(lr=0.05, max_steps=4), damping=1.0),
    "dense": br.Implicit(br.Dense(), damping=6.0),
    "scale": br.Implicit(br.Scale(0.1)),
    "unroll": br.Unroll(br.optim.SGD(0.1), steps=4),
    "unroll-checkpoint": br.Unroll(br.optim.Adam(0.01), steps=4, checkpoint=2),
    "unroll-truncate": br.Unroll(br.optim.Momentum(0.1), steps=4, truncate=2),
    "finite-difference": br.FiniteDifference(br.CG(max_steps=3), damping=6.0),
}
KINDS = ("mlp", "lstm", "attention")


def trained(kind, method, **kwargs):
    """A tuned network in the middle of training: gradients and optimizer state are there."""
    torch.manual_seed(0)
    model, decay, nested, batch = tuned_network(kind, method, **kwargs)
    name, last = list(model.named_parameters())[-1]  # it is frozen, and so is its decay
    last.requires_grad_(False)
    own = [p for key, p in decay.named_parameters() if key.endswith(name.replace(".", "|"))]
    own[0].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1, 0.9)
    nested.inner_loss(*batch).backward()
    optimizer.step()
    hyper_optimizer = torch.optim.Adam(decay.parameters(), lr=0.1)
    return model, decay, nested, batch, [optimizer, hyper_optimizer]


def everything(model, decay, optimizers):
    numpy_state = np.random.get_state()
    return (
        snapshot(model, decay, optimizers=optimizers),
        [p.data_ptr() for p in [*model.parameters(), *decay.parameters()]],
        [b.data_ptr() for b in model.buffers()],
        [str(optimizer.param_groups) for optimizer in optimizers],
        (numpy_state[1].tolist(), numpy_state[2]),
        random.getstate(),
        (torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")),
        torch.backends.cudnn.enabled,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METHODS)
def test_a_call_changes_nothing(name, kind):
    model, decay, nested, batch, optimizers = trained(kind, METHODS[name])
    next(model.children()).eval()  # a mixture of modes
    before = everything(model, decay, optimizers)
    _, report = nested(batch, batch)
    assert not report.result.is_error
    assert_same(before, everything(model, decay, optimizers))


@pytest.mark.parametrize("where", ["inner", "outer", "second-inner"])
@pytest.mark.parametrize("name", METHODS)
def test_a_call_that_raises_changes_nothing(name, where):
    class Boom(Exception):
        pass

    model, decay, _, batch, optimizers = trained("mlp", METHODS[name])
    calls = {"inner": 0, "outer": 0}

    def closure(role):
        def loss(x, y):
            out = F.cross_entropy(model(x), y) + (decay(model) if role == "inner" else 0)
            calls[role] += 1
            if role == where.removeprefix("second-") and calls[role] > where.startswith("second"):
                raise Boom
            return out

        return loss

    frozen = br.select(model, lambda n: n != "4.bias")
    decay = br.hyper.WeightDecay(model, init=0.1)
    nested = br.Nested(frozen, decay, closure("inner"), closure("outer"), METHODS[name])
    before = everything(model, decay, optimizers)
    several = "unroll" in name or name == "finite-difference"
    if where == "second-inner" and not several:
        nested(batch, batch)
    else:
        with pytest.raises(Boom):
            nested(batch, batch)
    assert_same(before, everything(model, decay, optimizers))


DRAWING = [name for name in METHODS if name != "scale"]  # its q never sees the inner loss


@pytest.mark.parametrize("name", DRAWING)
def test_two_calls_draw_different_masks_and_a_loaded_state_repeats_them(name):
    _, decay, nested, batch, _ = trained("mlp", METHODS[name])
    state = nested.state_dict()
    first, second = (call_gradient(nested, decay, batch, batch)[0] for _ in range(2))
    assert relative_error(second, first) > 1e-3
    nested.load_state_dict(state)
    for expected in (first, second):
        assert torch.equal(call_gradient(nested, decay, batch, batch)[0], expected)


def test_the_seed_decides_the_draws_and_the_global_one_does_not():
    values = []
    for seed, global_seed in ((0, 1), (0, 2), (1, 1)):
        _, decay, nested, batch, _ = trained("mlp", METHODS["cg"], seed=seed)
        torch.manual_seed(global_seed)
        values.append(call_gradient(nested, decay, batch, batch)[0])
    assert torch.equal(values[0], values[1])
    assert relative_error(values[2], values[0]) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_all_products_of_a_call_see_one_mask(kind):
    """CG could not converge to the dense solve of one matrix if the matrix changed under it."""
    values = []
    for solver in (br.Dense(), br.CG(max_steps=200)):
        _, decay, nested, batch, _ = trained(kind, br.Implicit(solver, damping=6.0))
        value, report = call_gradient(nested, decay, batch, batch)
        values.append(value)
        assert report.relative_residual < 1e-10
    assert relative_error(values[1], values[0]) <= 1e-9


def test_both_gradients_of_a_difference_see_one_mask():
    values = []
    for epsilon in (1e-3, 1e-5):
        method = br.FiniteDifference(br.CG(max_steps=3), epsilon=epsilon, damping=6.0)
        _, decay, nested, batch, _ = trained("mlp", method)
        values.append(call_gradient(nested, decay, batch, batch)[0])
    assert relative_error(values[1], values[0]) <= 0.05  # of order 1/epsilon with two masks


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["mlp", "attention"])
def test_training_goes_on_as_if_there_had_been_no_call(kind, name):
    trajectories = []
    for calls in (False, True):
        torch.manual_seed(0)
        model, _, nested, batch = tuned_network(kind, METHODS[name])
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        losses = []
        for _ in range(4):
            optimizer.zero_grad()
            loss = nested.inner_loss(*batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if calls:
                nested(batch, batch)[0].backward()
        trajectories.append((losses, dict(model.state_dict()), torch.get_rng_state()))
    assert_same(*trajectories)


def test_a_call_between_forward_and_backward_does_no_harm():
    values = []
    for calls in (False, True):
        torch.manual_seed(0)
        model, _, nested, batch = tuned_network("mlp", METHODS["unroll"])
        loss = nested.inner_loss(*batch)
        if calls:
            nested(batch, batch)
        loss.backward()
        values.append([p.grad for p in model.parameters()])
    assert_same(*values)


def test_the_outer_closure_runs_in_eval_mode_unless_told():
    model, batch = network("mlp")
    modes = []
    decay = br.hyper.WeightDecay(model, init=0.1)

    def outer(x, y):
        modes.append([module.training for module in model.modules()])
        return F.cross_entropy(model(x), y)

    for outer_training in (False, True):
        inner = lambda x, y: F.cross_entropy(model(x), y) + decay(model)  # noqa: E731
        br.Nested(model, decay, inner, outer, METHODS["scale"], outer_training=outer_training)(
            batch, batch
        )
    assert not any(modes[0])
    assert all(modes[1])
    assert model.training
