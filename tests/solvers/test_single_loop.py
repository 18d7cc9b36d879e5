"""One step a call: its recursion written out, its limit, its rate, and how it tells of trouble."""

import pytest
import torch

import bestresponse as br
from checks import relative_error
from systems import outlying, residual, slowly_turning, solve, symmetric, vector

Nystrom, Result, Scale, SingleLoop = br.Nystrom, br.Result, br.Scale, br.SingleLoop
N = 20
MATRIX = symmetric(torch.linspace(0.5, 3.0, N))
B = vector(N)


def follow(solver, systems, **kwargs):
    """One call a system; the solutions."""
    memory, solutions = {}, []
    for matrix, b in systems:
        solutions.append(solve(solver, matrix, b, memory=memory, **kwargs))
        memory = solutions[-1].memory
    return solutions


@pytest.mark.parametrize("preconditioner", [None, Scale(0.5), Nystrom(4)], ids=str)
def test_it_is_its_recursion_written_out(preconditioner):
    systems = list(slowly_turning(MATRIX, 0.05, 12))
    value = torch.zeros(N)
    solutions = follow(SingleLoop(0.2, preconditioner=preconditioner), systems)
    for (matrix, b), solution in zip(systems, solutions, strict=True):
        rest = b - matrix @ value
        assert solution.stats.relative_residual == pytest.approx(
            float(rest.norm() / b.norm()), rel=1e-10
        )
        if preconditioner is not None:
            rest = solve(preconditioner, matrix, rest).value
        value = value + 0.2 * rest
        assert relative_error(solution.value, value) <= 1e-12
        assert solution.stats.steps == 1


def test_a_call_costs_one_product_and_with_lr_the_first_costs_none():
    systems = [(MATRIX, B)] * 6
    assert [s.stats.products for s in follow(SingleLoop(0.2), systems)] == [0, 1, 1, 1, 1, 1]
    assert [s.stats.products for s in follow(SingleLoop(), systems)] == [1] * 6
    built = follow(SingleLoop(preconditioner=Nystrom(4, refresh=3)), systems)
    assert [s.stats.products for s in built] == [5, 1, 1, 5, 1, 1]


@pytest.mark.parametrize(
    "solver",
    [
        SingleLoop(0.3),
        SingleLoop(),
        SingleLoop(preconditioner=Nystrom(4)),
        SingleLoop(preconditioner=Scale(10.0)),
    ],
    ids=str,
)
def test_on_a_fixed_system_it_converges_to_dense(solver):
    last = follow(solver, [(MATRIX, B)] * 250)[-1]
    assert last.result is Result.success
    assert relative_error(last.value, solve(br.Dense(), MATRIX, B).value) <= 1e-11


@pytest.mark.parametrize("solver", [SingleLoop(0.3), SingleLoop()], ids=str)
def test_it_follows_a_slowly_changing_system(solver):
    systems = []
    for turned, _ in slowly_turning(MATRIX, 1e-3, 120):
        systems.append((turned, B))
    solutions = follow(solver, systems)
    errors = [
        relative_error(solution.value, torch.linalg.solve(matrix, b))
        for (matrix, b), solution in zip(systems, solutions, strict=True)
    ]
    assert max(errors[40:]) <= 0.05
    assert errors[0] > 0.3  # a step by itself is not that good


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_a_stable_rate_where_the_first_one_was_far_too_long(seed):
    """A random b sees little of a few steep directions."""
    matrix, b = outlying(60, (300.0, 1000.0), seed), vector(60, seed)
    solutions = follow(SingleLoop(), [(matrix, b)] * 1500)
    first, last = solutions[0].memory["rate"], solutions[-1].memory["rate"]
    assert first * 1000.0 > 2  # it would have diverged
    assert 0.2 <= last * 1000.0 <= 2.5
    # a step too long is shortened after the fact, before it grows
    assert max(solution.stats.relative_residual for solution in solutions) <= 20
    assert residual(solutions[-1].value, matrix, b) <= 0.2


def test_a_found_rate_is_stable_and_does_not_waste_away_on_noise():
    generator = torch.Generator().manual_seed(0)

    def batches():
        for _ in range(1000):
            factor = torch.randn(N, 40, generator=generator)
            root = torch.linalg.cholesky(MATRIX)
            sampled = root @ factor
            noise = 0.3 * torch.randn(N, generator=generator)
            yield sampled @ sampled.T / 40, B + noise

    solutions = follow(SingleLoop(), batches())
    assert not any(solution.result.is_error for solution in solutions)
    assert 0.1 <= solutions[-1].memory["rate"] * 3.0 <= 2
    mean = torch.stack([solution.value for solution in solutions[200:]]).mean(dim=0)
    assert relative_error(mean, torch.linalg.solve(MATRIX, B)) <= 0.3


def test_a_rate_too_large_is_told_and_starts_afresh():
    solver = SingleLoop(1.0)  # 2/3 is the limit
    memory, results = {}, []
    for _ in range(60):
        solution = solve(solver, MATRIX, B, memory=memory, throw=False)
        memory = solution.memory
        results.append(solution.result)
        if solution.result.is_error:
            assert solution.stats.relative_residual > 100
            assert memory == {}
        else:
            assert solution.stats.relative_residual <= 100
    assert results.count(Result.diverging) >= 2  # again and again, each time from the start
    with pytest.raises(br.SolveError, match="lr"):
        follow(solver, [(MATRIX, B)] * 60)
    assert not any(s.result.is_error for s in follow(SingleLoop(0.6), [(MATRIX, B)] * 60))


def test_a_negative_quotient_is_told():
    indefinite = symmetric(torch.linspace(-3.0, 1.0, N))
    solution = follow(SingleLoop(0.01), [(indefinite, B)] * 20)[-1]
    assert solution.result is Result.negative_curvature
    assert -3.0 <= solution.stats.smallest_curvature < 0
    assert solve(SingleLoop(), indefinite, B).result is Result.negative_curvature


def test_the_curvature_it_tells_is_a_rayleigh_quotient_of_the_answer():
    first, second = follow(SingleLoop(0.2), [(MATRIX, B)] * 2)
    assert first.stats.smallest_curvature is None  # it saw none
    quotient = float(B @ MATRIX @ B / (B @ B))
    assert second.stats.smallest_curvature == pytest.approx(quotient, rel=1e-10)
    assert second.stats.largest_curvature is None  # it may be far above


def test_a_failure_is_not_carried_on():
    """Raised or reported, the next call starts afresh."""
    failed = {}
    for throw in (True, False):
        weight, hyper = (torch.nn.Linear(1, 1, bias=False) for _ in range(2))
        nested = br.Nested(
            params=weight,
            hyper=hyper,
            inner=lambda w=weight, h=hyper: 2 * (w.weight - h.weight).square().sum(),
            outer=lambda w=weight: (w.weight - 3).square().sum(),
            method=br.Implicit(SingleLoop(lr=1.0)),  # the curvature is 4
            throw=throw,
        )
        failed[throw] = []
        for _ in range(30):
            try:
                failed[throw].append(nested()[1].result.is_error)
            except br.SolveError:
                failed[throw].append(True)
    assert failed[True] == failed[False]
    assert 1 < failed[True].count(True) < 15


def test_a_start_at_zero_does_not_spoil_the_rate():
    solutions = follow(SingleLoop(), [(MATRIX, torch.zeros(N)), *[(MATRIX, B)] * 250])
    assert torch.equal(solutions[0].value, torch.zeros(N))
    assert relative_error(solutions[-1].value, torch.linalg.solve(MATRIX, B)) <= 1e-11
