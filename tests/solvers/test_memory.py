"""What one solve leaves for the next: it changes the cost, never the limit."""

import io

import pytest
import torch

import bestresponse as br
from bestresponse.solvers._recycle import Deflated, ritz
from checks import relative_error
from systems import outlying, residual, slowly_turning, solve, symmetric, vector

CG, MINRES, Nystrom, Result = br.CG, br.MINRES, br.Nystrom, br.Result
N = 40
MATRIX = symmetric(torch.logspace(0, 2, N))
B = vector(N)
WARM = [
    CG(300, rtol=1e-12, warm_start=True),
    CG(300, rtol=1e-12, warm_start=True, preconditioner=Nystrom(5)),
    CG(300, rtol=1e-12, warm_start=True, preconditioner=CG(3)),
    CG(300, rtol=1e-12, warm_start=True, recycle=4),
    MINRES(300, rtol=1e-12, warm_start=True),
    MINRES(300, rtol=1e-12, warm_start=True, preconditioner=Nystrom(5)),
]
CARRYING = [
    *WARM,
    Nystrom(5, refresh=3),
    CG(5, preconditioner=Nystrom(5, refresh=3)),
    br.SingleLoop(),
    br.SingleLoop(0.01),
    br.SingleLoop(preconditioner=Nystrom(5, refresh=3)),
]


def without(solver, **settings):
    return type(solver)(**{**vars(solver), **settings})


@pytest.mark.parametrize("solver", WARM, ids=str)
def test_a_warm_start_changes_the_products_but_not_the_limit(solver):
    exact = torch.linalg.solve(MATRIX, B)
    near = {"value": exact + 1e-8 * vector(N, 8)}
    far = {"value": vector(N, 9)}
    cold = solve(solver, MATRIX, B)
    for memory in (near, far):
        warm = solve(solver, MATRIX, B, memory=memory)
        assert warm.result is Result.success
        assert relative_error(warm.value, exact) <= 1e-10
        assert warm.stats.relative_residual <= 1e-12
    assert solve(solver, MATRIX, B, memory=near).stats.steps < 0.7 * cold.stats.steps
    assert torch.equal(near["value"], exact + 1e-8 * vector(N, 8))  # what is carried is not used up


@pytest.mark.parametrize(
    "solver",
    [CG(5, warm_start=True), CG(20, warm_start=True), CG(5, warm_start=True, recycle=5),
     MINRES(5, warm_start=True)],
    ids=str,
)  # fmt: skip
def test_a_warm_start_does_not_grow_on_indefinite_systems_that_change(solver):
    """Started from the whole of its last answer, CG was at 10²⁴ after 60 of these."""
    base, generator = symmetric(torch.linspace(-0.02, 2.0, 30)), torch.Generator().manual_seed(1)
    memory, longest = {}, {True: 0.0, False: 0.0}
    for _ in range(60):
        noise = 0.03 * torch.randn(30, 30, generator=generator)
        matrix, b = base + noise + noise.T, torch.randn(30, generator=generator)
        warm = solve(solver, matrix, b, memory=memory)
        memory = warm.memory
        for carries, found in ((True, warm), (False, solve(solver, matrix, b))):
            longest[carries] = max(longest[carries], float(found.value.norm()))
    assert longest[True] <= 20 * longest[False]


def test_a_guess_is_taken_at_its_best_multiple():
    exact = torch.linalg.solve(MATRIX, B)
    for solver in (CG(0, warm_start=True), MINRES(0, warm_start=True)):
        doubled = solve(solver, MATRIX, B, memory={"value": 2 * exact})
        assert relative_error(doubled.value, exact) <= 1e-12
        turned = solve(solver, MATRIX, B, memory={"value": -exact})
        assert torch.equal(turned.value, torch.zeros(N))
        assert turned.stats.relative_residual == 1


@pytest.mark.parametrize("solver", CARRYING, ids=str)
def test_a_saved_nested_goes_on_bit_by_bit(solver):
    """Answers, Ritz vectors, factors and step lengths are in the state_dict, and are used."""

    def make():
        torch.manual_seed(0)
        model = torch.nn.Linear(N, 1, bias=False)
        decay = br.hyper.WeightDecay(model, init=0.1)
        nested = br.Nested(
            params=model,
            hyper=decay,
            inner=lambda x: (model(x) - 1).square().mean() + decay(model),
            outer=lambda x: (model(x) - 2).square().mean(),
            method=br.Implicit(solver),
            throw=False,
        )
        return model, decay, nested

    def calls(problem, numbers):
        model, decay, nested = problem
        for number in numbers:
            base, noise = (
                torch.randn(2 * N, N, generator=torch.Generator().manual_seed(seed))
                for seed in (0, number)
            )
            x = base + 0.03 * noise
            decay.zero_grad()
            nested((x,), (x,))[0].backward()
            with torch.no_grad():
                model.weight.mul_(0.99)
            yield torch.cat([p.grad.flatten() for p in decay.parameters()])

    whole, state = make(), io.BytesIO()
    list(calls(whole, range(1, 3)))
    torch.save(whole[2].state_dict(), state)
    weights = {name: value.clone() for name, value in whole[0].state_dict().items()}
    expected = list(calls(whole, range(3, 7)))
    for kept in (True, False):
        other = make()
        other[0].load_state_dict(weights)
        if kept:
            state.seek(0)
            other[2].load_state_dict(torch.load(state, weights_only=True))
        found = list(calls(other, range(3, 7)))
        same = all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))
        assert same == kept


@pytest.mark.parametrize("solver", [CG, MINRES], ids=lambda solver: solver.__name__)
@pytest.mark.parametrize("preconditioner", [None, Nystrom(5)], ids=str)
def test_an_exact_guess_costs_one_product_and_no_step(preconditioner, solver):
    guess = {"value": torch.linalg.solve(MATRIX, B)}
    chosen = solver(rtol=1e-10, warm_start=True, preconditioner=preconditioner)
    solution = solve(chosen, MATRIX, B, memory=guess)
    build = 0 if preconditioner is None else preconditioner.rank
    assert (solution.stats.steps, solution.stats.products) == (0, 1 + build)
    assert torch.equal(solution.value, guess["value"])
    assert solution.result is Result.success


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_without_the_setting_nothing_is_carried(steps):
    memory = {"value": vector(N, 9)}
    for solver in (CG(steps), MINRES(steps)):
        solution = solve(solver, MATRIX, B, memory=memory)
        assert solution.memory == {}
        assert torch.equal(solution.value, solve(solver, MATRIX, B).value)


@pytest.mark.parametrize("steps", [1, 4])
def test_the_residual_of_a_warm_start_is_the_true_one(steps):
    memory = {"value": 0.1 * vector(N, 9)}
    for solver in (CG(steps, warm_start=True), MINRES(steps, warm_start=True)):
        solution = solve(solver, MATRIX, B, memory=memory)
        assert solution.stats.products == steps + 1
        assert solution.stats.relative_residual == pytest.approx(
            residual(solution.value, MATRIX, B), rel=1e-9
        )


@pytest.mark.parametrize("solver", CARRYING, ids=str)
def test_a_memory_survives_a_file(solver):
    first = solve(solver, MATRIX, B, throw=False)
    assert first.memory
    file = io.BytesIO()
    torch.save(first.memory, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    b = B + 0.1 * vector(N, 9)
    here, there = (solve(solver, MATRIX, b, memory=m) for m in (first.memory, loaded))
    assert torch.equal(here.value, there.value)
    assert here.stats == there.stats
    fresh = solve(solver, MATRIX, b)
    assert here.stats != fresh.stats  # it was used


@pytest.mark.parametrize("solver", CARRYING, ids=str)
def test_a_memory_of_another_size_is_ignored(solver):
    other = solve(solver, symmetric(torch.linspace(1.0, 2.0, 7)), vector(7)).memory
    fresh, given = solve(solver, MATRIX, B), solve(solver, MATRIX, B, memory=other)
    assert torch.equal(fresh.value, given.value)
    assert fresh.stats == given.stats


@pytest.mark.parametrize("solver", CARRYING, ids=str)
def test_a_memory_of_another_type_is_converted_or_ignored(solver):
    memory = solve(solver, MATRIX.float(), B.float(), throw=False).memory
    solution = solve(solver, MATRIX, B, memory=memory)
    assert solution.value.dtype is torch.float64
    assert solution.value.isfinite().all()


def test_what_another_preconditioner_built_is_ignored():
    memory = solve(CG(5, preconditioner=Nystrom(5, refresh=9)), MATRIX, B).memory
    for other in (Nystrom(6, refresh=9), Nystrom(5, refresh=9, seed=1)):
        solver = CG(5, preconditioner=other)
        fresh, given = solve(solver, MATRIX, B), solve(solver, MATRIX, B, memory=memory)
        assert torch.equal(fresh.value, given.value)
        assert fresh.stats.products == given.stats.products == 5 + other.rank


@pytest.mark.parametrize("drift", [0.0, 1e-3])
def test_recycling_saves_products_on_a_slowly_changing_sequence(drift):
    products = {}
    for recycle in (0, 5):
        memory, spent = {}, []
        for matrix, b in slowly_turning(outlying(), drift, 25):
            solver = CG(200, rtol=1e-6, recycle=recycle)
            solution = solve(solver, matrix, b, memory=memory)
            assert solution.result is Result.success
            assert residual(solution.value, matrix, b) <= 1.1e-6
            memory = solution.memory
            spent.append(solution.stats.products)
        products[recycle] = spent
    assert products[5][0] == products[0][0]
    assert sum(products[5][1:6]) <= 0.7 * sum(products[0][1:6])
    assert sum(products[5][-6:]) <= 0.7 * sum(products[0][-6:])  # nor does it wear out


@pytest.mark.parametrize("recycle", [3, 8])
def test_recycling_does_no_great_harm_where_the_systems_are_strangers(recycle):
    """Images of long ago, mixed with new ones, once cost eight times the products."""
    memory, plain, spent = {}, 0, 0
    for matrix, b in slowly_turning(outlying(), 0.1, 30):
        solution = solve(CG(400, rtol=1e-6, recycle=recycle), matrix, b, memory=memory)
        assert solution.result is Result.success
        memory = solution.memory
        spent += solution.stats.products
        plain += solve(CG(400, rtol=1e-6), matrix, b).stats.products
    assert spent <= 2 * plain


def krylov(matrix, count, seed=0):
    directions = torch.linalg.qr(torch.randn(len(matrix), count))[0].T
    return directions, directions @ matrix


@pytest.mark.parametrize("inner", [None, br.Diagonal(torch.linspace(0.1, 2.0, N))])
def test_deflation_inverts_exactly_where_it_knows_the_matrix(inner):
    torch.manual_seed(1)
    pairs = ritz(*krylov(MATRIX, 6), keep=4)
    vectors, images = pairs["vectors"], pairs["images"]
    assert vectors.shape == (4, N)
    assert relative_error(vectors @ MATRIX, images) <= 1e-10
    assert relative_error(vectors @ MATRIX @ vectors.T, torch.eye(4)) <= 1e-10
    inverse = Deflated(inner, vectors, images).as_matrix()
    assert relative_error(inverse @ images.T, vectors.T) <= 1e-10
    assert relative_error(inverse, inverse.T) <= 1e-12
    assert float(torch.linalg.eigvalsh(inverse).min()) > 0


@pytest.mark.parametrize("seed", range(10))
def test_deflation_is_positive_definite_for_images_of_another_matrix(seed):
    torch.manual_seed(seed)
    pairs = ritz(*krylov(MATRIX, 6), keep=4)
    stale = pairs["images"] + torch.randn(4, N)
    inverse = Deflated(None, pairs["vectors"], stale).as_matrix()
    assert relative_error(inverse, inverse.T) <= 1e-12
    assert float(torch.linalg.eigvalsh((inverse + inverse.T) / 2).min()) > 0


def test_ritz_vectors_keep_the_most_telling_ends_of_the_spectrum():
    values = torch.tensor([1e-3, 1.0, 1.1, 1.2, 1.3, 1e3])
    torch.manual_seed(0)
    mixed = torch.linalg.qr(torch.randn(6, 6))[0]
    pairs = ritz(mixed, mixed * values, keep=2)
    # A-orthonormal, so that the eigenvector of λ has the length 1/√λ
    lengths = sorted(pairs["vectors"].norm(dim=1).tolist())
    assert lengths == pytest.approx([1e3**-0.5, 1e-3**-0.5], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ritz_vectors_of_dependent_directions_are_finite(dtype):
    torch.manual_seed(0)
    directions = torch.linalg.qr(torch.randn(N, 3))[0].T
    directions = torch.cat([directions, directions, directions[:1] + 1e-9 * torch.randn(1, N)])
    matrix = MATRIX.to(dtype)
    directions = directions.to(dtype)
    pairs = ritz(directions, directions @ matrix, keep=7)
    assert len(pairs["vectors"]) == 3
    error = relative_error(pairs["vectors"] @ matrix @ pairs["vectors"].T, torch.eye(3))
    assert error <= 1e4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("eigenvalue", [-1.0, 0.0])
def test_without_positive_curvature_there_is_nothing_to_recycle(eigenvalue):
    matrix = eigenvalue * torch.eye(5)
    assert ritz(torch.eye(5), matrix, keep=3) == {}
    solution = solve(CG(recycle=3), matrix, torch.ones(5), throw=False)
    assert solution.result is Result.negative_curvature
    assert solution.memory == {}


def test_an_error_is_not_carried_on():
    solver = CG(20, warm_start=True, recycle=3)
    memory = solve(solver, MATRIX, B).memory
    broken = solve(solver, MATRIX * torch.nan, B, memory=memory, throw=False)
    assert broken.result is Result.nonfinite
    assert broken.memory == {}
