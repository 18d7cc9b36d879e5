"""Every structure against autograd, finite differences, closed forms, and its own copies."""

import copy

import numpy as np
import pytest
import torch

import bestresponse.jacnet as jn
from bestresponse.jacnet._linear import KroneckerLinear
from checks import relative_error
from jacnet_structures import (
    EVERY,
    autograd_jacobian,
    gap,
    hushed,
    make,
    of_weights,
    on_a_line,
)

every = pytest.mark.parametrize("name", EVERY)
CONTEXTUAL = {
    "knots": lambda: jn.Monotone1d(2, context=3, hidden=3, table=jn.Knots(-4.0, 4.0, 9)),
    "cells": lambda: jn.Monotone1d(2, context=3, hidden=3, table=jn.Cells(-4.0, 4.0, 16)),
    "lipschitz": lambda: jn.Lipschitz1d(2, context=3, hidden=3),
    "compose": lambda: jn.Compose(
        [jn.Monotone1d(2, context=3, hidden=3), jn.ConvexGradient(2, 4), CONTEXTUAL["cells"]()]
    ),
}
contextual = pytest.mark.parametrize("name", CONTEXTUAL)


@every
@pytest.mark.parametrize("dim", [2, 4])
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_the_jacobian_is_that_of_autograd(name, dim, factor):
    f, x = make(name, dim, factor=factor), torch.randn(4, dim)
    assert relative_error(f.jacobian(x), autograd_jacobian(f, x)) <= 1e-12
    with torch.no_grad():
        alone = f.jacobian(x)
    assert not alone.requires_grad
    assert relative_error(alone, f.jacobian(x)) <= 1e-14


@every
@pytest.mark.parametrize("dim", [2, 4])
def test_the_log_determinant_is_that_of_autograd(name, dim):
    f, x = make(name, dim, seed=3), torch.randn(6, dim)
    exact = torch.linalg.slogdet(autograd_jacobian(f, x)).logabsdet
    assert gap(f.log_abs_det(x), exact) <= 1e-10
    assert name in ("rotation", "permutation") or float(exact.abs().max()) > 1e-3


def of_everything(name, call):
    f, x = make(name), (0.7 * torch.randn(2, 2)).requires_grad_()
    function, weights = of_weights(f, call)
    return lambda *everything: function(1, *everything), (x, *weights)


@pytest.mark.parametrize("name", [n for n in EVERY if "stack" not in n and "_cells" not in n])
def test_gradients_and_second_gradients_are_those_of_finite_differences(name):
    function, inputs = of_everything(name, lambda f, x: f(x))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@every
def test_gradients_and_second_gradients_along_a_line_through_inputs_and_weights(name):
    function, inputs = of_everything(name, lambda f, x: f(x))
    moved, at = on_a_line(function, *inputs)
    assert torch.autograd.gradcheck(moved, at)
    assert torch.autograd.gradgradcheck(moved, at)


@every
def test_jacobians_and_log_determinants_can_be_trained(name):
    for call in (lambda f, x: f.jacobian(x), lambda f, x: f.log_abs_det(x)):
        assert torch.autograd.gradcheck(*on_a_line(*_flat(of_everything(name, call))))


def _flat(pair):
    function, inputs = pair
    return function, *inputs


@every
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
def test_batch_dimensions_are_rows_by_themselves(name, shape):
    f, x = make(name, 4), torch.randn(*shape, 4)
    rows = x.reshape(-1, 4)
    assert f(x).shape == (*shape, 4)
    assert f.jacobian(x).shape == (*shape, 4, 4)
    assert f.log_abs_det(x).shape == shape
    if rows.numel():
        alone = torch.stack([f(row) for row in rows]).reshape(*shape, 4)
        assert relative_error(f(x), alone) <= 1e-13
        alone = torch.stack([f.jacobian(row) for row in rows]).reshape(*shape, 4, 4)
        assert relative_error(f.jacobian(x), alone) <= 1e-13


@every
def test_float32_is_float64_up_to_rounding(name):
    f, x = make(name), torch.randn(5, 2)
    single, small = copy.deepcopy(f).float(), x.float()
    assert single(small).dtype == torch.float32
    assert relative_error(single(small), f(x)) <= 1e-5
    assert relative_error(single.jacobian(small), f.jacobian(x)) <= 1e-4
    assert gap(single.log_abs_det(small), f.log_abs_det(x)) <= 1e-3


@every
def test_a_float32_structure_becomes_a_float64_one(name):
    torch.set_default_dtype(torch.float32)
    f = make(name)
    torch.set_default_dtype(torch.float64)
    x = torch.randn(5, 2)
    before = f(x.float())
    f = f.to(torch.float64)
    assert f(x).dtype == f.jacobian(x).dtype == f.log_abs_det(x).dtype == torch.float64
    assert relative_error(f(x), before) <= 1e-5
    assert relative_error(f.jacobian(x), autograd_jacobian(f, x)) <= 1e-12


@every
def test_a_state_dict_and_a_copy_give_the_same_function_and_share_nothing(name):
    f, x = make(name), torch.randn(5, 2)
    other = make(name, seed=1)
    assert name == "permutation" or not torch.equal(other(x), f(x))
    other.load_state_dict(f.state_dict())
    copied = copy.deepcopy(f)
    before = f(x)
    assert torch.equal(other(x), before)
    assert torch.equal(copied(x), before)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter += 1.0
    assert torch.equal(f(x), before)
    assert name == "permutation" or not torch.equal(copied(x), before)


@pytest.mark.parametrize("name", [n for n in EVERY if n not in ("path_integral", "potential")])
def test_structures_go_through_torch_func(name):
    f, x = make(name), torch.randn(3, 2)
    assert relative_error(torch.func.vmap(f)(x), f(x)) <= 1e-14
    assert relative_error(torch.func.vmap(torch.func.jacrev(f))(x), f.jacobian(x)) <= 1e-12


@contextual
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_a_context_belongs_to_its_own_sample(name, shape):
    f = CONTEXTUAL[name]()
    x, context = torch.randn(*shape, 2), torch.randn(*shape, 3)
    rows = [
        f(one, other) for one, other in zip(x.reshape(-1, 2), context.reshape(-1, 3), strict=True)
    ]
    assert relative_error(f(x, context), torch.stack(rows).reshape(*shape, 2)) <= 1e-13
    assert float((f(x, context + 1) - f(x, context)).detach().abs().min()) > 1e-6


@contextual
def test_derivatives_and_inverses_with_a_context(name):
    f = CONTEXTUAL[name]()
    x, context = torch.randn(4, 2), torch.randn(4, 3)
    exact = torch.stack([
        torch.autograd.functional.jacobian(lambda one, c=c: f(one, c), row)
        for row, c in zip(x, context, strict=True)
    ])  # fmt: skip
    assert relative_error(f.jacobian(x, context), exact) <= 1e-12
    slogdet = torch.linalg.slogdet(exact).logabsdet
    assert gap(f.log_abs_det(x, context), slogdet) <= 1e-10
    if name != "lipschitz":
        found = f.inverse(f(x, context), context)
        assert gap(found.value, x) <= 1e-10


@contextual
def test_gradients_with_respect_to_the_context(name):
    f = CONTEXTUAL[name]()
    x, context = torch.randn(2, 2, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    quick = name != "knots"
    assert torch.autograd.gradcheck(f, (x, context), fast_mode=quick)
    assert torch.autograd.gradgradcheck(f, (x, context), fast_mode=quick)
    if name != "lipschitz":
        y = f(x, context).detach().requires_grad_()
        inputs = (y, context)
        inverse = lambda y, c: f.inverse(y, c).value  # noqa: E731
        assert torch.autograd.gradcheck(inverse, inputs, fast_mode=quick)


@pytest.mark.parametrize("slope", [jn.Softplus(), jn.Exp(), jn.Square(), jn.Interval(-1.0, 2.0)])
def test_knots_interpolate_the_slope_and_integrate_that_exactly(slope):
    """Against NumPy's interpolation, whose ends stay what they are, as ours do."""
    table = jn.Knots(-2.0, 3.0, 11)
    interval = isinstance(slope, jn.Interval)
    f = (jn.Lipschitz1d if interval else jn.Monotone1d)(slope=slope, table=table)
    knots = torch.linspace(-2, 3, 11)
    slopes = slope(f.net(knots.expand(1, -1)))[0].detach()
    x = torch.linspace(-4, 5, 301)
    exact = torch.from_numpy(np.interp(x.numpy(), knots.numpy(), slopes.numpy()))
    assert relative_error(f.derivative(x[:, None])[:, 0], exact) <= 1e-12
    rises = torch.diff(f(knots[:, None])[:, 0])
    assert relative_error(rises, 0.5 * (slopes[1:] + slopes[:-1]) / 2) <= 1e-12
    beyond = f(torch.tensor([[3.0], [5.0]]))
    assert float((beyond[1] - beyond[0]).detach()) == pytest.approx(2 * float(slopes[-1]))


def test_cells_approach_the_integral_of_the_slope_at_the_rules_order():
    f = jn.Monotone1d(slope=jn.Softplus(0.1), hidden=8)
    x = torch.linspace(-3.9, 3.9, 101)[:, None]

    def slopes(z):
        return f.slope(f.net(z.reshape(1, -1))).reshape(*z.shape, 1)

    fine = jn.GaussLegendre(48)
    exact = jn.line_integral(slopes, jn.STRAIGHT, torch.zeros_like(x), x, fine).value
    errors = []
    for cells in (4, 8, 16):
        f.table = jn.Cells(-4.0, 4.0, cells, 2)
        errors.append(gap(f(x) - f.offset, exact))
    assert errors[-1] <= 1e-3
    assert errors[0] / errors[1] > 10 and errors[1] / errors[2] > 10  # order 2n = 4


def test_the_offset_is_the_value_at_zero():
    for table in (jn.Knots(-2.0, 3.0, 8), jn.Cells(1.0, 2.0, 3)):
        f = jn.Monotone1d(3, table=table)
        with torch.no_grad():
            f.offset.copy_(torch.tensor([1.0, -2.0, 0.5]))
        assert gap(f(torch.zeros(3)), f.offset) <= 1e-14


def test_interval_with_opposite_ends_is_the_papers_tanh():
    raw = torch.linspace(-30, 30, 101)
    assert relative_error(jn.Interval(-1.5, 1.5)(raw), 1.5 * torch.tanh(raw)) <= 1e-15


def test_a_kronecker_map_is_its_dense_matrix():
    f = make("kronecker", 6)
    assert isinstance(f, KroneckerLinear)
    left, right = f.factors()
    x = torch.randn(5, 6)
    dense = torch.kron(left, right)
    assert relative_error(f(x), x @ dense.T + f.bias) <= 1e-14
    assert relative_error(f.inverse(x).value, torch.linalg.solve(dense, (x - f.bias).T).T) <= 1e-12


def test_convex_gradients_are_the_gradients_of_their_convex_functions():
    """φ is written out again here."""
    x = torch.randn(4, 3, requires_grad=True)
    ridge, soft, icnn = jn.Ridge(3, 5), jn.LogSumExp(3, 5), jn.InputConvex(3, 4, layers=3)
    phi = {
        ridge: (ridge.gain**2 * torch.log(torch.cosh(x @ ridge.weight.T + ridge.bias))).sum(-1),
        soft: soft.log_scale.exp() * torch.logsumexp(x @ soft.weight.T + soft.bias, -1),
        icnn: icnn(x),
    }
    for potential, value in phi.items():
        (exact,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        assert relative_error(potential.gradient(x), exact) <= 1e-12
        hessian = torch.stack([torch.autograd.grad(exact[:, i].sum(), x, retain_graph=True)[0]
                               for i in range(3)], -2)  # fmt: skip
        assert relative_error(potential.hessian(x), hessian) <= 1e-12


def test_a_potential_is_the_gradient_of_its_network():
    f, x = make("potential"), torch.randn(4, 2, requires_grad=True)
    (exact,) = torch.autograd.grad(f.potential(x).sum(), x)
    assert relative_error(f(x), exact) <= 1e-14
    start = torch.randn(4, 2)
    found = jn.line_integral(
        lambda z: f(z)[..., None, :], jn.STRAIGHT, start, x, jn.GaussLegendre(16, cells=4)
    )
    assert relative_error(found.value[:, 0], f.potential(x) - f.potential(start)) <= 1e-10


def test_a_composition_is_its_layers_one_after_the_other():
    f, x = make("mixed_stack", 4), torch.randn(3, 4)
    y, total = x, 0.0
    for layer in f.layers:
        total = total + torch.linalg.slogdet(layer.jacobian(y)).logabsdet
        y = layer(y)
    assert torch.equal(f(x), y)
    assert gap(f.log_abs_det(x), total) <= 1e-12


@pytest.mark.parametrize(("dim_in", "dim_out"), [(1, 3), (3, 1), (2, 4)])
def test_path_integrals_between_different_dimensions(dim_in, dim_out):
    f = hushed(jn.PathIntegral(dim_in, dim_out, activation=jn.SpectralCap(0.7)))
    x = torch.randn(5, dim_in)
    assert f(x).shape == (5, dim_out)
    assert f.jacobian(x).shape == f.field(x).shape == (5, dim_out, dim_in)
    assert relative_error(f.jacobian(x), autograd_jacobian(f, x)) <= 1e-12
    assert f.conservativity(x).antisymmetry is None
