"""MINRES against exact solutions, where CG has no business: indefinite and singular systems."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bestresponse as br
from checks import relative_error
from systems import residual, solve, symmetric, vector

CG, MINRES, Nystrom, Scale, Result = br.CG, br.MINRES, br.Nystrom, br.Scale, br.Result
N = 12
INDEFINITE = symmetric(torch.cat([torch.linspace(-2.0, -0.5, 4), torch.linspace(0.5, 3.0, N - 4)]))
SINGULAR = symmetric(torch.cat([torch.linspace(-2.0, -0.5, 4), torch.zeros(4), torch.ones(4)]))
B = vector(N)
PRECONDITIONERS = [None, Scale(0.3), Nystrom(3)]


@given(
    log_condition=st.floats(0, 4),
    negative=st.integers(0, 10),
    size=st.integers(2, 12),
    seed=st.integers(0, 10**6),
    log_scale=st.floats(-3, 3),
)
@settings(max_examples=60, deadline=None)
def test_random_indefinite_systems(log_condition, negative, size, seed, log_scale):
    eigenvalues = 10 ** (log_scale + torch.linspace(0, log_condition, size))
    eigenvalues[:negative] *= -1
    matrix, known = symmetric(eigenvalues, seed), vector(size, seed + 1)
    b = matrix @ known
    solution = solve(MINRES(60 * size, rtol=1e-10), matrix, b)
    assert solution.result is Result.success
    assert residual(solution.value, matrix, b) <= 1.1e-10
    condition = float(eigenvalues.abs().max() / eigenvalues.abs().min())
    assert relative_error(solution.value, known) <= 2e-10 * condition
    assert solution.stats.largest_curvature <= float(eigenvalues.max()) + 1e-9 * condition
    assert solution.stats.smallest_curvature >= float(eigenvalues.min()) - 1e-9 * condition


@pytest.mark.parametrize("matrix", [INDEFINITE, symmetric(torch.linspace(0.5, 3.0, N))])
@pytest.mark.parametrize("steps", range(N + 1))
def test_it_is_the_least_residual_of_its_krylov_space(steps, matrix):
    solution = solve(MINRES(steps), matrix, B)
    krylov = [B]
    for _ in range(steps - 1):
        krylov.append(matrix @ krylov[-1] / krylov[-1].norm())
    best = torch.zeros(N)
    if steps:
        basis = torch.linalg.qr(torch.stack(krylov, 1))[0]
        best = basis @ torch.linalg.lstsq(matrix @ basis, B).solution
    assert float((solution.value - best).norm()) <= 1e-8
    assert (solution.stats.steps, solution.stats.products) == (steps, steps)


@pytest.mark.parametrize("preconditioner", PRECONDITIONERS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 3, 6, 11, 40])
def test_the_residual_it_tells_is_the_euclidean_one(steps, dtype, preconditioner):
    matrix, b = INDEFINITE.to(dtype), B.to(dtype)
    solution = solve(MINRES(steps, preconditioner=preconditioner), matrix, b)
    rounding = 50 * torch.finfo(dtype).eps
    told = solution.stats.relative_residual
    assert told == pytest.approx(residual(solution.value, matrix, b), abs=rounding)
    assert told > 0.01 or steps > 3


@pytest.mark.parametrize("preconditioner", PRECONDITIONERS, ids=str)
def test_indefinite_systems_equal_dense_where_cg_stops(preconditioner):
    assert solve(CG(50), INDEFINITE, B).result is Result.negative_curvature
    solution = solve(MINRES(100, preconditioner=preconditioner), INDEFINITE, B)
    assert solution.result is Result.success
    assert relative_error(solution.value, torch.linalg.solve(INDEFINITE, B)) <= 1e-12


@pytest.mark.parametrize("steps", [12, 50, 400])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(5))
def test_a_singular_system_with_a_solution_is_solved_and_left_alone(seed, dtype, steps):
    matrix = SINGULAR.to(dtype)
    b = matrix @ vector(N, seed).to(dtype)
    solution = solve(MINRES(steps), matrix, b)
    assert solution.result is Result.success
    # at working precision the iterate is frozen: no more steps would follow the null space
    assert residual(solution.value, matrix, b) <= 20 * torch.finfo(dtype).eps
    assert float((matrix @ solution.value - b).norm()) <= 1e-5
    assert float(solution.value.norm()) <= 3 * float(b.norm() / 0.5)
    assert solution.stats.steps <= 12


@pytest.mark.parametrize("matrix", [SINGULAR, torch.zeros(N, N, dtype=torch.float64)])
def test_a_singular_system_without_a_solution_breaks_down(matrix):
    solution = solve(MINRES(200), matrix, B, throw=False)
    assert solution.result is Result.breakdown
    assert solution.value.isfinite().all()
    with pytest.raises(br.SolveError, match="singular to working precision"):
        solve(MINRES(200), matrix, B)


def test_ritz_values_bound_the_spectrum_from_inside_and_close_it():
    for steps in (1, 3, 6):
        stats = solve(MINRES(steps), INDEFINITE, B).stats
        assert -2.0 <= stats.smallest_curvature <= stats.largest_curvature <= 3.0
    stats = solve(MINRES(N), INDEFINITE, B).stats
    assert stats.smallest_curvature == pytest.approx(-2.0, rel=1e-9)
    assert stats.largest_curvature == pytest.approx(3.0, rel=1e-9)
    stats = solve(MINRES(N, preconditioner=Nystrom(3)), INDEFINITE, B).stats
    assert -2.0 <= stats.smallest_curvature < 0
    assert stats.largest_curvature is None  # a preconditioner hides it


def test_an_indefinite_preconditioner_is_reported():
    solution = solve(MINRES(preconditioner=Scale(-1.0)), INDEFINITE, B)
    assert solution.result is Result.preconditioner_indefinite
    assert torch.equal(solution.value, torch.zeros(N))
    assert (solution.stats.steps, solution.stats.products) == (0, 0)


def test_an_end_is_kept_whatever_follows():
    """Off the CPU nothing stops a fixed budget: every further step must move nothing."""
    system, solver = br.solvers._base.System(br.Matrix(INDEFINITE), B), MINRES(1)
    state = solver.start(system, {})
    for _ in range(200):
        state = solver.step(system, state)
        if state["status"] != 0:
            break
    ended = {name: state[name].clone() for name in ("value", "residual_norm", "status")}
    for _ in range(50):
        state = solver.step(system, state)
    for name, before in ended.items():
        assert torch.equal(state[name], before)


@pytest.mark.parametrize("seed", [0, 19, 43, 53, 57])
def test_a_residual_that_rests_just_above_rounding_is_left_alone_too(seed):
    """Going on, the null space once grew until nothing of the solution was left."""
    parts = [torch.linspace(-3.0, -0.5, 20), torch.zeros(20), torch.linspace(0.5, 5.0, 20)]
    matrix = symmetric(torch.cat(parts), seed)
    b = matrix @ vector(60, seed)
    solution = solve(MINRES(400), matrix, b)
    assert solution.stats.steps < 400
    assert residual(solution.value, matrix, b) <= 1e-14
