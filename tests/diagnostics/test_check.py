"""`check` on problems whose hypergradient is known, and on each of the faults it is to name."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse.diagnostics import Cause
from bestresponse.solvers import Dense
from checks import assert_same, call_gradient, relative_error, snapshot
from problems import Ridge, decayed_problem, tuned_network

EXACT = br.Implicit(br.CG(max_steps=10))


class Leaves(nn.Module):
    """A tree of tensors as a module."""

    def __init__(self, tree, dtype=torch.float64):
        super().__init__()
        for name, leaf in tree.items():
            self.register_parameter(name, nn.Parameter(leaf.clone().to(dtype)))

    def tree(self):
        return dict(self.named_parameters())


def ridge(method=EXACT, *, away=0.0, dtype=torch.float64, **kwargs):
    """`Ridge` over live modules at its minimum, or `away` from it."""
    problem = Ridge()
    model = Leaves({"w": problem.best_response(problem.hyper)["w"] + away}, dtype)
    hyper = Leaves(problem.hyper, dtype)
    for name in ("x", "y", "xv", "yv"):
        setattr(problem, name, getattr(problem, name).to(dtype))
    return br.Nested(
        params=model,
        hyper=hyper,
        inner=lambda: problem.inner(model.tree(), hyper.tree()),
        outer=lambda: problem.outer(model.tree(), hyper.tree()),
        method=method,
        **kwargs,
    )


def error_of(method):
    """Against the closed form."""
    problem = Ridge()
    value = problem.hypergradient(method).value["log_decay"]
    return relative_error(value, problem.exact())


@pytest.mark.parametrize(
    "method",
    [
        EXACT,
        br.Implicit(Dense()),
        br.FiniteDifference(br.CG(max_steps=10)),
        br.Unroll(br.optim.SGD(0.3), steps=200),
    ],
    ids=lambda method: type(method).__name__,
)
def test_right_methods_pass(method):
    found = br.check(ridge(method))
    assert found.ok and found.cause is None
    assert found.error < 1e-7
    assert found.row("dense solve").error < 1e-9
    assert found.row("retraining").norm == pytest.approx(float(Ridge().exact().norm()), rel=1e-6)
    assert found.row("retraining").cosine == pytest.approx(1, abs=1e-12)
    assert "agrees with retraining" in found.verdict
    assert max(found.sources.values()) < 1e-7


def test_unrolling_is_as_near_as_it_says():
    row = br.check(ridge()).row("unrolled SGD")
    assert 1e-6 < row.error < 1e-3


@pytest.mark.parametrize(
    ("method", "cause"),
    [
        (br.Implicit(br.Scale(1.0)), Cause.solver),
        (br.Implicit(br.CG(max_steps=1)), Cause.solver),
        (br.Implicit(br.Neumann(max_steps=2, lr=0.1)), Cause.solver),
        (br.Implicit(br.CG(max_steps=10), damping=0.3), Cause.damping),
        (br.FiniteDifference(br.CG(max_steps=10), damping=0.3), Cause.damping),
        (br.Unroll(br.optim.SGD(0.3), steps=4), Cause.horizon),
        (br.Unroll(br.optim.SGD(0.3), steps=200, truncate=2), Cause.truncation),
    ],
    ids=[
        "scale",
        "few steps",
        "few terms",
        "damping",
        "damped differences",
        "horizon",
        "truncated",
    ],
)
def test_faults_are_named_and_measured(method, cause):
    found = br.check(ridge(method))
    assert not found.ok and found.cause is cause
    assert found.error == pytest.approx(error_of(method), rel=1e-5)
    assert found.sources[cause] == pytest.approx(found.error, rel=1e-5)
    assert all(size < 1e-5 for other, size in found.sources.items() if other is not cause)
    assert cause.reason in found.verdict and cause.cure in found.verdict


def test_the_tolerance_decides():
    method = br.Implicit(br.CG(max_steps=2))
    error = error_of(method)
    assert br.check(ridge(method), tolerance=1.1 * error).ok
    assert not br.check(ridge(method), tolerance=0.9 * error).ok


def test_weights_that_are_no_minimum():
    nested = ridge(away=1.0)
    found = br.check(nested)
    assert not found.ok and found.cause is Cause.weights
    assert found.row("dense solve").error < 1e-12
    exact = float(Ridge().exact().norm())
    assert found.row("dense solve at the minimum").norm == pytest.approx(exact, rel=1e-9)
    assert found.row("retraining").norm == pytest.approx(exact, rel=1e-6)
    assert br.check(nested, settle=True).ok


def test_two_faults_are_both_named():
    found = br.check(ridge(br.Implicit(br.Scale(5.0)), away=1.0))
    assert found.cause is Cause.solver
    assert Cause.solver.reason in found.verdict and Cause.weights.reason in found.verdict


def test_weights_on_a_hill():
    """Where the inner loss curves down, no solve is to blame."""
    model, shift = Leaves({"w": torch.tensor([0.1])}), Leaves({"a": torch.tensor([0.05])})
    nested = br.Nested(
        params=model,
        hyper=shift,
        inner=lambda: ((model.w**2 - 1) ** 2 / 4 - shift.a * model.w).sum(),
        outer=lambda: (model.w**2).sum(),
        method=br.Implicit(br.CG()),
    )
    found = br.check(nested)
    assert found.cause is Cause.weights
    assert set(found.sources) == {Cause.weights, Cause.reference}
    settled = br.check(nested, settle=True)
    w = torch.linalg.eigvals(torch.tensor([[0, 1, 0.05], [1, 0, 0], [0, 1, 0]])).real.max()
    assert settled.ok
    assert settled.row("chosen").norm == pytest.approx(float(2 * w / (3 * w**2 - 1)), rel=1e-9)


# --- curvature


def bent(curvature=None):
    """Least squares of a tanh with large residuals: Gauss-Newton is not the Hessian."""
    generator = torch.Generator().manual_seed(5)
    x, y = (torch.randn(20, k, generator=generator) for k in (3, 1))
    model = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Tanh())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.3, -0.2, 0.4]]))
    decay = br.hyper.WeightDecay(model, init=0.05)
    parts = {
        "predict": lambda x, y: model(x),
        "loss": lambda out, x, y: (out - 2 * y).square().mean(),
        "penalty": lambda: decay(model),
    }
    nested = br.Nested(
        params=model,
        hyper=decay,
        inner=lambda x, y: parts["loss"](model(x), x, y) + decay(model),
        outer=lambda x, y: F.mse_loss(model(x), y + 1),
        method=br.Implicit(br.CG(), curvature=curvature(**parts) if curvature else None),
    )
    return nested, (x, y)


def test_a_curvature_that_is_not_the_hessian():
    nested, batch = bent(br.GaussNewton)
    found = br.check(nested, batch, batch, settle=True)
    assert not found.ok and found.cause is Cause.curvature
    assert found.sources[Cause.solver] < 1e-9 < found.sources[Cause.curvature]
    assert found.row("dense solve, same curvature").error < 1e-9
    assert found.sources[Cause.curvature] == pytest.approx(found.error, rel=1e-3)


def test_the_hessian_in_its_place():
    nested, batch = bent()
    assert br.check(nested, batch, batch, settle=True).ok


# --- randomness


PRIVATE = torch.Generator().manual_seed(0)


def noisy(draw):
    nested = ridge()
    inner = nested.inner
    nested.inner = lambda: inner() * (1 + 0.1 * draw())
    return nested


@pytest.mark.parametrize(
    ("draw", "source"),
    [
        (lambda: np.random.rand(), "NumPy"),
        (lambda: random.random(), "random"),
        (lambda: float(torch.rand(1, generator=PRIVATE)), None),
    ],
    ids=["NumPy", "random", "a private generator"],
)
def test_unpinned_randomness(draw, source):
    before = np.random.get_state()[1].copy(), random.getstate()
    found = br.check(noisy(draw))
    assert not found.ok and found.cause is Cause.randomness
    assert "the inner closure gives" in found.verdict
    assert ("drawing from" in found.verdict) == (source is not None)
    assert source is None or f"drawing from {source})" in found.verdict
    assert (np.random.get_state()[1] == before[0]).all() and random.getstate() == before[1]


def test_pinned_randomness_is_no_fault():
    assert br.check(noisy(lambda: torch.rand(()))).ok


# --- what stays as it was


def test_nothing_changes():
    torch.set_default_dtype(torch.float32)
    method = br.Implicit(br.CG(max_steps=3, warm_start=True, recycle=2), damping=0.5)
    runs = []
    for checks in (True, False):
        torch.manual_seed(0)
        model, decay, nested, batch = tuned_network("mlp", method)
        call_gradient(nested, decay, batch, batch)
        if checks:
            before = snapshot(model, decay), nested.state_dict(), nested._calls
            br.check(nested, batch, batch, rows=8, seconds=5, directions=1)
            br.check(nested, batch, batch, seconds=5, directions=1)
            after = snapshot(model, decay), nested.state_dict(), nested._calls
            assert_same(before, after)
            assert torch.get_default_dtype() is torch.float32
        runs.append(call_gradient(nested, decay, batch, batch)[0])
    assert torch.equal(*runs)


def test_it_checks_the_next_call():
    """With its masks and its memory: the norm is that of the gradient that the call then gives."""
    method = br.Implicit(br.CG(max_steps=2, warm_start=True), damping=0.5)
    _, decay, nested, batch = tuned_network("mlp", method)
    call_gradient(nested, decay, batch, batch)
    found = br.check(nested, batch, batch, seconds=2, directions=1)
    value, _ = call_gradient(nested, decay, batch, batch)
    assert found.row("chosen").norm == pytest.approx(float(value.norm()), rel=1e-12)


# --- types


def test_float32_is_checked_in_float64():
    found = br.check(ridge(dtype=torch.float32))
    assert found.ok and "references in float64" in found.problem
    assert 1e-12 < found.row("dense solve").error < 1e-5
    assert found.row("retraining").norm == pytest.approx(float(Ridge().exact().norm()), rel=1e-5)


def insists(inner):
    def closure():
        loss = inner()
        assert loss.dtype is torch.float32
        return loss

    return closure


@pytest.mark.parametrize(
    "changed",
    [insists, lambda inner: lambda: inner() * (1 + 0.1 * torch.rand(())), ],
    ids=["a closure that insists", "other draws"],
)  # fmt: skip
def test_float32_where_there_is_no_float64(changed):
    nested = ridge(dtype=torch.float32)
    nested.inner = changed(nested.inner)
    torch.set_default_dtype(torch.float32)
    found = br.check(nested)
    assert "references in float32" in found.problem
    assert found.error < 0.01


# --- large and shrunk problems


def test_above_the_limit_no_matrix_is_made(monkeypatch):
    def refuse(*args):
        raise AssertionError("a dense matrix was made")

    monkeypatch.setattr(Dense, "solve", refuse)
    found = br.check(ridge(br.Implicit(br.Scale(1.0))), limit=5)
    assert found.cause is Cause.solver
    assert found.error == pytest.approx(error_of(br.Implicit(br.Scale(1.0))), rel=1e-5)
    assert found.row("CG solve").norm == pytest.approx(float(Ridge().exact().norm()), rel=1e-7)
    assert not [row for row in found.rows if row.name.startswith("dense")]


def test_a_large_network_ends_in_time_without_a_verdict():
    torch.set_default_dtype(torch.float32)
    model = nn.Sequential(nn.Linear(50, 300), nn.Tanh(), nn.Linear(300, 300), nn.Linear(300, 3))
    _, nested = decayed_problem(model, model, br.Implicit(br.CG(max_steps=2), damping=1.0))
    batch = torch.randn(40, 50), torch.randint(3, (40,))
    found = br.check(nested, batch, batch, seconds=1e-3)
    assert not found.ok and found.error is None
    assert "retraining stopped at an inner gradient of" in found.verdict
    assert not [row for row in found.rows if row.name.startswith("dense")]


def test_no_time_is_no_success():
    found = br.check(ridge(), seconds=1e-9)
    assert not found.ok and found.cause is Cause.reference
    assert found.verdict.startswith("Undecided: ")


def test_rows():
    seen = []
    model = nn.Linear(4, 3)
    _, nested = decayed_problem(model, lambda x: seen.append(len(x)) or model(x), EXACT)
    x, y = torch.randn(30, 4), torch.randint(3, (30,))
    found = br.check(nested, (x, y), {"x": x, "y": y}, rows=12)
    assert set(seen) == {12}
    assert "at the minimum nearby" in found.problem
    assert found.error < 1e-3


def test_rows_of_several_batches_and_of_nested_parts():
    sizes = []
    model = nn.Linear(4, 3)
    decay, nested = decayed_problem(model, model, EXACT)

    def inner(parts, weights):
        sizes.append([len(parts["x"]), len(parts["y"][0]), len(weights)])
        return F.cross_entropy(model(parts["x"]), parts["y"][0], weights) + decay(model)

    nested.inner = inner
    part = {"x": torch.randn(8, 4), "y": [torch.randint(3, (8,))]}
    batches = br.Batches([(part, torch.ones(3))] * 2)
    outer = torch.randn(8, 4), torch.randint(3, (8,))
    found = br.check(nested, batches, outer, rows=5)
    assert {tuple(size) for size in sizes} == {(5, 5, 3)}
    assert found.error < 1e-3


def test_keep():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    _, nested = decayed_problem(model, model, br.Implicit(br.CG(max_steps=30)))
    batch = torch.randn(30, 4), torch.randint(3, (30,))
    found = br.check(nested, batch, batch, keep=lambda name: name.startswith("2."), settle=True)
    assert "18 weights, 18 hyperparameters" in found.problem
    assert found.ok
    with pytest.raises(br.InputError, match=r"keeps no parameter.*'0\.weight'"):
        br.check(nested, batch, batch, keep=lambda name: False)


# --- odd problems


def test_a_method_that_fails():
    found = br.check(ridge(br.Implicit(br.Neumann(max_steps=100, lr=10.0))))
    assert not found.ok and found.cause is Cause.solver
    assert "series grows" in found.verdict


def learned_rate(**kwargs):
    rate = Leaves({"log_lr": torch.tensor(0.1).log()})
    problem = Ridge()
    model = Leaves({"w": torch.zeros(6)})
    return br.Nested(
        params=model,
        hyper=rate,
        inner=lambda: problem.inner(model.tree(), problem.hyper),
        outer=lambda: problem.outer(model.tree(), problem.hyper),
        method=br.Unroll(br.optim.SGD(lr=lambda: rate.log_lr.exp()), steps=5, **kwargs),
    )


def test_settings_of_the_steps_are_checked_by_taking_them_again():
    found = br.check(learned_rate())
    assert found.ok and found.error < 1e-6
    assert "its own steps" in found.verdict
    cut = br.check(learned_rate(truncate=1))
    assert cut.cause is Cause.truncation and cut.sources[Cause.truncation] > 0.1


def test_activation_checkpointing_cannot_be_retrained():
    from torch.utils.checkpoint import checkpoint

    model = nn.Linear(4, 3)
    _, nested = decayed_problem(model, lambda x: checkpoint(model, x, use_reentrant=False), EXACT)
    batch = torch.randn(30, 4), torch.randint(3, (30,))
    found = br.check(nested, batch, batch)
    assert not found.ok and "retraining is impossible" in found.verdict
    assert found.row("dense solve").error < 1e-3


def test_a_singular_hessian_has_a_solution_even_so():
    """Two weights of which one does not matter."""
    model, target = Leaves({"w": torch.tensor([2.0, 1.0])}), Leaves({"a": torch.tensor([2.0])})
    nested = br.Nested(
        params=model,
        hyper=target,
        inner=lambda: (model.w[0] - target.a).square().sum(),
        outer=lambda: model.w[0] ** 2,
        method=br.Implicit(br.CG()),
    )
    found = br.check(nested)
    assert found.ok and found.error < 1e-6
    assert found.row("CG solve").norm == pytest.approx(4)


def test_the_table():
    found = br.check(ridge(br.Implicit(br.Scale(1.0))))
    lines = str(found).splitlines()
    assert lines[0] == found.problem and lines[-1] == found.verdict
    assert "6 weights, 6 hyperparameters" in lines[0]
    head = lines[1]
    error = head.index("error") + len("error")
    for row, line in zip(found.rows[1:], lines[3:], strict=False):
        assert line.startswith(row.name)
        assert line[:error].endswith(f"{row.error:.1e}")
    assert "solver 2.8e-01" in lines[-2]


@pytest.mark.parametrize(
    "settings",
    [{"rows": 0}, {"directions": 0}, {"seconds": 0.0}, {"tolerance": -1.0}],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_without_sense(settings):
    (name, value), = settings.items()  # fmt: skip
    with pytest.raises(br.InputError, match=f"{name}={value} is .*; use"):
        br.check(ridge(), **settings)


def test_bad_closures_are_refused_as_a_call_refuses_them():
    nested = ridge()
    nested.inner = lambda: torch.zeros(3)
    with pytest.raises(br.InputError, match="not a scalar"):
        br.check(nested)
