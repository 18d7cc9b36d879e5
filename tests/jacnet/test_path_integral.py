"""The paper's general form: what it is in one dimension, and what it is not in more."""

import copy
import math
import warnings

import pytest
import torch

import bestresponse as br
import bestresponse.jacnet as jn
from bestresponse.jacnet._newton import newton
from checks import relative_error
from jacnet_structures import gap, hushed, scaled

SQUARE = {
    "free": jn.Free(), "gram": jn.Gram(0.1), "tanh": jn.Tanh(0.7), "cap": jn.SpectralCap(0.7),
    "skew": jn.DefinitePlusSkew(0.1), "lu": jn.LowerUpper(0.1), "exp": jn.Exponential(),
    "cauchy_riemann": jn.CauchyRiemann(), "kronecker": jn.KroneckerProduct(2, 0.1),
}  # fmt: skip


class Written(torch.nn.Module):
    """A field by formula instead of a network."""

    def __init__(self, formula):
        super().__init__()
        self.formula = formula

    def forward(self, x):
        return self.formula(x)


def of_field(formula, dim=2, **settings):
    """A free path integral of a field (..., n, n)."""
    net = Written(lambda x: formula(x).flatten(-2))
    return hushed(jn.PathIntegral(dim, dim, activation=jn.Free(), net=net, **settings))


def exponential(nodes=48):
    net, rule = torch.nn.Identity(), jn.GaussLegendre(nodes)
    return jn.PathIntegral(
        1, 1, activation=jn.Exponential(), net=net, rule=rule, value=torch.ones(1)
    )


@pytest.mark.parametrize("name", SQUARE)
def test_each_activation_has_the_structure_that_it_names(name):
    activation = SQUARE[name]
    raw = 3 * torch.randn(50, activation.size(4, 4))
    matrices = activation(raw, 4, 4)
    assert matrices.shape == (50, 4, 4)
    symmetric = (matrices + matrices.mT) / 2
    smallest = float(torch.linalg.eigvalsh(symmetric).min())
    if name in ("gram", "skew"):
        assert smallest >= 0.1 * (1 - 1e-9)
        assert (gap(matrices, matrices.mT) <= 1e-12) == (name == "gram")
    if name == "kronecker":
        assert smallest >= 0.01 * (1 - 1e-9) and gap(matrices, matrices.mT) <= 1e-12
        a, b = torch.randn(4).reshape(2, 2), torch.randn(4).reshape(2, 2)
        both = torch.cat([a.flatten(), b.flatten()])
        eye = 0.1 * torch.eye(2)
        assert gap(activation(both, 4, 4), torch.kron(a @ a.T + eye, b @ b.T + eye)) <= 1e-13
    if name in ("lu", "exp"):
        assert bool((torch.linalg.det(matrices) > 0).all())
    if name == "exp":
        assert gap(matrices, torch.linalg.matrix_exp(raw.reshape(50, 4, 4))) == 0
    if name == "tanh":
        assert float(matrices.abs().max()) <= 0.7
    if name == "cap":
        norms = torch.linalg.matrix_norm(matrices, 2)
        assert float(norms.max()) <= 0.7 * (1 + 1e-12)
        inside = activation(0.01 * raw, 4, 4)
        assert gap(inside, 0.01 * raw.reshape(50, 4, 4)) <= 1e-15
    if name == "cauchy_riemann":
        turn = torch.kron(torch.tensor([[0.0, -1.0], [1.0, 0.0]]), torch.eye(2))
        assert gap(matrices @ turn, turn @ matrices) == 0
    determinants = torch.linalg.det(matrices)
    assert not activation.invertible or float(determinants.abs().min()) > 0


def test_in_one_dimension_it_is_the_integral_of_its_field():
    f = jn.PathIntegral(1, 1, activation=jn.Gram(0.1), rule=jn.GaussLegendre(32))
    x = torch.randn(20, 1)
    assert relative_error(f.jacobian(x), f.field(x)) <= 1e-12
    assert f.conservativity(x).defect <= 1e-12
    assert gap(f(torch.zeros(1)), torch.zeros(1)) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        f(x)


def test_the_function_of_an_exponential_slope_is_the_exponential():
    f, x = exponential(), torch.linspace(-2, 2, 41)[:, None]
    assert relative_error(f(x), x.exp()) <= 1e-14
    assert relative_error(f.jacobian(x), x.exp()[..., None]) <= 1e-13


def test_the_corrected_inverse_equation_gives_the_logarithm():
    y = torch.tensor([[0.5], [1.5], [2.0], [math.e**2]])
    found = exponential().inverse(y, polish=False)
    assert gap(found.value, y.log()) <= 1e-6
    assert gap(exponential().inverse(y).value, y.log()) <= 1e-12


def test_the_inverse_equation_as_printed_is_not_the_inverse():
    """x₀ + ∫ J⁻¹ along the path from y₀ to y, where J takes inputs, not outputs."""
    y0, y = torch.ones(3, 1), torch.tensor([[0.5], [2.0], [math.e**2]])
    printed = jn.line_integral(
        lambda at: torch.linalg.inv(exponential().field(at)), jn.STRAIGHT, y0, y,
        jn.GaussLegendre(24),
    ).value  # fmt: skip
    closed = math.exp(-1) - torch.exp(-y)
    assert gap(printed, closed) <= 1e-12
    assert float((printed - y.log()).detach().abs()[1]) > 0.3
    # right where J is constant: that is how the slip goes unnoticed
    linear = jn.line_integral(
        lambda at: torch.full((*at.shape, 1), 0.5), jn.STRAIGHT, y0, y, jn.GaussLegendre(2)
    ).value
    assert gap(linear, (y - y0) / 2) <= 1e-14


def folded():
    """A symmetric positive definite field whose path integral folds."""
    torch.manual_seed(3)
    f = jn.PathIntegral(
        2, 2, activation=jn.Gram(1e-2), hidden=16, rule=jn.GaussLegendre(32, cells=2)
    )
    return hushed(scaled(f, 4.0))


def collision(f, points):
    """Two points apart with the same value: a search, then Newton steps of one of them."""
    found = jn.search(f, points, steps=100, apart=0.4)
    one, other = found.smallest_pair
    roots = newton(f, f.jacobian, f(one).detach(), other)
    return one, roots.value


def test_a_positive_definite_field_in_two_dimensions_has_a_collision():
    f = folded()
    one, other = collision(f, torch.randn(64, 2))
    assert float((one - other).norm()) >= 0.5
    assert gap(f(one), f(other)) <= 1e-12
    eigenvalues = torch.linalg.eigvalsh(f.field(torch.stack([one, other])))
    assert float(eigenvalues.detach().min()) >= 1e-2 * (1 - 1e-9)  # and yet
    determinants = torch.linalg.det(f.jacobian(2 * torch.randn(500, 2))).detach()
    assert float(determinants.min()) < 0 < float(determinants.max())


def test_a_convex_gradient_has_none():
    torch.manual_seed(3)
    f = scaled(jn.ConvexGradient(2, 16, floor=0.1), 4.0)
    one, other = collision(f, torch.randn(64, 2))
    assert float((one - other).norm()) <= 1e-10  # Newton steps lead back to the same point


def test_its_certificate_claims_nothing_of_the_function():
    told = folded().certificate()
    assert (told.kind, told.invertible, told.conservative) == ("pointwise", False, False)
    assert told.lower is None and told.upper is None
    assert "of the function, nothing" in told.statement
    for name, activation in SQUARE.items():
        told = jn.PathIntegral(4, 4, activation=activation).certificate()
        assert told.kind == "pointwise" and not told.invertible, name


def test_it_warns_once_in_more_than_one_dimension():
    f, x = jn.PathIntegral(2, 2), torch.randn(3, 2)
    with pytest.warns(UserWarning, match="PathIntegral in 2 dimensions"):
        f(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        f(x)
        f.jacobian(x)
        copy.deepcopy(f)(x)
    with pytest.warns(UserWarning, match="not true of the function"):
        jn.PathIntegral(2, 2).jacobian(x)


def test_its_defect_is_that_of_the_homotopy_formula():
    """Df·v = Jv + ∫ t (DJ[v]D − DJ[D]v) dt, written with second derivatives of the field."""
    f = folded()
    x = torch.randn(3, 2)
    times, weights = (torch.from_numpy(a) for a in _legendre(64))
    exact = []
    for row in x:
        extra = torch.zeros(2, 2)
        for t, w in zip(times, weights, strict=True):
            slopes = torch.autograd.functional.jacobian(f.field, t * row)  # (i, j, k)
            extra += w * t * (torch.einsum("ijk,j->ik", slopes, row)
                              - torch.einsum("ijk,k->ij", slopes, row))  # fmt: skip
        exact.append(f.field(row).detach() + extra)
    assert relative_error(f.jacobian(x), torch.stack(exact)) <= 1e-6
    assert relative_error(f.field(x), torch.stack(exact)) > 0.05


def _legendre(count):
    from bestresponse.jacnet._quadrature import gauss_legendre

    return gauss_legendre(count)


def test_paths_disagree_about_a_field_that_is_none():
    straight, axes = folded(), folded()
    axes.path = jn.AXES
    x = torch.randn(8, 2)
    exact = (straight(x) - axes(x)).norm(dim=-1) / straight(x).norm(dim=-1)
    assert float(exact.detach().median()) > 0.05
    assert relative_error(straight.path_gap(x, rule=straight.rule), exact) <= 1e-9


def test_the_curl_penalty_is_zero_for_a_jacobian_and_the_curl_otherwise():
    x = torch.randn(7, 2)

    def jacobian(x):  # of (a² b, a³/3 + sin b)
        a, b = x.unbind(-1)
        rows = [torch.stack([2 * a * b, a**2], -1), torch.stack([a**2, torch.cos(b)], -1)]
        return torch.stack(rows, -2)

    def none(x):  # ∂₂J₁₁ − ∂₁J₁₂ = a − 2, ∂₂J₂₁ − ∂₁J₂₂ = −sin b − 2a
        a, b = x.unbind(-1)
        rows = [torch.stack([a * b, 2 * a], -1), torch.stack([torch.cos(b), a**2], -1)]
        return torch.stack(rows, -2)

    assert float(of_field(jacobian).curl_penalty(x)) <= 1e-28
    a, b = x.unbind(-1)
    both = (a - 2) ** 2 + (-torch.sin(b) - 2 * a) ** 2
    # each pair (j, k) once as it is and once negated
    assert float(of_field(none).curl_penalty(x)) == pytest.approx(float(2 * both.mean()))


def test_the_curl_penalty_can_be_trained_and_lowers_the_defect():
    f, x = hushed(jn.PathIntegral(2, 2, activation=jn.Gram(0.01), hidden=8)), torch.randn(32, 2)
    before = f.conservativity(x).defect
    optimizer = torch.optim.Adam(f.parameters(), lr=0.02)
    for _ in range(60):
        penalty = f.curl_penalty(x)
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
    assert f.conservativity(x).defect < before / 4
    assert f.certificate().kind == "pointwise"


def test_a_conservative_field_is_integrated_to_its_function_on_any_path():
    def hessian(x):  # of a²b + sin a + b²
        a, b = x.unbind(-1)
        rows = [torch.stack([2 * b - torch.sin(a), 2 * a], -1),
                torch.stack([2 * a, torch.full_like(a, 2.0)], -1)]  # fmt: skip
        return torch.stack(rows, -2)

    start = torch.tensor([0.3, -0.2])

    def gradient(x):
        a, b = x.unbind(-1)
        return torch.stack([2 * a * b + torch.cos(a), a**2 + 2 * b], -1)

    x = torch.randn(6, 2)
    for path in (jn.STRAIGHT, jn.AXES):
        f = of_field(hessian, path=path, start=start, value=gradient(start))
        assert relative_error(f(x), gradient(x)) <= 1e-12
        assert f.conservativity(x).defect <= 1e-12
        assert f.conservativity(x).antisymmetry <= 1e-13
        assert float(f.path_gap(x, start=start.expand(6, 2)).max()) <= 1e-11


def test_each_point_starts_at_the_nearest_anchor():
    anchors = torch.tensor([[-2.0], [0.0], [3.0]])
    f = jn.PathIntegral(1, 1, start=anchors, value=torch.tensor([[10.0], [20.0], [30.0]]))
    only = [jn.PathIntegral(1, 1, net=f.net, start=s, value=v) for s, v in
            zip(anchors, f.value, strict=True)]  # fmt: skip
    x = torch.tensor([[-5.0], [-1.1], [-0.9], [1.4], [1.6], [9.0]])
    expected = torch.stack([only[i](p) for i, p in zip([0, 0, 1, 1, 2, 2], x, strict=True)])
    assert relative_error(f(x), expected) <= 1e-14
    assert relative_error(f(x.reshape(2, 3, 1)), expected.reshape(2, 3, 1)) <= 1e-14


def test_anchors_on_the_curve_leave_it_the_same_and_need_fewer_nodes():
    f = exponential()
    anchors = torch.linspace(-2, 2, 9)[:, None]
    near = jn.PathIntegral(
        1, 1, activation=jn.Exponential(), net=f.net, rule=jn.GaussLegendre(3),
        start=anchors, value=anchors.exp(),
    )  # fmt: skip
    far = exponential(nodes=3)
    x = torch.linspace(-2, 2, 33)[:, None]
    assert relative_error(near(x), x.exp()) <= 1e-8
    assert relative_error(far(x), x.exp()) > 1e-5


def test_settings_of_one_call_and_chunks_do_not_change_the_value():
    f, x = folded(), torch.randn(7, 2)
    before = f(x)
    f.chunk = 3
    assert relative_error(f(x), before) <= 1e-14
    found = f.integral(x, jn.GaussKronrod(1e-9))
    assert found.reached and found.error <= 1e-9
    assert gap(found.value, before) <= 1e-8


def test_the_tolerance_is_halved_whenever_the_loss_is_below_it():
    schedule = jn.Annealing(start=0.8, floor=0.15)
    losses = [1.0, 0.8, 0.79, 0.5, 0.39, 0.01, 0.01, 0.2]
    assert [schedule.step(loss) for loss in losses] == [0.8, 0.8, 0.4, 0.4, 0.2, 0.15, 0.15, 0.15]
    assert schedule.tolerance == 0.15
    assert jn.Annealing().step(float("nan")) == 1.0


def test_a_looser_tolerance_takes_fewer_nodes():
    torch.manual_seed(0)
    f = scaled(jn.PathIntegral(1, 1, activation=jn.Tanh()), 6.0)
    x = torch.linspace(-2, 2, 9)[:, None]
    nodes = [f.integral(x, jn.GaussKronrod(10.0**-k)).nodes for k in (1, 4, 8)]
    assert nodes == sorted(nodes) and nodes[0] < nodes[-1]


def test_an_activation_that_may_be_singular_has_no_inverse():
    for name in ("free", "tanh", "cap", "cauchy_riemann"):
        f = hushed(jn.PathIntegral(4, 4, activation=SQUARE[name]))
        with pytest.raises(br.InputError, match="allows singular Jacobians"):
            f.inverse(torch.zeros(4))
