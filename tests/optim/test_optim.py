"""Each rule against torch.optim step by step; its derivatives against central differences."""

import copy
import itertools

import pytest
import torch

import bestresponse as br
from checks import assert_same, central_difference, relative_error

SGD, MOMENTUM, ADAM = br.optim.SGD, br.optim.Momentum, br.optim.Adam
T = torch.optim

PAIRS = {
    "sgd": (SGD(0.1), lambda p: T.SGD(p, 0.1)),
    "sgd-decay": (SGD(0.1, 0.3), lambda p: T.SGD(p, 0.1, weight_decay=0.3)),
    "momentum": (MOMENTUM(0.1, 0.8), lambda p: T.SGD(p, 0.1, 0.8)),
    "dampened": (MOMENTUM(0.1, 0.8, 0.4), lambda p: T.SGD(p, 0.1, 0.8, 0.4)),
    "nesterov": (MOMENTUM(0.1, 0.8, nesterov=True), lambda p: T.SGD(p, 0.1, 0.8, nesterov=True)),
    "momentum-decay": (
        MOMENTUM(0.1, 0.8, weight_decay=0.3),
        lambda p: T.SGD(p, 0.1, 0.8, weight_decay=0.3),
    ),
    "adam": (ADAM(0.1), lambda p: T.Adam(p, 0.1)),
    "adam-betas": (ADAM(0.1, (0.5, 0.7), 1e-3), lambda p: T.Adam(p, 0.1, (0.5, 0.7), 1e-3)),
    "adam-decay": (ADAM(0.1, weight_decay=0.3), lambda p: T.Adam(p, 0.1, weight_decay=0.3)),
    "adam-no-momentum": (ADAM(0.1, (0.0, 0.9)), lambda p: T.Adam(p, 0.1, (0.0, 0.9))),
    "adamw": (
        ADAM(0.1, weight_decay=0.3, decoupled=True),
        lambda p: T.AdamW(p, 0.1, weight_decay=0.3),
    ),
    "adam-decoupled": (
        ADAM(0.1, weight_decay=0.3, decoupled=True),
        lambda p: T.Adam(p, 0.1, weight_decay=0.3, decoupled_weight_decay=True),
    ),
}
EXACT = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}


def value_of(setting):
    return setting


def start(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    shapes = {"a": (3, 2), "b": (4,), "c": ()}
    params = {name: draw(*shape).to(dtype) for name, shape in shapes.items()}
    grads = [{name: draw(*shape).to(dtype) for name, shape in shapes.items()} for _ in range(9)]
    return params, grads


def torch_steps(optimizer, leaves, grads):
    for step in grads:
        for name, leaf in leaves.items():
            leaf.grad = step[name].clone()
        optimizer.step()
        yield {name: leaf.detach().clone() for name, leaf in leaves.items()}


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_rules_equal_torch_step_by_step(name, dtype):
    rule, make = PAIRS[name]
    params, grads = start(dtype)
    leaves = {key: torch.nn.Parameter(leaf.clone()) for key, leaf in params.items()}
    state = rule.init(params)
    for step, expected in zip(
        grads, torch_steps(make(list(leaves.values())), leaves, grads), strict=True
    ):
        before = params
        params, state = rule.update(params, step, state, value_of)
        assert all(params[key].dtype == dtype for key in params)
        moved = {key: params[key].double() - before[key].double() for key in params}
        wanted = {key: expected[key].double() - before[key].double() for key in params}
        assert relative_error(params, expected) <= EXACT[dtype]
        assert relative_error(moved, wanted) <= max(20 * EXACT[dtype], 1e-11) * (
            1 if dtype is not torch.bfloat16 else 2
        )
        params = {key: leaf.clone() for key, leaf in expected.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("default", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_from_torch_continues_in_the_middle_of_training(name, dtype, default):
    torch.set_default_dtype(default)  # torch.optim counts steps in the default type
    params, grads = start(dtype)
    leaves = {key: torch.nn.Parameter(leaf.clone()) for key, leaf in params.items()}
    optimizer = PAIRS[name][1](list(leaves.values()))
    before = list(torch_steps(optimizer, leaves, grads[:4]))[-1]
    rule = br.optim.from_torch(optimizer).resolve(leaves)
    live = copy.deepcopy(optimizer.state_dict())
    state = rule.init(before)
    ours = before
    for step in grads[4:]:
        ours, state = rule.update(ours, step, state, value_of)
    assert_same(live, optimizer.state_dict())
    theirs = list(torch_steps(optimizer, leaves, grads[4:]))[-1]
    assert relative_error(ours, theirs) <= EXACT[dtype]


GROUPS = {
    "sgd": lambda a, b, c: T.SGD(
        [{"params": [a], "lr": 0.3}, {"params": [b], "momentum": 0.9}, {"params": [c]}],
        lr=0.1,
        weight_decay=0.2,
    ),
    "adam": lambda a, b, c: T.Adam(
        [{"params": [a], "lr": 0.3}, {"params": [b, c], "betas": (0.5, 0.6)}], lr=0.1
    ),
    "adamw": lambda a, b, c: T.AdamW(
        [{"params": [b], "weight_decay": 0.5}, {"params": [c, a], "eps": 0.1}], lr=0.1
    ),
}


def quadratic(params, hyper):
    """Coupled over tensors; λ enters the curvature and the optimum."""
    total = params["a"].sum() + params["b"].sum() * params["c"]
    squares = sum((leaf**2).sum() for leaf in params.values())
    return (total - hyper["t"]) ** 2 + hyper["d"].exp() * squares + params["a"].prod()


def loss(params, hyper):
    return sum(((leaf - 0.3) ** 2).sum() for leaf in params.values()) + 0.1 * hyper["d"]


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("name", GROUPS)
def test_unroll_follows_groups_schedules_and_state_of_a_live_optimizer(name, scheduled):
    params, grads = start()
    leaves = {key: torch.nn.Parameter(leaf.clone()) for key, leaf in params.items()}
    optimizer = GROUPS[name](*leaves.values())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    rules = br.optim.from_torch(optimizer)  # made before the schedule moves
    for _ in torch_steps(optimizer, leaves, grads[:4]):
        if scheduled:
            schedule.step()
    hyper = {"t": torch.tensor(0.5), "d": torch.tensor(-1.0)}
    before = copy.deepcopy(optimizer.state_dict())
    weights = {key: leaf.detach().clone() for key, leaf in leaves.items()}
    method = br.Unroll(rules, steps=3)
    report = br.hypergradient(quadratic, loss, leaves, hyper, method).report
    assert_same(before, optimizer.state_dict())
    assert_same(weights, {key: leaf.detach() for key, leaf in leaves.items()})
    for _ in range(3):
        optimizer.zero_grad()
        quadratic(leaves, hyper).backward()
        optimizer.step()
    assert relative_error(report.params, leaves) <= 1e-12


UNROLLED = {
    **{name: rule for name, (rule, _) in PAIRS.items() if name != "adam-no-momentum"},
    "learned-lr": SGD(lr=lambda hyper: 0.2 * hyper["d"].exp()),
    "learned-decay": SGD(0.1, weight_decay=lambda hyper: hyper["d"].exp()),
    "learned-momentum": MOMENTUM(0.1, momentum=lambda hyper: torch.sigmoid(hyper["d"])),
    "learned-betas": ADAM(
        lambda hyper: 0.1 * hyper["t"],
        betas=(lambda hyper: torch.sigmoid(hyper["d"]), lambda hyper: torch.sigmoid(hyper["t"])),
    ),
    "learned-adamw-decay": ADAM(0.1, weight_decay=lambda hyper: hyper["t"], decoupled=True),
}


@pytest.mark.parametrize("checkpoint", [None, 1, 2])
@pytest.mark.parametrize("name", UNROLLED)
def test_derivatives_equal_central_differences_through_the_steps(name, checkpoint):
    params, _ = start()
    hyper = {"t": torch.tensor(0.5), "d": torch.tensor(-1.0)}
    method = br.Unroll(UNROLLED[name], steps=5, checkpoint=checkpoint)
    run = lambda at: br.hypergradient(quadratic, loss, params, at, method)  # noqa: E731
    difference = central_difference(lambda at: run(at).loss, hyper, step=1e-5)
    assert relative_error(run(hyper).value, difference) <= 1e-6


@pytest.mark.parametrize("name", GROUPS)
def test_derivatives_through_copied_state_equal_central_differences(name):
    params, grads = start()
    leaves = {key: torch.nn.Parameter(leaf.clone()) for key, leaf in params.items()}
    optimizer = GROUPS[name](*leaves.values())
    list(torch_steps(optimizer, leaves, grads[:3]))
    hyper = {"t": torch.tensor(0.5), "d": torch.tensor(-1.0)}
    for checkpoint in (None, 2):
        method = br.Unroll(br.optim.from_torch(optimizer), steps=4, checkpoint=checkpoint)
        run = lambda at, m=method: br.hypergradient(quadratic, loss, leaves, at, m)  # noqa: E731
        difference = central_difference(lambda at, run=run: run(at).loss, hyper, step=1e-5)
        assert relative_error(run(hyper).value, difference) <= 1e-6


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_adam_at_zero_gradient_has_finite_derivatives(steps, decoupled):
    inner = lambda p, h: 0.5 * ((p["w"] - h["a"]) ** 2).sum()  # noqa: E731
    outer = lambda p, h: (p["w"] * torch.arange(1.0, 4.0)).sum()  # noqa: E731
    w = torch.tensor([1.0, 2.0, 3.0])
    at = {"w": w}, {"a": torch.tensor([1.0, 2.0, 0.0])}  # two of three at rest
    result = br.hypergradient(inner, outer, *at, br.Unroll(ADAM(0.1, decoupled=decoupled), steps))
    assert torch.isfinite(result.value["a"]).all()
    assert torch.equal(result.report.params["w"][:2], w[:2])


def test_a_large_number_of_steps_is_counted_in_low_precision():
    rule, weight = ADAM(1e-3), {"w": torch.ones(2, dtype=torch.bfloat16)}
    state = rule.init(weight)
    for _ in range(300):
        _, state = rule.update(weight, weight, state, value_of)
    assert float(state["step"]["w"]) == 300


def test_there_is_a_pair_for_every_rule():
    tested = {type(rule) for rule, _ in itertools.chain(PAIRS.values())}
    assert tested == {SGD, MOMENTUM, ADAM}
