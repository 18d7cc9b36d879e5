"""The Nyström inverse: exact where its sketch is, sensible elsewhere, positive definite always."""

import pytest
import torch

import bestresponse as br
from checks import relative_error
from systems import outlying, residual, solve, symmetric, vector

CG, Nystrom, Result = br.CG, br.Nystrom, br.Result
N = 40
DECAYING = symmetric(torch.arange(1, N + 1).double() ** -2)
FLAT = symmetric(torch.linspace(0.5, 1.5, N))
B = vector(N)


def damped(matrix, damping):
    return br.Matrix(matrix) + damping * br.Identity(len(matrix), matrix.dtype)


def inverse_of(operator, solver):
    """M as a dense matrix."""
    return solver.inverse(solver.build(operator), operator).as_matrix()


@pytest.mark.parametrize("damping", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("matrix", [DECAYING, FLAT], ids=["decaying", "flat"])
def test_at_full_rank_it_is_the_inverse(matrix, damping):
    operator = damped(matrix, damping)
    exact = torch.linalg.inv(operator.as_matrix())
    assert relative_error(inverse_of(operator, Nystrom(N)), exact) <= 1e-8


def test_it_is_the_woodbury_inverse_of_the_nystrom_fit_with_the_smallest_value_for_the_rest():
    solver, damping = Nystrom(6), 1e-3
    built = solver.build(damped(DECAYING, damping))
    probes = solver._probes(br.Matrix(DECAYING).space)
    assert relative_error(probes.T @ probes, torch.eye(6)) <= 1e-14
    sketch = DECAYING @ probes
    fit = sketch @ torch.linalg.inv(probes.T @ sketch) @ sketch.T
    values, vectors = torch.linalg.eigh(fit)
    values, vectors = values[-6:], vectors[:, -6:]
    tail = values[0] + damping
    rest = torch.eye(N) - vectors @ vectors.T
    expected = vectors @ torch.diag(1 / (values + damping)) @ vectors.T + rest / tail
    assert relative_error(inverse_of(damped(DECAYING, damping), solver), expected) <= 1e-9
    assert sorted(built["values"].tolist()) == pytest.approx((values + damping).tolist(), rel=1e-9)
    assert built["basis"].shape == (N, 6)


def test_products_are_counted_and_the_residual_is_told():
    solution = solve(Nystrom(5), FLAT, B)
    assert (solution.stats.steps, solution.stats.products) == (1, 6)
    assert solution.stats.relative_residual == pytest.approx(residual(solution.value, FLAT, B))
    # on a flat spectrum the damping as the rest would be a thousand times too long
    assert br.linear_solve(damped(FLAT, 1e-3), B, Nystrom(5)).stats.relative_residual <= 0.6


@pytest.mark.parametrize("damping", [1e-3, 0.1])
def test_a_curvature_of_lower_rank_is_inverted_exactly(damping):
    low = symmetric(torch.cat([torch.linspace(1.0, 100.0, 5), torch.zeros(N - 5)]))
    solution = br.linear_solve(damped(low, damping), B, Nystrom(10))
    assert solution.stats.relative_residual <= 1e-8
    assert solution.value.isfinite().all()


def test_it_preconditions():
    operator = damped(outlying(outliers=(50.0, 200.0, 500.0, 1000.0)), 1e-3)
    b = vector(60)
    plain = br.linear_solve(operator, b, CG(500, rtol=1e-8))
    helped = br.linear_solve(operator, b, CG(500, rtol=1e-8, preconditioner=Nystrom(8)))
    assert helped.result is Result.success
    assert helped.stats.products == helped.stats.steps + 8
    assert helped.stats.steps <= 0.6 * plain.stats.steps
    assert relative_error(helped.value, torch.linalg.solve(operator.as_matrix(), b)) <= 1e-5


@pytest.mark.parametrize("damping", [0.0, 0.5])
@pytest.mark.parametrize(
    "eigenvalues",
    [
        torch.linspace(-1.0, 3.0, N),
        torch.linspace(-3.0, 1.0, N),
        torch.linspace(-3.0, -1.0, N),
        torch.cat([-torch.ones(1), torch.zeros(N - 2), torch.ones(1)]),
    ],
    ids=["mostly positive", "mostly negative", "negative", "two"],
)
@pytest.mark.parametrize("seed", range(4))
def test_of_an_indefinite_curvature_it_is_positive_definite_all_the_same(
    seed, eigenvalues, damping
):
    operator = damped(symmetric(eigenvalues, seed), damping)
    inverse = inverse_of(operator, Nystrom(8, seed=seed))
    assert inverse.isfinite().all()
    assert float(torch.linalg.eigvalsh(inverse).min()) > 0
    solution = br.linear_solve(operator, B, CG(3, preconditioner=Nystrom(8)), throw=False)
    assert solution.value.isfinite().all()
    assert solution.result in (Result.success, Result.negative_curvature)


def test_the_seed_chooses_the_sketch_and_leaves_the_global_stream_alone():
    state = torch.get_rng_state()
    one, again, other = (solve(Nystrom(5, seed=seed), DECAYING, B).value for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("refresh", [1, 3])
def test_it_is_built_anew_at_every_refresh(refresh):
    memory, built = {}, []
    for _ in range(7):
        solution = solve(Nystrom(5, refresh=refresh), FLAT, B, memory=memory)
        memory = solution.memory
        built.append(solution.stats.products == 6)
    assert built == [i % refresh == 0 for i in range(7)]
