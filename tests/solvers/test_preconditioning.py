"""CG and Neumann with an approximate inverse inside, linear or not."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

import bestresponse as br
from bestresponse.solvers import DirectSolver, Preconditioner
from bestresponse.solvers._base import Status, System
from bestresponse.solvers._precondition import preconditioned
from checks import relative_error
from systems import residual, solve, symmetric, vector

CG, MINRES, Neumann, Nystrom, Scale = br.CG, br.MINRES, br.Neumann, br.Nystrom, br.Scale
Result = br.Result
N = 30
STEEP = torch.logspace(0, 4, N)  # a curvature that differs by the coordinate
MATRIX = STEEP.sqrt()[:, None] * symmetric(torch.linspace(0.5, 1.5, N)) * STEEP.sqrt()
B = vector(N)


@dataclass(frozen=True)
class Jacobi(Preconditioner):
    """The inverse diagonal; `sign` makes it indefinite in one coordinate."""

    refresh: int = 1
    sign: float = 1.0

    def build(self, operator):
        diagonal = operator.as_matrix().diagonal().clone()
        diagonal[0] *= self.sign
        return {"diagonal": diagonal}

    def inverse(self, built, operator):
        return br.Diagonal(1 / built["diagonal"])


@dataclass(frozen=True)
class Nothing(Preconditioner):
    """The identity, which returns the very vector it is given."""

    refresh: int = 1

    def build(self, operator):
        return {}

    def inverse(self, built, operator):
        return br.Identity.of(operator)


INNER = [
    Jacobi(),
    Nothing(),
    Scale(1e-3),
    Nystrom(8),
    Neumann(1e-5, 3),
    CG(4),
    CG(2, preconditioner=Jacobi()),
]


@pytest.mark.parametrize("preconditioner", INNER, ids=str)
def test_any_solver_preconditions_cg(preconditioner):
    matrix = symmetric(torch.linspace(0.5, 3.0, N))
    b = B.clone()
    solution = solve(CG(200, rtol=1e-12, preconditioner=preconditioner), matrix, b)
    assert solution.result is Result.success
    assert torch.equal(b, B)
    assert solution.stats.relative_residual <= 1e-12
    assert relative_error(solution.value, torch.linalg.solve(matrix, B)) <= 1e-11
    assert 0.5 - 1e-6 <= solution.stats.smallest_curvature <= 3.0 + 1e-6
    assert solution.stats.largest_curvature is None  # a preconditioner hides it


@pytest.mark.parametrize("solver", [CG, MINRES], ids=lambda solver: solver.__name__)
def test_a_good_preconditioner_saves_products(solver):
    plain = solve(solver(1000, rtol=1e-8), MATRIX, B)
    helped = solve(solver(1000, rtol=1e-8, preconditioner=Jacobi()), MATRIX, B)
    assert plain.result is helped.result is Result.success
    assert helped.stats.steps < 0.5 * plain.stats.steps
    assert relative_error(helped.value, torch.linalg.solve(MATRIX, B)) <= 1e-3
    assert residual(helped.value, MATRIX, B) <= 1.1e-8


def test_the_residual_that_is_told_is_the_euclidean_one():
    solution = solve(CG(5, preconditioner=Jacobi()), MATRIX, B)
    told = solution.stats.relative_residual
    assert told == pytest.approx(residual(solution.value, MATRIX, B), rel=1e-9)


def test_an_inner_solve_makes_directions_that_are_no_krylov_space():
    matrix = symmetric(torch.logspace(0, 3, N))
    plain = solve(CG(200, rtol=1e-8), matrix, B)
    solution = solve(CG(200, rtol=1e-8, preconditioner=CG(20)), matrix, B)
    assert solution.result is Result.success
    assert residual(solution.value, matrix, B) <= 1.1e-8
    assert solution.stats.steps <= 0.2 * plain.stats.steps
    assert solution.stats.products == 21 * solution.stats.steps  # those inside count


@dataclass(frozen=True)
class Bent(DirectSolver):
    """No linear map: every entry by its own size."""

    def solve(self, operator, vector):
        return vector * (0.5 + vector.abs() / (1 + vector.abs())), Result.success, None


class Recorded(br.LinearOperator):
    """A matrix that keeps what it is multiplied with."""

    def __init__(self, matrix):
        self.matrix, self.seen = br.Matrix(matrix), []

    @property
    def space(self):
        return self.matrix.space

    def mv(self, vector):
        self.seen.append(vector.clone())
        return self.matrix.mv(vector)


def test_directions_are_conjugate_to_the_last_one_whatever_the_preconditioner_does():
    matrix = symmetric(torch.linspace(0.5, 3.0, N))
    operator = Recorded(matrix)
    solution = br.linear_solve(operator, B, CG(12, preconditioner=Bent()))
    assert solution.stats.relative_residual == pytest.approx(
        residual(solution.value, matrix, B), rel=1e-9
    )
    for last, direction in pairwise(operator.seen):
        lengths = (last @ matrix @ last).sqrt() * (direction @ matrix @ direction).sqrt()
        assert abs(float(last @ matrix @ direction / lengths)) <= 1e-12


@pytest.mark.parametrize("preconditioner", [br.Dense(), Neumann(0.5, 400), CG(N)], ids=str)
def test_an_exact_preconditioner_solves_in_one_step_and_rounding_stays_rounding(preconditioner):
    matrix = symmetric(torch.linspace(0.5, 3.0, N))
    for steps in (1, 60):
        solution = solve(CG(steps, preconditioner=preconditioner), matrix, B)
        assert residual(solution.value, matrix, B) <= 1e-13


@pytest.mark.parametrize("preconditioner", [None, Jacobi(), Nothing(), Nystrom(4), Scale(0.5)])
@pytest.mark.parametrize("warm", [False, True])
def test_negative_curvature_returns_the_iterate_so_far(warm, preconditioner):
    matrix = symmetric(torch.linspace(1.0, 3.0, N))
    vectors = torch.linalg.eigh(matrix)[1]
    indefinite = matrix - 4 * torch.outer(vectors[:, 0], vectors[:, 0])
    if isinstance(preconditioner, Jacobi):  # its diagonal stays positive
        assert float(indefinite.diagonal().min()) > 0
    memory = {"value": 0.1 * vector(N, 9)} if warm else {}
    runs = [
        solve(CG(k, preconditioner=preconditioner, warm_start=warm), indefinite, B, memory=memory)
        for k in range(40)
    ]
    first = next(i for i, run in enumerate(runs) if run.result is Result.negative_curvature)
    assert first >= 1
    for later in runs[first:]:
        assert later.result is Result.negative_curvature
        assert torch.equal(later.value, runs[first - 1].value)
        assert later.stats.steps == first - 1
        assert later.stats.smallest_curvature < 0  # what it was refused for
        assert later.stats.smallest_curvature >= -3 - 1e-9


@pytest.mark.parametrize("solver", [CG, MINRES], ids=lambda solver: solver.__name__)
@pytest.mark.parametrize("preconditioner", [Jacobi(sign=-1e-3), Scale(-1.0)], ids=str)
def test_an_indefinite_preconditioner_is_told(preconditioner, solver):
    matrix, b = torch.diag(torch.linspace(1.0, 2.0, N)), B
    solution = solve(solver(preconditioner=preconditioner), matrix, b)
    assert solution.result is Result.preconditioner_indefinite
    assert torch.equal(solution.value, torch.zeros(N))
    assert solution.stats.steps == 0
    assert not solution.result.is_error


@pytest.mark.parametrize("preconditioner", [None, Jacobi(), Scale(0.3)], ids=str)
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_neumann_finds_its_rate_and_is_the_closed_form_with_it(steps, preconditioner):
    matrix = symmetric(torch.linspace(0.5, 3.0, N))
    solution = solve(Neumann(None, steps, preconditioner=preconditioner), matrix, B)
    inverse = {
        None: torch.eye(N),
        Jacobi(): torch.diag(1 / matrix.diagonal()),
        Scale(0.3): 0.3 * torch.eye(N),
    }[preconditioner]
    # the rate is one over the largest Ritz value of 5 Lanczos steps from Mb
    krylov = [inverse @ B]
    for _ in range(4):
        krylov.append(inverse @ matrix @ krylov[-1])
    basis = torch.linalg.qr(torch.stack(krylov, 1))[0]
    rate = 1 / float(torch.linalg.eigvals(basis.T @ inverse @ matrix @ basis).real.max())
    shrink, term, total = torch.eye(N) - rate * inverse @ matrix, inverse @ B, torch.zeros(N)
    for _ in range(steps + 1):
        total, term = total + rate * term, shrink @ term
    assert relative_error(solution.value, total) <= 1e-10
    assert solution.stats.steps == steps
    build = N if preconditioner == Jacobi() else 0
    assert solution.stats.products == steps + 5 + build
    limit = solve(Neumann(None, 400, preconditioner=preconditioner), matrix, B)
    assert relative_error(limit.value, torch.linalg.solve(matrix, B)) <= 1e-10


@pytest.mark.parametrize("size", [1, 2, 4])
def test_neumann_finds_its_rate_where_the_krylov_space_ends_early(size):
    """The Rayleigh quotients of such a b alone would be a rate to diverge at."""
    matrix = symmetric(torch.linspace(0.5, 3.0, N))
    b = torch.linalg.eigh(matrix)[1][:, :size].sum(dim=1)
    solution = solve(Neumann(None, 400), matrix, b)
    assert solution.result is Result.success
    assert relative_error(solution.value, torch.linalg.solve(matrix, b)) <= 1e-10


@pytest.mark.parametrize("seed", range(5))
def test_probes_beyond_the_dimension_do_not_count_twice(seed):
    matrix, b = symmetric(torch.tensor([1.0, 4.0]), seed), vector(2, seed)
    assert relative_error(solve(Neumann(None, 0), matrix, b).value, b / 4.0) <= 1e-12


def test_neumann_finds_the_rate_of_a_multiple_of_the_identity():
    solution = solve(Neumann(None, 0), 4.0 * torch.eye(N), B)
    assert relative_error(solution.value, B / 4.0) <= 1e-14


@pytest.mark.parametrize("preconditioner", [None, Jacobi(), Nystrom(4), CG(3)], ids=str)
@pytest.mark.parametrize("smallest", [0.5, -0.5])
def test_an_end_is_kept_whatever_follows(smallest, preconditioner):
    """Off the CPU nothing stops a fixed budget: every further step must move nothing."""
    operator = br.Matrix(symmetric(torch.linspace(smallest, 3.0, N)))
    system = preconditioned(System(operator, B), preconditioner, {})[0]
    solver = CG(1, preconditioner=preconditioner)
    state = solver.start(system, {})
    for _ in range(300):
        state = solver.step(system, state)
        if state["status"] != Status.running:
            break
    assert state["status"] != Status.running
    ended = {name: state[name].clone() for name in ("value", "residual_norm", "status")}
    for _ in range(30):
        state = solver.step(system, state)
    for name, before in ended.items():
        assert torch.allclose(state[name], before, rtol=1e-15, atol=0)
