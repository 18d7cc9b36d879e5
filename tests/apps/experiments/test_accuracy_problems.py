"""The accuracy problems: their references against the library's exact solve."""

import math
from dataclasses import replace

import pytest
import torch

import bestresponse as br
from bestresponse.apps.experiments.inverse._accuracy_problems import logistic, mlp

MAKERS = {
    "logistic": lambda **kwargs: logistic("digits", 0, 200, 100, **kwargs),
    "mlp": lambda **kwargs: mlp("digits", 2, 100, 50, hidden=16, **kwargs),
}


@pytest.fixture(scope="module", params=MAKERS)
def problem(request):
    return MAKERS[request.param]()


def exact(problem):
    """The hypergradient by autograd and a dense solve."""
    problem = problem.in_double()
    method = br.Implicit(br.Dense(), curvature=problem.gauss_newton())
    problem.nested(method)(problem.inner_batch, problem.outer_batch)[0].backward()
    return problem.gradient()


def test_reference_is_the_exact_hypergradient(problem):
    found = exact(problem)
    assert float((problem.point.reference - found).norm() / found.norm()) < 1e-6


def test_the_weights_are_a_best_response(problem):
    problem = problem.in_double()
    loss = problem.inner(*problem.inner_batch)
    gradients = torch.autograd.grad(loss, list(problem.model.parameters()))
    largest = max(float(gradient.abs().max()) for gradient in gradients)
    assert largest <= {"logistic": 1e-8, "mlp": 1e-4}[problem.name]


def test_one_float32_decay_for_each_weight_and_bias(problem):
    weights = sum(p.numel() for p in problem.model.parameters())
    decays = [p for p in problem.decay.parameters()]
    assert sum(p.numel() for p in decays) == weights == len(problem.point.reference)
    assert {p.dtype for p in (*decays, *problem.model.parameters())} == {torch.float32}


def test_log_decays_are_spread_around_a_thousandth():
    spread = logistic("digits", 3, 200, 100).point.log_decays - math.log(1e-3)
    assert abs(float(spread.mean())) < 0.1 and float(spread.std()) == pytest.approx(0.5, abs=0.05)
    assert bool((MAKERS["mlp"]().point.log_decays == math.log(1e-3)).all())


def test_moved_and_refitted_it_is_exact_again(problem):
    point = problem.refitted(problem.point.log_decays - 0.3, problem.point)
    found = exact(replace(problem, point=point))
    assert float((point.reference - found).norm() / found.norm()) < 1e-6
    assert not torch.equal(point.weights, problem.point.weights)


def test_orders_are_told_apart(problem):
    flat = problem.in_model_order(problem.point.reference)
    point = problem.point
    assert torch.allclose(flat, -point.log_decays.exp() * point.weights * point.solution)


def test_the_same_seed_is_the_same_problem():
    first, second, other = (logistic("digits", seed, 200, 100) for seed in (1, 1, 2))
    assert torch.equal(first.point.reference, second.point.reference)
    assert not torch.equal(first.point.log_decays, other.point.log_decays)


def test_too_many_rows_are_refused():
    with pytest.raises(
        br.InputError, match=r"'digits' has 1797 training examples .* ask for fewer"
    ):
        logistic("digits", 0)


def test_progress_is_said():
    words = []
    logistic("digits", 0, 200, 100, say=words.append)
    assert words[0].startswith("fit: max |gradient|") and "reference: " in words[-1]
