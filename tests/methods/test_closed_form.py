"""Ridge regression: every method against the closed form and against retraining."""

import pytest
import torch

import bestresponse as br
from checks import central_difference, relative_error
from problems import Ridge

RIDGE_LR = 0.3

CONVERGED = {
    "cg": br.Implicit(br.CG(max_steps=12)),
    "dense": br.Implicit(br.Dense()),
    "neumann": br.Implicit(br.Neumann(lr=RIDGE_LR, max_steps=600)),
    "unroll": br.Unroll(br.optim.SGD(RIDGE_LR), steps=600),
    "unroll-checkpointed": br.Unroll(br.optim.SGD(RIDGE_LR), steps=600, checkpoint=37),
    "unroll-truncated": br.Unroll(br.optim.SGD(RIDGE_LR), steps=900, truncate=600),
    "unroll-momentum": br.Unroll(br.optim.Momentum(RIDGE_LR, 0.5), steps=600),
}


@pytest.mark.parametrize("name", CONVERGED)
def test_converged_methods_equal_the_closed_form(name):
    ridge = Ridge()
    result = ridge.hypergradient(CONVERGED[name])
    assert relative_error(result.value, ridge.exact()) <= 1e-12
    assert relative_error(result.direct["log_decay"], 1.4 * ridge.hyper["log_decay"]) <= 1e-15
    assert relative_error(
        result.value["log_decay"], result.direct["log_decay"] + result.indirect["log_decay"]
    ) == pytest.approx(0, abs=1e-15)


def test_closed_form_equals_differences_through_retraining():
    ridge = Ridge()
    retrained = central_difference(
        lambda hyper: ridge.outer(ridge.best_response(hyper), hyper), ridge.hyper
    )
    assert relative_error(ridge.exact(), retrained) <= 1e-6


@pytest.mark.parametrize("name", CONVERGED)
def test_methods_equal_differences_through_retraining(name):
    ridge = Ridge()
    retrained = central_difference(
        lambda hyper: ridge.outer(ridge.best_response(hyper), hyper), ridge.hyper
    )
    assert relative_error(ridge.hypergradient(CONVERGED[name]).value, retrained) <= 1e-6


def test_finite_difference_method_equals_the_closed_form():
    ridge = Ridge()
    result = ridge.hypergradient(br.FiniteDifference(br.CG(max_steps=12)))
    assert relative_error(result.value, ridge.exact()) <= 1e-8


@pytest.mark.parametrize("products", [0, 1, 5, 20])
def test_unroll_from_the_optimum_equals_neumann(products):
    ridge = Ridge()
    unrolled = ridge.hypergradient(br.Unroll(br.optim.SGD(RIDGE_LR), steps=products + 1))
    series = ridge.hypergradient(br.Implicit(br.Neumann(lr=RIDGE_LR, max_steps=products)))
    assert relative_error(unrolled.value, series.value) <= 1e-12
    # and both are still far from the limit, so the test compares something
    if products <= 1:
        assert relative_error(series.value, ridge.exact()) > 1e-3


def test_scale_is_the_first_term():
    ridge = Ridge()
    scaled = ridge.hypergradient(br.Implicit(br.Scale(RIDGE_LR)))
    first = ridge.hypergradient(br.Implicit(br.Neumann(lr=RIDGE_LR, max_steps=0)))
    assert relative_error(scaled.value, first.value) <= 1e-15
    assert scaled.report.products == 0


@pytest.mark.parametrize(
    "optimizer", [br.optim.SGD(0.3), br.optim.Adam(0.05), br.optim.Momentum(0.2)]
)
@pytest.mark.parametrize("checkpoint", [None, 1, 3, 7])
def test_unroll_equals_differences_through_the_same_steps(optimizer, checkpoint):
    ridge = Ridge()
    start = {"w": torch.ones(ridge.d)}
    method = br.Unroll(optimizer, steps=7, checkpoint=checkpoint)

    def retrained(hyper):
        run = br.hypergradient(ridge.inner, ridge.outer, start, hyper, method)
        return run.loss

    result = br.hypergradient(ridge.inner, ridge.outer, start, ridge.hyper, method)
    assert relative_error(result.value, central_difference(retrained, ridge.hyper)) <= 1e-6


def test_truncation_drops_exactly_the_early_steps():
    ridge = Ridge()
    lr, steps = 0.3, 5
    start = {"w": torch.ones(ridge.d)}
    warm = br.hypergradient(
        ridge.inner, ridge.outer, start, ridge.hyper, br.Unroll(br.optim.SGD(lr), steps=2)
    ).report.params
    late = br.hypergradient(
        ridge.inner, ridge.outer, warm, ridge.hyper, br.Unroll(br.optim.SGD(lr), steps=steps - 2)
    )
    truncated = br.hypergradient(
        ridge.inner,
        ridge.outer,
        start,
        ridge.hyper,
        br.Unroll(br.optim.SGD(lr), steps=steps, truncate=steps - 2),
    )
    assert relative_error(truncated.value, late.value) <= 1e-14
    full = br.hypergradient(
        ridge.inner, ridge.outer, start, ridge.hyper, br.Unroll(br.optim.SGD(lr), steps=steps)
    )
    assert relative_error(full.value, late.value) > 1e-3


def test_learned_learning_rate_through_the_functional_core():
    ridge = Ridge()
    hyper = {**ridge.hyper, "lr": torch.tensor(0.2)}
    start = {"w": torch.ones(ridge.d)}
    method = br.Unroll(br.optim.SGD(lr=lambda hyper: hyper["lr"]), steps=3)
    run = lambda at: br.hypergradient(ridge.inner, ridge.outer, start, at, method)  # noqa: E731
    difference = central_difference(lambda at: run(at).loss, hyper)
    assert relative_error(run(hyper).value, difference) <= 1e-6
    assert abs(float(difference["lr"])) > 0.01


def test_batches_average_for_implicit():
    ridge = Ridge()
    inner = lambda p, h, x, y: (  # noqa: E731
        0.5 * ((x @ p["w"] - y) ** 2).sum() + 0.5 * (h["log_decay"].exp() * p["w"] ** 2).sum()
    )
    halves = br.Batches(
        [
            (ridge.x[:20] * 2**0.5, ridge.y[:20] * 2**0.5),
            (ridge.x[20:] * 2**0.5, ridge.y[20:] * 2**0.5),
        ]
    )
    params = ridge.best_response(ridge.hyper)
    result = br.hypergradient(
        inner, ridge.outer, params, ridge.hyper, br.Implicit(br.Dense()), halves
    )
    assert relative_error(result.value, ridge.exact()) <= 1e-12


def test_batches_are_one_a_step_for_unroll():
    inner = lambda p, h, c: 0.5 * ((p["w"] - c * h["a"]) ** 2).sum()  # noqa: E731
    outer = lambda p, h: p["w"].sum()  # noqa: E731
    at = {"w": torch.zeros(1)}, {"a": torch.ones(1)}
    batches = br.Batches([(torch.tensor(1.0),), (torch.tensor(10.0),)])
    result = br.hypergradient(inner, outer, *at, br.Unroll(br.optim.SGD(0.5), steps=2), batches)
    assert float(result.value["a"]) == pytest.approx(0.25 * 1 + 0.5 * 10)


def test_mixed_types_are_solved_in_the_widest():
    inner = lambda p, h: (  # noqa: E731
        0.5 * (p["a"].double() - h["l"]).square().sum() + 0.5 * (p["b"] - 2 * h["l"]).square().sum()
    )
    outer = lambda p, h: p["a"].double().square().sum() + p["b"].square().sum()  # noqa: E731
    params = {"a": torch.tensor([1.5], dtype=torch.float32), "b": torch.tensor([3.0])}
    hyper = {"l": torch.tensor([1.5])}
    result = br.hypergradient(inner, outer, params, hyper, br.Implicit(br.CG()))
    assert float(result.value["l"]) == pytest.approx(2 * 1.5 + 2 * 2 * 3.0, rel=1e-6)
    assert result.value["l"].dtype == torch.float64
