"""Every solver against Dense, how it ends, and its exact account of what it did."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bestresponse as br
from checks import relative_error
from systems import symmetric

CG, MINRES, Neumann, Dense, Scale = br.CG, br.MINRES, br.Neumann, br.Dense, br.Scale
Nystrom, SingleLoop, Result = br.Nystrom, br.SingleLoop, br.Result
N = 8


MATRIX = symmetric(torch.linspace(0.5, 3.0, N))
B = torch.randn(N, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def solve(solver, matrix=MATRIX, b=B, **kwargs):
    return br.linear_solve(br.Matrix(matrix), b, solver, **kwargs)


def true_residual(value, matrix=MATRIX, b=B):
    return float((b - matrix @ value).norm() / b.norm())


CONVERGED = [
    CG(N),
    CG(50),
    CG(50, rtol=1e-13),
    CG(50, atol=1e-13),
    Neumann(0.5, 250),
    Dense(),
    Neumann(0.5, 250, rtol=1e-13),
    Neumann(None, 250),
    Neumann(None, 250, preconditioner=Scale(0.3)),
    Neumann(None, 250, preconditioner=Nystrom(3)),
    MINRES(50),
    MINRES(50, rtol=1e-13),
    MINRES(50, preconditioner=Nystrom(3)),
    Nystrom(N),
    CG(50, preconditioner=Nystrom(3)),
    CG(50, preconditioner=Scale(0.3)),
    CG(50, preconditioner=Dense()),
    CG(50, preconditioner=Neumann(0.3, 3)),
    CG(50, preconditioner=CG(3)),
    CG(50, preconditioner=MINRES(3)),
    CG(50, preconditioner=CG(3, preconditioner=Nystrom(2))),
    CG(50, recycle=3),
    CG(50, preconditioner=Nystrom(3), warm_start=True, recycle=3),
]
STEPPING = [s for s in CONVERGED if not isinstance(s, Dense | Nystrom)]
CRUDE = [Scale(0.5), SingleLoop(), SingleLoop(0.1), SingleLoop(preconditioner=Nystrom(3))]


@pytest.mark.parametrize("solver", CONVERGED, ids=str)
def test_converged_solvers_equal_the_exact_solution(solver):
    solution = solve(solver)
    assert solution.result is Result.success
    assert relative_error(solution.value, torch.linalg.solve(MATRIX, B)) <= 1e-11
    assert abs(solution.stats.relative_residual) <= 1e-11


@given(
    log_condition=st.floats(0, 6),
    size=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    log_scale=st.floats(-3, 3),
)
@settings(max_examples=60, deadline=None)
def test_cg_on_random_spd_systems(log_condition, size, seed, log_scale):
    eigenvalues = 10 ** (log_scale + torch.linspace(0, log_condition if size > 1 else 0, size))
    matrix = symmetric(eigenvalues, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    b = torch.randn(size, generator=generator)
    # rounding costs CG more products than the dimension; a tolerance says when it is done
    solution = solve(CG(60 * size, rtol=1e-10), matrix, b)
    exact = solve(Dense(), matrix, b)
    assert solution.result is Result.success
    assert solution.stats.relative_residual <= 1e-10
    assert true_residual(solution.value, matrix, b) <= 1e-8
    condition = float(eigenvalues[-1] / eigenvalues[0])
    assert relative_error(solution.value, exact.value) <= 1e-9 * condition + 1e-10
    assert solution.stats.largest_curvature <= float(eigenvalues[-1]) * (1 + 1e-9)


@pytest.mark.parametrize("steps", range(N + 1))
def test_cg_is_the_best_of_its_krylov_space(steps):
    """Also: n steps use n products (HyperTorch returns the iterate before the last)."""
    solution = solve(CG(steps))
    krylov = [B]
    for _ in range(steps - 1):
        krylov.append(MATRIX @ krylov[-1] / krylov[-1].norm())
    best = torch.zeros(N)
    if steps:
        basis = torch.linalg.qr(torch.stack(krylov, 1))[0]
        best = basis @ torch.linalg.solve(basis.T @ MATRIX @ basis, basis.T @ B)
    assert float((solution.value - best).norm()) <= 1e-9
    assert (solution.stats.steps, solution.stats.products) == (steps, steps)
    assert solution.stats.relative_residual == pytest.approx(
        true_residual(solution.value), abs=1e-12
    )


@pytest.mark.parametrize("steps", [0, 1, 2, 7])
def test_neumann_is_the_partial_sum(steps):
    lr, solution = 0.3, solve(Neumann(0.3, steps))
    shrink, term, total = torch.eye(N) - lr * MATRIX, B, torch.zeros(N)
    for _ in range(steps + 1):
        before, total, last, term = total, total + lr * term, term, shrink @ term
    assert relative_error(solution.value, total) <= 1e-14
    assert (solution.stats.steps, solution.stats.products) == (steps, steps)
    # as documented, of the sum without its last term
    assert solution.stats.relative_residual == pytest.approx(true_residual(before), rel=1e-10)
    if steps >= 2:
        assert solution.stats.growth == pytest.approx(
            float(last.norm() / torch.linalg.solve(shrink, last).norm()), rel=1e-8
        )


def test_dense_and_scale_account_for_themselves():
    dense, scale = solve(Dense()), solve(Scale(0.3))
    assert dense.stats.products == N
    assert dense.stats.relative_residual <= 1e-14
    assert torch.equal(scale.value, 0.3 * B)
    assert (scale.stats.products, scale.stats.relative_residual) == (0, None)


@pytest.mark.parametrize("steps", [1, 3, N])
def test_largest_curvature_is_a_lower_bound_that_closes(steps):
    top = float(torch.linalg.eigvalsh(MATRIX)[-1])
    for solver in (CG(steps), Neumann(0.3, steps)):
        seen = solve(solver).stats.largest_curvature
        assert 0 < seen <= top * (1 + 1e-12)
    assert solve(CG(N)).stats.largest_curvature == pytest.approx(top, rel=1e-10)


@pytest.mark.parametrize("asked", [{"rtol": 1e-9}, {"atol": 1e-9}])
@pytest.mark.parametrize(
    "make",
    [
        lambda **k: CG(**k),
        lambda **k: MINRES(**k),
        lambda **k: Neumann(0.5, **k),
        lambda **k: CG(preconditioner=Scale(0.3), **k),
    ],
)
def test_a_spent_budget_is_a_warning_only_if_a_tolerance_was_asked_for(make, asked):
    assert solve(make(max_steps=2)).result is Result.success
    spent = solve(make(max_steps=2, **asked))
    assert spent.result is Result.max_steps_reached
    assert not spent.result.is_error
    done = solve(make(max_steps=500, **asked))
    assert done.result is Result.success
    assert done.stats.steps < 120
    assert done.stats.products == done.stats.steps


@pytest.mark.parametrize(
    "solver",
    [
        CG(500, rtol=1e-3),
        MINRES(500, rtol=1e-3),
        Neumann(0.5, 500, rtol=1e-3),
        CG(500, rtol=1e-3, preconditioner=Nystrom(3)),
        MINRES(500, rtol=1e-3, preconditioner=Nystrom(3)),
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_rtol_is_relative_and_atol_absolute(solver, scale):
    solution, reference = solve(solver, b=scale * B), solve(solver)
    assert solution.stats.steps == reference.stats.steps
    assert solution.stats.relative_residual <= 1e-3
    loose = type(solver)(**{**vars(solver), "rtol": None, "atol": 1e-3 * float(B.norm())})
    assert solve(loose).stats.steps == reference.stats.steps


@pytest.mark.parametrize("at", [1, 2, 3])
def test_negative_curvature_returns_the_iterate_so_far(at):
    eigenvalues = torch.linspace(1.0, 3.0, N)
    matrix = symmetric(eigenvalues)
    vectors = torch.linalg.eigh(matrix)[1]
    b = vectors[:, :at].sum(1)  # its Krylov space has dimension `at`
    indefinite = matrix - 10 * torch.outer(vectors[:, at - 1], vectors[:, at - 1])
    steps = [solve(CG(k), indefinite, b, throw=False) for k in range(N)]
    first = next(i for i, s in enumerate(steps) if s.result is Result.negative_curvature)
    assert first <= at
    for later in steps[first:]:
        assert later.result is Result.negative_curvature
        assert torch.equal(later.value, steps[first - 1].value)
        assert later.stats.steps == first - 1  # steps that changed the iterate
    assert not steps[first].result.is_error
    assert solve(Dense(), indefinite, b).result is Result.negative_curvature
    assert true_residual(solve(Dense(), indefinite, b).value, indefinite, b) <= 1e-12


@pytest.mark.parametrize("steps", [20, 200, 2000])
def test_a_diverging_series_is_an_error_not_silent(steps):
    """Betty's Neumann with its scale of 1 on a Hessian with eigenvalues above 2."""
    with pytest.raises(br.SolveError) as caught:
        solve(Neumann(1.0, steps))
    assert caught.value.result in (Result.diverging, Result.nonfinite)
    assert "lr" in str(caught.value) or "NaN" in str(caught.value)
    returned = solve(Neumann(1.0, steps), throw=False)
    assert returned.result is caught.value.result
    # a converging series is not accused, however slow
    assert solve(Neumann(0.6, steps)).result is Result.success
    assert solve(Neumann(1e-6, steps)).result is Result.success


@pytest.mark.parametrize(
    "solver", [*CONVERGED, *CRUDE, CG(0), MINRES(0), Neumann(0.5, 0), CG(4, rtol=1e-3)], ids=str
)
def test_zero_in_zero_out(solver):
    solution = solve(solver, b=torch.zeros(N))
    assert torch.equal(solution.value, torch.zeros(N))
    assert solution.result is Result.success
    assert not solution.stats.relative_residual
    assert not isinstance(solver, CG | MINRES) or solution.stats.steps == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["matrix", "vector"])
@pytest.mark.parametrize("solver", [*CONVERGED, *CRUDE], ids=str)
def test_non_finite_numbers_are_errors(solver, where, bad):
    if where == "matrix" and solver in (Scale(0.5), SingleLoop(0.1)):
        pytest.skip("it does not look at the matrix")
    matrix, b = MATRIX.clone(), B.clone()
    (matrix if where == "matrix" else b).view(-1)[0] = bad
    solution = solve(solver, matrix, b, throw=False)
    assert solution.result.is_error
    assert not solution.memory  # the next solve starts afresh
    with pytest.raises(br.SolveError) as caught:
        solve(solver, matrix, b)
    assert caught.value.result is solution.result


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("rank", [0, 1, N - 1])
def test_a_singular_dense_system_is_a_breakdown_or_solved(rank, seed):
    factor = torch.randn(N, rank, generator=torch.Generator().manual_seed(seed))
    matrix = factor @ factor.T
    solution = solve(Dense(), matrix, throw=False)
    if not solution.result.is_error:
        assert true_residual(solution.value, matrix) <= 1e-3
    in_range = matrix @ B if rank else torch.zeros(N)
    consistent = solve(Dense(), matrix, in_range, throw=False)
    if not consistent.result.is_error and rank:
        assert true_residual(consistent.value, matrix, in_range) <= 1e-3


def test_an_exactly_singular_system_is_a_breakdown():
    assert solve(Dense(), torch.zeros(N, N), throw=False).result is Result.breakdown


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CG(-1), "max_steps=-1"),
        (lambda: CG(rtol=0.0), "rtol=0.0"),
        (lambda: CG(atol=-1.0), "atol=-1.0"),
        (lambda: CG(rtol=math.nan), "rtol=nan"),
        (lambda: Neumann(0.0), "lr=0.0"),
        (lambda: Neumann(math.nan), "lr=nan"),
        (lambda: Neumann(0.1, -2), "max_steps=-2"),
        (lambda: CG(recycle=-1), r"CG\(recycle=-1\) must be 0 or more"),
        (lambda: CG(preconditioner="kfac"), "'kfac' is not a solver"),
        (lambda: Neumann(0.1, probes=0), "probes=0"),
        (lambda: Neumann(0.1, preconditioner=CG()), "Neumann needs a linear preconditioner"),
        (lambda: MINRES(preconditioner=CG()), "MINRES needs a linear preconditioner"),
        (lambda: SingleLoop(preconditioner=CG()), "SingleLoop needs a linear preconditioner"),
        (lambda: SingleLoop(-0.1), "lr=-0.1"),
        (lambda: MINRES(rtol=0.0), "rtol=0.0"),
        (lambda: Nystrom(0), "rank=0"),
        (lambda: Nystrom(refresh=0), "refresh=0"),
        (lambda: solve(Nystrom(9)), r"rank=9\) exceeds the 8 parameters"),
        (lambda: solve(CG(preconditioner=Nystrom(9))), r"rank=9\) exceeds the 8 parameters"),
        (lambda: solve(CG(), b=torch.ones(3)), r"shape \(3,\), the operator needs \(8,\)"),
        (lambda: solve(CG(), b=torch.ones(N, 1)), r"shape \(8, 1\)"),
        (lambda: solve("cg"), "is not a solver"),
        (lambda: solve(CG), "is not a solver"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(br.InputError, match=message):
        make()
