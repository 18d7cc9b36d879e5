"""The inverse Hessian and its stand-ins: matrices against the library's own, and the distances."""

import pytest
import torch

import bestresponse as br
from bestresponse.apps.experiments.inverse._accuracy_problems import logistic
from bestresponse.apps.experiments.inverse._explicit import softmax_hessian
from bestresponse.apps.experiments.inverse.hessian_picture import HessianPicture, _matrix_of

QUICK = dict(rows=80, decay=0.05, products=(1, 20))


@pytest.fixture(scope="module")
def done(run):
    return run(HessianPicture, **QUICK)


@pytest.fixture(scope="module")
def problem():
    torch.set_default_dtype(torch.float32)
    return logistic("digits", 0, 80, 40, decay=0.05).in_double()


def hessian_of(problem):
    point = problem.point
    network = problem.objective(point.log_decays).at(point.weights)
    return softmax_hessian(network, point.log_decays.exp())


def test_the_hessian_is_that_of_the_inner_loss(problem):
    """Its inverse gives the exact hypergradient."""
    point, hessian = problem.point, hessian_of(problem)
    assert torch.allclose(hessian, hessian.T, rtol=1e-12)
    solution = torch.linalg.solve(hessian, problem.outer_gradient(point.weights))
    assert torch.allclose(solution, point.solution, rtol=1e-8, atol=1e-12)


def test_kfac_is_the_inverse_that_the_solver_applies(problem):
    """As a matrix, and as `Implicit(KFAC())` uses it."""
    matrix, point = _matrix_of(br.KFAC(), problem), problem.point
    method = br.Implicit(br.KFAC(), curvature=problem.gauss_newton())
    problem.decay.zero_grad()
    problem.nested(method)(problem.inner_batch, problem.outer_batch)[0].backward()
    q = matrix @ problem.outer_gradient(point.weights)
    expected = problem.in_decay_order(-point.log_decays.exp() * point.weights * q)
    assert torch.allclose(problem.gradient(), expected, rtol=1e-9)


def test_distances_are_those_of_the_matrices(done, problem):
    headline, inverse = done[0].headline, torch.linalg.inv(hessian_of(problem))
    lr = 1 / float(torch.linalg.eigvalsh(hessian_of(problem))[-1])
    step = torch.eye(len(inverse), dtype=inverse.dtype) - lr * hessian_of(problem)
    series = {1: lr * (step.matrix_power(0) + step)}
    series[20] = lr * sum(step.matrix_power(j) for j in range(21))
    matrices = {
        "neumann_1_product": series[1],
        "neumann_20_products": series[20],
        "identity": lr * torch.eye(len(inverse), dtype=inverse.dtype),
        "kfac": _matrix_of(br.KFAC(), problem),
    }
    for name, matrix in matrices.items():
        distance = float((matrix - inverse).norm() / inverse.norm())
        assert headline[f"{name}_distance"] == pytest.approx(distance, abs=1e-6), name
        cosine = float((matrix * inverse).sum() / (matrix.norm() * inverse.norm()))
        assert headline[f"{name}_cosine"] == pytest.approx(cosine, abs=1e-9), name


def test_more_products_are_nearer(done):
    headline = done[0].headline
    names = ("identity", "neumann_1_product", "neumann_20_products")
    distances = [headline[f"{name}_distance"] for name in names]
    assert distances == sorted(distances, reverse=True) and distances[-1] > 0


def test_headline_is_on_disk(done, headline_of):
    findings, out, _ = done
    assert headline_of(out) == findings.headline
    assert findings.headline["condition_number"] > 1
