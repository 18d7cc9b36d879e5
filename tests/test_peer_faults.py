"""Faults found in peers' code, each as a test that this library passes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from checks import call_gradient, central_difference, dense_hypergradient, relative_error
from problems import Ridge, tuned_network


def dropout_network(p, method, seed=0):
    """One decay a weight of a small network with dropout, as a live problem."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(p), nn.Linear(6, 3))
    decay = br.hyper.WeightDecay(model, init=0.1, biases=True)
    x, y = torch.randn(16, 4), torch.randint(3, (16,))
    gate = br.hyper.Bounded(gain=(0.0, 2.0, torch.ones(6)))
    nested = br.Nested(
        params=model,
        hyper=[decay, gate],
        inner=lambda: F.cross_entropy(model[3](model[:3](x) * gate.gain), y) + decay(model),
        outer=lambda: F.cross_entropy(model(x), y),
        method=method,
        seed=seed,
    )
    return nn.ModuleList([decay, gate]), nested


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5])
def test_betty_differences_with_unpinned_masks(p):
    """Betty's default was off by a factor of 71 at p = 0.1."""
    values = []
    for method in (br.Implicit(br.Scale(1.0)), br.FiniteDifference(br.Scale(1.0))):
        hyper, nested = dropout_network(p, method)
        values.append(call_gradient(nested, hyper)[0])
    assert relative_error(values[1], values[0]) <= 1e-7


@pytest.mark.parametrize("scale", [1e-4, 0.1, 7.0, 1e4])
def test_betty_scaled_cg(scale):
    """A scaling of the operator must come back in the answer, and in it alone."""
    generator = torch.Generator().manual_seed(0)
    root, b = torch.randn(6, 6, generator=generator), torch.randn(6, generator=generator)
    operator = br.Matrix(root @ root.T + torch.eye(6))
    plain = br.linear_solve(operator, b, br.CG(max_steps=6)).value
    scaled = br.linear_solve(scale * operator, b, br.CG(max_steps=6)).value
    assert relative_error(scaled * scale, plain) <= 1e-10
    ridge, values = Ridge(), []
    for factor in (1.0, scale):
        result = br.hypergradient(
            lambda p, h, f=factor: f * ridge.inner(p, h),
            ridge.outer,
            ridge.best_response(ridge.hyper),
            ridge.hyper,
            br.Implicit(br.CG(max_steps=6)),
        )
        values.append(result.value)
    assert relative_error(values[1], values[0]) <= 1e-10


def test_betty_neumann_with_scale_one_diverges_loudly():
    ridge = Ridge()
    steep = lambda p, h: 100 * ridge.inner(p, h)  # noqa: E731
    at = ridge.best_response(ridge.hyper), ridge.hyper
    for steps in (5, 20, 400):
        with pytest.raises(br.SolveError, match=r"lower the solver's lr|infinite or NaN"):
            br.hypergradient(
                steep, ridge.outer, *at, br.Implicit(br.Neumann(lr=1.0, max_steps=steps))
            )


def test_betty_lost_parameter_groups():
    model, (x, y) = nn.Linear(4, 3), (torch.randn(8, 4), torch.randint(3, (8,)))
    decay = br.hyper.WeightDecay(model, init=0.1, biases=True)
    optimizer = torch.optim.SGD(
        [{"params": [model.weight], "lr": 0.5}, {"params": [model.bias], "lr": 0.0}], lr=0.1
    )
    loss = lambda: F.cross_entropy(model(x), y) + decay(model)  # noqa: E731
    method = br.Unroll(br.optim.from_torch(optimizer), steps=2)
    nested = br.Nested(model, decay, loss, lambda: F.cross_entropy(model(x), y), method)
    report = nested()[1]
    assert torch.equal(report.params["bias"], model.bias.detach())
    for _ in range(2):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert relative_error(report.params["weight"], model.weight) <= 1e-14


def coupled(p, h):
    """Two tensors whose mixed block is as large as their own."""
    joint = p["a"].sum() * 2 + (p["b"] * torch.arange(1.0, 4.0)).sum() - h["t"].sum()
    own = (h["d"].exp() * p["a"] ** 2).sum() + (p["b"] ** 2).sum()
    return 0.5 * joint**2 + 0.5 * own


@pytest.mark.parametrize("solver", [br.CG(max_steps=5), br.Dense(), br.Neumann(0.03, 4000)])
def test_torchopt_blocks_between_tensors(solver):
    hyper = {"t": torch.tensor([1.0, -2.0]), "d": torch.tensor([0.3, -0.4])}
    leaves = {"a": torch.zeros(2), "b": torch.zeros(3)}
    outer = lambda p, h: (p["a"] ** 2).sum() + (p["b"] - 1).pow(2).sum()  # noqa: E731

    def minimum(h):
        flat = torch.zeros(5, requires_grad=True)
        tree = lambda w: {"a": w[:2], "b": w[2:]}  # noqa: E731
        hessian = torch.autograd.functional.hessian(lambda w: coupled(tree(w), h), flat)
        gradient = torch.autograd.functional.jacobian(lambda w: coupled(tree(w), h), flat)
        return tree(-torch.linalg.solve(hessian, gradient))

    result = br.hypergradient(coupled, outer, minimum(hyper), hyper, br.Implicit(solver))
    difference = central_difference(lambda h: outer(minimum(h), h), hyper)
    assert relative_error(result.value, difference) <= 1e-6
    assert set(leaves) == set(minimum(hyper))


def test_torchopt_normal_equations_and_budget():
    """On the normal equations the condition number is squared, and 10·P products are spent."""
    n = 60
    operator = br.Diagonal(torch.logspace(0, 4, n))
    b = torch.ones(n)
    solution = br.linear_solve(operator, b, br.CG(rtol=1e-8, max_steps=2000))
    squared = br.linear_solve(
        br.Diagonal(operator.diagonal**2), operator.diagonal * b, br.CG(rtol=1e-8, max_steps=2000)
    )
    assert solution.result is br.Result.success
    assert 3 * solution.stats.products < squared.stats.products
    assert br.linear_solve(operator, b, br.CG()).stats.products == 20
    assert relative_error(solution.value, b / operator.diagonal) <= 1e-6


@pytest.mark.parametrize("decoupled", [False, True])
def test_torchopt_adam_nan_at_zero_gradient(decoupled):
    inner = lambda p, h: (h["a"] * torch.relu(p["w"])).sum()  # noqa: E731
    outer = lambda p, h: p["w"].square().sum()  # noqa: E731
    at = {"w": torch.tensor([-1.0, 2.0])}, {"a": torch.tensor([1.0, 1.0])}  # one unit is dead
    method = br.Unroll(br.optim.Adam(0.1, decoupled=decoupled), steps=3)
    value = br.hypergradient(inner, outer, *at, method).value["a"]
    assert torch.isfinite(value).all()
    assert value[0] == 0


@pytest.mark.parametrize("size", [1, 2, 5])
def test_hypertorch_previous_iterate(size):
    """n steps in n dimensions are exact; the iterate before is not."""
    generator = torch.Generator().manual_seed(size)
    root, b = (torch.randn(*s, generator=generator) for s in ((size, size), (size,)))
    matrix = root @ root.T + torch.eye(size)
    exact = torch.linalg.solve(matrix, b)
    solved = [br.linear_solve(br.Matrix(matrix), b, br.CG(max_steps=k)) for k in (size - 1, size)]
    assert relative_error(solved[1].value, exact) <= 1e-10
    assert relative_error(solved[0].value, exact) > 1e-3


def test_higher_optimizer_state_comes_back():
    """The live optimizer goes on as if nothing had been unrolled, from its own state."""
    runs = []
    for unrolled in (False, True):
        torch.manual_seed(0)
        model, _, nested, batch = tuned_network("logistic", br.Implicit())
        optimizer = torch.optim.Adam(model.parameters(), 0.1)
        nested.method = br.Unroll(br.optim.from_torch(optimizer), steps=4)
        nested.optimizer = optimizer
        for _ in range(5):
            optimizer.zero_grad()
            nested.inner_loss(*batch).backward()
            optimizer.step()
            report = nested(batch, batch)[1] if unrolled else None
        if unrolled:
            ahead = report.params
            for _ in range(4):  # what was unrolled is what training then does
                optimizer.zero_grad()
                nested.inner_loss(*batch).backward()
                optimizer.step()
            assert relative_error(ahead, dict(model.named_parameters())) <= 1e-12
        else:
            for _ in range(4):
                optimizer.zero_grad()
                nested.inner_loss(*batch).backward()
                optimizer.step()
        runs.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*runs, strict=True))


@pytest.mark.parametrize("products", [1, 2, 5])
def test_the_authors_code_rank_one_neumann(products):
    """The series is a power of the whole matrix, not of a product of two scalars."""
    ridge, lr = Ridge(), 0.3
    w = ridge.best_response(ridge.hyper)["w"]
    v = ridge.xv.T @ (ridge.xv @ w - ridge.yv)
    shrink = torch.eye(ridge.d) - lr * ridge.matrix(ridge.hyper)
    q = lr * sum(torch.linalg.matrix_power(shrink, j) @ v for j in range(products + 1))
    expected = 1.4 * ridge.hyper["log_decay"] - ridge.hyper["log_decay"].exp() * w * q
    method = br.Implicit(br.Neumann(lr, products))
    assert relative_error(ridge.hypergradient(method).value["log_decay"], expected) <= 1e-12


def test_the_authors_code_layers_with_a_bias():
    model, (x, y) = nn.Linear(3, 2), (torch.randn(9, 3), torch.randn(9, 2))
    decay = br.hyper.WeightDecay(model, init=0.5, biases=True)
    inner = lambda: F.mse_loss(model(x), y) + decay(model)  # noqa: E731
    outer = lambda: F.mse_loss(model(x), y + 1)  # noqa: E731
    nested = br.Nested(model, decay, inner, outer, br.Implicit(br.CG(max_steps=8)))
    value, _ = call_gradient(nested, decay)
    expected = dense_hypergradient(model.parameters(), decay.parameters(), inner, outer)
    assert relative_error(value, expected) <= 1e-10
    assert value.numel() == 8


@pytest.mark.parametrize("method", [br.Implicit(br.Dense()), br.Unroll(br.optim.SGD(0.3), 3)])
def test_the_authors_code_sign_of_the_direct_term(method):
    """The outer loss alone, as a function of λ at fixed weights, has the direct part's sign."""
    ridge = Ridge()
    result = ridge.hypergradient(method)
    at = result.report.params or ridge.best_response(ridge.hyper)
    direct = central_difference(lambda h: ridge.outer(at, h), ridge.hyper)
    assert relative_error(result.direct, direct) <= 1e-8
    total = {k: result.direct[k] + result.indirect[k] for k in result.value}
    assert relative_error(result.value, total) <= 1e-15
