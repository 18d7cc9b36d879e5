"""What each structure promises, looked for on the function that is evaluated, at any weights."""

import pytest
import torch

import bestresponse as br
import bestresponse.jacnet as jn
from checks import relative_error
from jacnet_structures import EVERY, MONOTONE, autograd_jacobian, gap, hushed, make, scaled

POINTS = torch.linspace(-5, 5, 4001, dtype=torch.float64)[:, None]
SEEDS = range(5)
by_scale = pytest.mark.parametrize("factor", [1.0, 5.0, 20.0])
SLOPES = [
    jn.Softplus(0.05), jn.Exp(1e-4), jn.Square(1e-4), jn.Interval(1e-3, 2.0), jn.Softplus(1e-4),
]  # fmt: skip


def slopes_of(f, points=POINTS):
    """By difference quotients of neighbours, and by autograd."""
    with torch.no_grad():
        quotients = f(points).diff(dim=0) / points.diff(dim=0)
    return quotients, f.derivative(points).detach()


@by_scale
@pytest.mark.parametrize("slope", SLOPES, ids=str)
@pytest.mark.parametrize("table", [jn.Knots(), jn.Knots(-3.0, 3.5, 20)], ids=str)
def test_slopes_stay_within_floor_and_ceiling(slope, table, factor):
    for seed in SEEDS:
        torch.manual_seed(seed)
        f = scaled(jn.Monotone1d(slope=slope, table=table), factor)
        quotients, slopes = slopes_of(f)
        told = f.certificate()
        assert (told.kind, told.invertible, told.conservative) == ("proved", True, True)
        assert slope.floor <= told.lower * (1 + 1e-12)
        assert told.upper <= slope.ceiling
        assert float(slopes.min()) >= told.lower * (1 - 1e-6)
        assert float(slopes.max()) <= told.upper * (1 + 1e-6)
        rounding = 1e-11 * float(f(POINTS).detach().abs().max())
        assert float(quotients.min()) >= told.lower * (1 - 1e-6) - rounding
        assert float(quotients.max()) <= told.upper * (1 + 1e-6) + rounding


@by_scale
@pytest.mark.parametrize("bound", [1.0, 0.3])
def test_lipschitz_constants_hold(bound, factor):
    for seed in SEEDS:
        torch.manual_seed(seed)
        f = scaled(jn.Lipschitz1d(bound=bound), factor)
        quotients, slopes = slopes_of(f)
        told = f.certificate()
        assert told.kind == "proved" and not told.invertible
        assert told.upper <= bound
        assert float(slopes.abs().max()) <= told.upper * (1 + 1e-6)
        assert float(quotients.abs().max()) <= told.upper * (1 + 1e-6) + 1e-12


@by_scale
def test_slopes_stay_within_any_interval(factor):
    for seed in SEEDS:
        torch.manual_seed(seed)
        f = scaled(jn.Lipschitz1d(slope=jn.Interval(-0.5, 2.0)), factor)
        slopes = slopes_of(f)[1]
        assert -0.5 * (1 + 1e-6) <= float(slopes.min())
        assert float(slopes.max()) <= 2 * (1 + 1e-6)


def test_enough_cells_hold_the_floor_and_too_few_do_not():
    """The failure that the tables are there for, so that the tests above can fail."""
    worst = {}
    for cells in (1, 64):
        found = []
        for seed in SEEDS:
            torch.manual_seed(seed)
            f = jn.Monotone1d(slope=jn.Square(1e-4), table=jn.Cells(-4.0, 4.0, cells, 4))
            found.append(float(slopes_of(scaled(f, 5.0))[1].min()))
        worst[cells] = min(found)
    assert worst[1] < -0.05
    assert worst[64] >= 1e-4 * (1 - 1e-6)


def test_a_fixed_rule_alone_breaks_the_papers_positivity_and_is_not_called_proved():
    worst = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        f = jn.PathIntegral(1, 1, activation=jn.Gram(1e-4), rule=jn.GaussLegendre(4))
        slopes = scaled(f, 5.0).jacobian(torch.linspace(-2, 2, 401)[:, None])
        worst.append(float(slopes.detach().min()))
        assert f.certificate().kind != "proved" and not f.certificate().invertible
    assert min(worst) < -0.01


def test_with_a_context_the_slopes_are_bounded_for_all_contexts():
    for factor in (1.0, 5.0):
        f = scaled(jn.Monotone1d(slope=jn.Interval(0.2, 1.5), context=2), factor)
        context = 10 * torch.randn(2)
        slopes = f.derivative(POINTS, context.expand(len(POINTS), 2)).detach()
        told = f.certificate()
        assert (told.kind, told.lower, told.upper) == ("proved", 0.2, 1.5)
        assert 0.2 * (1 - 1e-6) <= float(slopes.min()) <= float(slopes.max()) <= 1.5 * (1 + 1e-6)


@pytest.mark.parametrize("factor", [1.0, 5.0])
@pytest.mark.parametrize("dim", [2, 8])
@pytest.mark.parametrize("name", MONOTONE)
def test_symmetric_parts_of_convex_gradients_are_above_the_floor(name, dim, factor):
    for seed in SEEDS:
        f = make(name, dim, seed, factor)
        jacobian = autograd_jacobian(f, 2 * torch.randn(8, dim))
        symmetric = (jacobian + jacobian.mT) / 2
        told = f.certificate()
        assert told.lower >= 0.1 and told.invertible and told.kind == "proved"
        assert told.conservative == (name != "skew")
        if told.conservative:
            assert gap(jacobian, jacobian.mT) <= 1e-11 * float(jacobian.abs().max())
        else:
            assert gap(jacobian, jacobian.mT) > 1e-2
        smallest = float(torch.linalg.eigvalsh(symmetric).min())
        assert smallest >= told.lower * (1 - 1e-10)
        assert float(torch.linalg.matrix_norm(jacobian, 2).max()) <= told.upper * (1 + 1e-10)


BOUNDED = ["ridge", "skew", "logsumexp", "icnn", "bilipschitz", "kronecker", "rotation",
           "permutation", "convex_stack", "mixed_stack", "interval", "lipschitz"]  # fmt: skip


@pytest.mark.parametrize("factor", [1.0, 5.0])
@pytest.mark.parametrize("name", BOUNDED)
def test_no_search_gets_past_a_certificate(name, factor):
    f = make(name, 2, factor=factor)
    told = f.certificate()
    found = jn.search(f, torch.randn(16, 2), steps=30)
    assert found.largest <= told.upper * (1 + 1e-9)
    assert name == "lipschitz" or found.smallest >= told.lower * (1 - 1e-9)
    for stretch, (one, other) in (
        (found.largest, found.largest_pair),
        (found.smallest, found.smallest_pair),
    ):
        again = float((f(one) - f(other)).detach().norm() / (one - other).norm())
        assert again == pytest.approx(stretch, rel=1e-9)


def test_the_search_finds_what_is_there():
    """Singular values of a linear map; and a fold, whose two sides meet."""
    matrix = torch.tensor([[3.0, 1.0], [0.0, 0.5]])
    found = jn.search(lambda x: x @ matrix.T, torch.randn(16, 2), steps=100)
    values = torch.linalg.svdvals(matrix)
    assert found.largest == pytest.approx(float(values[0]), rel=1e-6)
    assert found.smallest == pytest.approx(float(values[1]), rel=1e-4)
    fold = jn.search(lambda x: torch.stack([x[:, 0] ** 2, x[:, 1]], -1), torch.randn(32, 2))
    assert fold.smallest <= 5e-3
    assert float(fold.smallest_pair.diff(dim=0).norm()) >= 0.1


def test_the_search_keeps_its_pairs_apart():
    """For x³ the least stretch of a pair h apart is h²/4, at ±h/2; together they would reach 0."""
    points = torch.randn(32, 1)
    least = 0.2 * float(points.std())
    found = jn.search(lambda x: x**3, points, apart=0.2, steps=300)
    assert float(found.smallest_pair.diff(dim=0).norm()) >= least * (1 - 1e-12)
    assert found.smallest == pytest.approx(least**2 / 4, rel=1e-2)


def test_the_certified_constant_of_a_trained_ridge_is_within_twice_the_sampled_one():
    x = torch.randn(128, 2)
    target = torch.stack([torch.tanh(3 * x[:, 0]) + x[:, 0], x[:, 1] + 0.3 * x[:, 1] ** 3], -1)
    f = jn.ConvexGradient(2, 16)
    optimizer = torch.optim.Adam(f.parameters(), lr=0.05)
    for _ in range(200):
        loss = (f(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) <= 0.05
    told, found = f.certificate(), jn.search(f, x[:32], steps=100)
    assert 1 - 1e-9 <= told.upper / found.largest <= 2
    assert told.lower <= found.smallest


@pytest.mark.parametrize("contraction", [0.3, 0.9, 0.99])
@by_scale
def test_residual_layers_stretch_within_their_bounds(contraction, factor):
    for seed in SEEDS:
        torch.manual_seed(seed)
        f = jn.BiLipschitz(4, 8, contraction=contraction)
        scaled(f, factor)
        told = f.certificate()
        assert 1 - contraction <= told.lower and told.upper <= 1 + contraction
        values = torch.linalg.svdvals(autograd_jacobian(f, torch.randn(8, 4)))
        assert told.lower * (1 - 1e-12) <= float(values.min())
        assert float(values.max()) <= told.upper * (1 + 1e-12)


def test_a_contraction_of_scaled_weights_is_reached_but_not_passed():
    f = scaled(jn.BiLipschitz(3, 8, contraction=0.8), 10.0)
    assert f.certificate().lower == pytest.approx(0.2, rel=1e-9)
    with torch.no_grad():
        f.first.bias.zero_()
    at_zero = f.jacobian(torch.zeros(3)) - torch.eye(3)
    assert float(torch.linalg.matrix_norm(at_zero, 2).detach()) <= 0.8


def test_constants_of_a_composition_multiply():
    layers = [
        make(name, 2, seed) for seed, name in enumerate(["ridge", "bilipschitz", "kronecker"])
    ]
    told = jn.Compose(layers).certificate()
    parts = [layer.certificate() for layer in layers]
    assert told.lower == pytest.approx(parts[0].lower * parts[1].lower * parts[2].lower)
    assert told.upper == pytest.approx(parts[0].upper * parts[1].upper * parts[2].upper)
    assert told.kind == "proved" and told.invertible and not told.conservative


def test_a_composition_is_as_weak_as_its_weakest_layer():
    ridge = make("ridge")
    assert not jn.Compose([ridge, make("holomorphic")]).certificate().invertible
    assert jn.Compose([ridge, make("holomorphic")]).certificate().lower is None
    assert jn.Compose([ridge, make("path_integral")]).certificate().kind == "pointwise"
    assert jn.Compose([ridge, make("cells")]).certificate().kind == "checked"
    assert jn.Compose([ridge]).certificate().conservative


@pytest.mark.parametrize("factor", [1.0, 2.0])
@pytest.mark.parametrize("dim", [2, 4])
def test_the_cauchy_riemann_equations_hold(dim, factor):
    for seed in SEEDS:
        f, x = make("holomorphic", dim, seed, factor), torch.randn(4, dim)
        half = dim // 2
        own = f.jacobian(x)
        assert torch.equal(own[:, :half, :half], own[:, half:, half:])
        assert torch.equal(own[:, :half, half:], -own[:, half:, :half])
        assert relative_error(own, autograd_jacobian(f, x)) <= 1e-13
        assert not f.certificate().invertible


def test_a_holomorphic_map_is_one_of_complex_numbers():
    f, z = make("holomorphic", 4), torch.randn(3, 2, dtype=torch.complex128)
    weight, bias, last, shift, linear = (
        torch.view_as_complex(p.detach()) for p in (f.weight, f.bias, f.last, f.shift, f.linear)
    )
    exact = z @ linear.T + torch.sin(z @ weight.T + bias) @ last.T + shift
    found = f(torch.cat([z.real, z.imag], -1)).detach()
    assert gap(torch.complex(found[:, :2], found[:, 2:]).abs(), exact.abs()) <= 1e-12
    assert gap(found, torch.cat([exact.real, exact.imag], -1)) <= 1e-12


@pytest.mark.parametrize("factor", [1.0, 5.0])
@pytest.mark.parametrize("dim", [2, 5])
def test_triangular_maps_are_triangular_with_a_positive_diagonal(dim, factor):
    for seed in SEEDS:
        torch.manual_seed(seed)
        f = scaled(jn.Triangular(dim, slope=jn.Softplus(0.05), hidden=8), factor)
        jacobian = autograd_jacobian(f, 2 * torch.randn(16, dim))
        assert float(jacobian.triu(1).abs().max()) == 0
        assert float(torch.linalg.diagonal(jacobian).min()) >= 0.05 * (1 - 1e-6)
        assert f.certificate().invertible


FINE = jn.GaussLegendre(16, cells=16)
TRUE = [name for name in EVERY if name not in ("path_integral", "triangular", "triangular_stack")]


@pytest.mark.parametrize("name", TRUE)
@pytest.mark.parametrize("dim", [2, 4])
def test_paths_agree_where_the_field_is_a_jacobian(name, dim):
    f, x = make(name, dim), torch.randn(4, dim)
    start = torch.randn(4, dim)
    f = _on_one_piece(f)
    for where in (None, start):
        assert float(f.path_gap(x, start=where, rule=FINE).max()) <= 1e-10
    assert f.conservativity(x).defect <= 1e-12


def _on_one_piece(f):
    """Knots that are far apart: quadrature over a kink converges slowly."""
    for part in f.modules():
        if hasattr(part, "table") and isinstance(part.table, jn.Knots):
            part.table = jn.Knots(-40.0, 40.0, 2)
    return f


@pytest.mark.parametrize("name", ["triangular", "triangular_stack"])
def test_paths_agree_for_triangular_maps_of_few_knots(name):
    f, x = _on_one_piece(make(name)), torch.randn(4, 2)
    assert float(f.path_gap(x, rule=FINE).max()) <= 1e-10
    assert f.conservativity(x).defect <= 1e-12


@pytest.mark.parametrize("name", ["ridge", "logsumexp", "icnn", "potential"])
def test_gradients_have_symmetric_jacobians(name):
    f, x = make(name, 4), torch.randn(8, 4)
    assert f.conservativity(x).antisymmetry <= 1e-14
    assert f.certificate().conservative
    assert make("skew", 4).conservativity(x).antisymmetry > 1e-2


def test_what_is_no_jacobian_is_seen_by_the_same_measures():
    f = hushed(jn.PathIntegral(2, 2, activation=jn.Gram(0.01), hidden=16))
    x = torch.randn(16, 2)
    assert float(f.path_gap(x, rule=FINE).median()) > 0.01
    assert f.conservativity(x).defect > 0.01
    assert f.conservativity(x).antisymmetry > 0.01
    exact = autograd_jacobian(f, x)
    skew = torch.linalg.matrix_norm(exact - exact.mT) / 2 / torch.linalg.matrix_norm(exact)
    assert f.conservativity(x).antisymmetry == pytest.approx(float(skew.median()), rel=1e-12)
    off = torch.linalg.matrix_norm(exact - f.field(x)) / torch.linalg.matrix_norm(exact)
    assert f.conservativity(x).defect == pytest.approx(float(off.detach().median()), rel=1e-12)


def test_a_slope_that_falls_to_zero_is_not_called_invertible():
    f = jn.Monotone1d(slope=jn.Softplus(0.0))
    with torch.no_grad():
        f.net.biases[-1].fill_(-1000.0)
    told = f.certificate()
    assert not told.invertible and told.lower == 0.0
    with pytest.raises(br.SolveError):
        f.inverse(torch.ones(1))
