"""Nested over live modules: what it attaches, selections, batches, precision, clipping, reports."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from checks import call_gradient, dense_hypergradient, relative_error
from problems import network, tuned_network

DAMPING = 3.0
EXACT = br.Implicit(br.Dense(), damping=DAMPING)
METHODS = {
    "implicit": br.Implicit(br.CG(max_steps=4), damping=DAMPING),
    "unroll": br.Unroll(br.optim.SGD(0.2), steps=3),
    "finite-difference": br.FiniteDifference(br.CG(max_steps=4), damping=DAMPING),
}


def body():
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))


def build(model, decay, params=None, hyper=None, method=EXACT, **kwargs):
    return br.Nested(
        params=params or model,
        hyper=hyper or decay,
        inner=lambda x, y: F.cross_entropy(model(x), y) + decay(model),
        outer=lambda x, y: F.cross_entropy(model(x), y) + 0.1 * decay(model),
        method=method,
        **kwargs,
    )


def dense(model, decay, params, hyper, batch):
    inner = lambda: F.cross_entropy(model(batch[0]), batch[1]) + decay(model)  # noqa: E731
    outer = lambda: F.cross_entropy(model(batch[0]), batch[1]) + 0.1 * decay(model)  # noqa: E731
    return dense_hypergradient(params, hyper, inner, outer, DAMPING)


SELECTIONS = {
    "all": (lambda m: m, lambda m: [*m.parameters()]),
    "filter": (
        lambda m: br.select(m, lambda name: name.startswith("2.")),
        lambda m: [*m[2].parameters()],
    ),
    "several": (lambda m: [m[2], m[0]], lambda m: [*m[2].parameters(), *m[0].parameters()]),
    "several-filtered": (
        lambda m: (br.select(m[0], lambda name: name == "weight"), m[2]),
        lambda m: [m[0].weight, *m[2].parameters()],
    ),
    "overlapping": (lambda m: [m[0], m], lambda m: [*m.parameters()]),
}


@pytest.mark.parametrize("which", SELECTIONS)
def test_selections_of_parameters_equal_the_dense_solve(which):
    model, (_, batch) = body(), network("logistic")
    decay = br.hyper.WeightDecay(model, per="model", init=0.1)
    choose, expected = SELECTIONS[which]
    nested = build(model, decay, params=choose(model))
    value, _ = call_gradient(nested, decay, batch, batch)
    reference = dense(model, decay, expected(model), decay.parameters(), batch)
    assert relative_error(value, reference) <= 1e-10


def test_frozen_parameters_are_left_out_and_may_change_between_calls():
    model, (_, batch) = body(), network("logistic")
    decay = br.hyper.WeightDecay(model, per="model", init=0.1)
    nested = build(model, decay)
    values = []
    for trainable in (False, True):
        model[0].requires_grad_(trainable)
        live = [p for p in model.parameters() if p.requires_grad]
        value, _ = call_gradient(nested, decay, batch, batch)
        assert relative_error(value, dense(model, decay, live, decay.parameters(), batch)) <= 1e-10
        values.append(value)
    assert relative_error(*values) > 1e-3


def test_only_the_selected_hyperparameters_get_a_gradient():
    model, (_, batch) = body(), network("logistic")
    decay = br.hyper.WeightDecay(model, per="tensor", init=0.1)
    chosen = br.select(decay, lambda name: "2|weight" in name)
    build(model, decay, hyper=chosen)(batch, batch)[0].backward()
    grads = {name: p.grad for name, p in decay.named_parameters()}
    assert [name.endswith("2|weight") for name, g in grads.items() if g is not None] == [True]
    assert all(p.grad is None for p in model.parameters())
    got = next(g for g in grads.values() if g is not None)
    reference = dense(model, decay, model.parameters(), chosen.parameters(), batch)
    assert relative_error(got, reference) <= 1e-10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", ["list", "mapping", "batches", "two-batches"])
def test_forms_of_a_batch(form, method):
    model, (_, (x, y)) = body(), network("logistic")
    decay = br.hyper.WeightDecay(model, per="model", init=0.1)
    nested = build(model, decay, method=METHODS[method])
    reference, _ = call_gradient(nested, decay, (x, y), (x, y))
    given = {
        "list": ([x, y], [x, y]),
        "mapping": ({"y": y, "x": x}, {"x": x, "y": y}),
        "batches": (br.Batches([(x, y)] * 3), (x, y)),
        "two-batches": (br.Batches(iter([[x, y], {"x": x, "y": y}, (x, y)])), [x, y]),
    }[form]
    assert relative_error(call_gradient(nested, decay, *given)[0], reference) <= 1e-8


def test_the_attached_gradient_behaves_like_one():
    _, decay, nested, batch = tuned_network("logistic", METHODS["implicit"])
    once, _ = call_gradient(nested, decay, batch, batch)
    loss, report = nested(batch, batch)
    assert loss.item() == pytest.approx(report.outer_loss)
    (65536.0 * loss / 4).backward()  # a GradScaler and gradient accumulation
    total = torch.cat([p.grad.reshape(-1) for p in decay.parameters()])
    assert relative_error(total - once, 16384 * once) <= 1e-12
    grads = torch.autograd.grad(nested(batch, batch)[0], list(decay.parameters()))
    assert relative_error(torch.cat([g.reshape(-1) for g in grads]), once) <= 1e-15
    with pytest.raises(br.InputError, match="create_graph=True cannot differentiate"):
        nested(batch, batch)[0].backward(create_graph=True)


@pytest.mark.parametrize("method", METHODS)
def test_no_grad_is_no_obstacle_and_inference_mode_is_refused(method):
    _, decay, nested, batch = tuned_network("logistic", METHODS[method])
    _, report = call_gradient(nested, decay, batch, batch)
    with torch.no_grad():
        loss, again = nested(batch, batch)
    assert again.indirect_norm == report.indirect_norm > 0
    assert loss.item() == report.outer_loss
    with torch.inference_mode(), pytest.raises(br.InputError, match="inference mode"):
        nested(batch, batch)


@pytest.mark.parametrize("method", METHODS)
def test_autocast_covers_the_closures_and_never_the_solve(method):
    model, (_, (x, y)) = body().float(), network("logistic")
    decay = br.hyper.WeightDecay(model, init=0.1)
    seen = {"model": set(), "backward": set()}

    def mark(module, args, out):
        seen["model"].add(out.dtype)
        out.register_hook(lambda grad: seen["backward"].add(torch.is_autocast_enabled("cpu")))

    model[2].register_forward_hook(lambda m, a, out: mark(m, a, out) if out.requires_grad else None)
    nested = build(model, decay, method=METHODS[method])
    exact, _ = call_gradient(nested, decay, (x.float(), y), (x.float(), y))
    seen["model"].clear()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = nested((x.float(), y), (x.float(), y))
        assert torch.is_autocast_enabled("cpu")
    for parameter in decay.parameters():
        parameter.grad = None
    loss.backward()
    value = torch.cat([p.grad.reshape(-1) for p in decay.parameters()])
    assert seen == {"model": {torch.bfloat16}, "backward": {False}}
    assert value.dtype == torch.float32
    if method != "finite-difference":  # eight bits are too few to difference
        assert relative_error(value, exact) <= 0.1


def test_mixed_types_in_a_module():
    model, (_, (x, y)) = body(), network("logistic")
    decay = br.hyper.WeightDecay(model, init=0.1)
    reference, _ = call_gradient(build(model, decay), decay, (x, y), (x, y))
    model[0].float()
    forward = lambda x: model[2](torch.tanh(model[0](x.float())).double())  # noqa: E731
    nested = br.Nested(
        model,
        decay,
        lambda x, y: F.cross_entropy(forward(x), y) + decay(model),
        lambda x, y: F.cross_entropy(forward(x), y) + 0.1 * decay(model),
        EXACT,
    )
    value, report = call_gradient(nested, decay, (x, y), (x, y))
    assert relative_error(value, reference) <= 1e-5
    assert report.relative_residual <= 1e-12  # the solve is in float64


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_max_norm_clips(factor):
    torch.manual_seed(0)
    _, decay, nested, batch = tuned_network("logistic", METHODS["implicit"])
    free, report = call_gradient(nested, decay, batch, batch)
    assert report.clipped_from is None
    limit = factor * float(free.norm())
    torch.manual_seed(0)
    _, decay, nested, _ = tuned_network("logistic", METHODS["implicit"], max_norm=limit)
    value, report = call_gradient(nested, decay, batch, batch)
    if factor < 1:
        assert relative_error(value, factor * free) <= 1e-12
        assert report.clipped_from == pytest.approx(float(free.norm()))
    else:
        assert relative_error(value, free) <= 1e-12
        assert report.clipped_from is None


OVERFLOWS = {
    "diverging": br.Implicit(br.Neumann(lr=1.0, max_steps=5)),
    "nonfinite": br.Implicit(br.Neumann(lr=1.0, max_steps=60)),
    "unroll": br.Unroll(br.optim.SGD(1.0), steps=40),
    "dense": br.Implicit(br.Dense()),
}


@pytest.mark.parametrize("name", OVERFLOWS)
def test_a_non_finite_number_is_never_attached(name):
    torch.set_default_dtype(torch.float32)
    weight, hyper = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        weight.weight.fill_(1e20)
        hyper.weight.fill_(0.0 if name == "dense" else 1e4)
    inner = lambda: 0.5 * (hyper.weight * weight.weight * weight.weight).sum()  # noqa: E731
    outer = lambda: weight.weight.sum()  # noqa: E731
    args = (weight, hyper, inner, outer, OVERFLOWS[name])
    with pytest.raises(br.SolveError):
        br.Nested(*args)()
    loss, report = br.Nested(*args, throw=False)()
    assert report.result.is_error
    if loss.requires_grad:
        loss.backward()
        assert torch.isfinite(hyper.weight.grad).all()
