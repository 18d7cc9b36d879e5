"""Inverses on the function that is evaluated: round trips, gradients, and how each sample ended."""

import pytest
import torch

import bestresponse as br
import bestresponse.jacnet as jn
from checks import relative_error
from jacnet_structures import (
    COMPOSED,
    ENTRYWISE,
    INVERTIBLE,
    LINEAR,
    SINGLE,
    gap,
    hushed,
    make,
    of_weights,
    on_a_line,
    scaled,
)

FLOORS = [jn.Softplus, jn.Exp, jn.Square]
TABLES = {"knots": jn.Knots(), "cells": jn.Cells(-4.0, 4.0, 64, 4)}
tables = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)


def one_dimensional(slope, table, seed, factor=1.0):
    torch.manual_seed(seed)
    return scaled(jn.Monotone1d(slope=slope, table=table, hidden=32), factor)


@tables
@pytest.mark.parametrize("slope", FLOORS)
@pytest.mark.parametrize(("floor", "tolerance"), [(0.1, 1e-12), (1e-4, 1e-10)])
def test_round_trips_in_one_dimension(slope, table, floor, tolerance):
    """Far outside of the table too, where straight lines go on."""
    x = torch.cat([torch.linspace(-6, 6, 201), torch.tensor([-40.0, 40.0])])[:, None]
    for seed in range(3):
        f = one_dimensional(slope(floor), table, seed)
        found = f.inverse(f(x))
        assert found.converged.all() and found.converged.shape == (203,)
        assert gap(found.value, x) <= tolerance


@tables
@pytest.mark.parametrize("slope", [jn.Softplus(0.1), jn.Exp(0.1), jn.Interval(0.1, 3.0)])
def test_round_trips_in_float32(slope, table):
    x = torch.linspace(-5, 5, 301, dtype=torch.float32)[:, None]
    for seed in range(3):
        f = one_dimensional(slope, table, seed).float()
        assert gap(f.inverse(f(x)).value, x) <= 1e-5


@tables
@pytest.mark.parametrize("slope", FLOORS)
def test_round_trips_of_rough_functions(slope, table):
    x = torch.linspace(-5, 5, 301)[:, None]
    for seed in range(3):
        f = one_dimensional(slope(0.1), table, seed, factor=5.0)
        found = f.inverse(f(x))
        assert gap(found.value, x) <= 1e-11
        assert found.converged.all()


def test_an_inverse_of_knots_is_a_formula():
    f = one_dimensional(jn.Softplus(0.1), jn.Knots(), 0)
    assert f.inverse(f(torch.randn(50, 1))).stats.steps == 1


def test_values_at_the_knots_and_both_sides_of_them_round_trip():
    for table in (jn.Knots(-1.0, 1.0, 5), jn.Cells(-1.0, 1.0, 4)):
        f = one_dimensional(jn.Exp(0.1), table, 0)
        knots = torch.linspace(-1, 1, 5)
        x = torch.cat([knots, knots - 1e-13, knots + 1e-13])[:, None]
        assert gap(f.inverse(f(x)).value, x) <= 1e-13


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("dim", [2, 8, 16])
def test_round_trips_of_single_layers(name, dim):
    f, x = make(name, dim), torch.randn(16, dim)
    found = f.inverse(f(x))
    assert found.result is br.Result.success
    assert found.converged.all() and found.converged.shape == (16,)
    assert gap(found.value, x) <= 1e-12


@pytest.mark.parametrize("name", COMPOSED)
@pytest.mark.parametrize("dim", [2, 8, 16])
def test_round_trips_of_compositions(name, dim):
    f, x = make(name, dim), torch.randn(16, dim)
    assert gap(f.inverse(f(x)).value, x) <= 1e-9


@pytest.mark.parametrize("dim", [2, 8, 16])
def test_round_trips_of_four_convex_gradients_that_global_newton_steps_lose(dim):
    layers = [jn.ConvexGradient(dim, 16) for _ in range(4)]
    f = jn.Compose([part for layer in layers for part in (layer, jn.Rotation(dim))])
    x = torch.randn(16, dim)
    assert gap(f.inverse(f(x)).value, x) <= 1e-9


@pytest.mark.parametrize("name", ["ridge", "skew", "logsumexp", "icnn", "bilipschitz", "kronecker"])
def test_round_trips_with_weights_scaled_by_five(name):
    for seed in range(4):
        f, x = make(name, 8, seed, factor=5.0), torch.randn(32, 8)
        found = f.inverse(f(x))
        assert found.converged.all()
        assert gap(found.value, x) <= 1e-11


@pytest.mark.parametrize(
    "name", ["ridge", "icnn", "bilipschitz", "triangular", "exp", "convex_stack"]
)
def test_outputs_far_from_any_data_are_reached_too(name):
    """The functions are onto: every y has its x."""
    f, y = make(name), 100 * torch.randn(32, 2)
    found = f.inverse(y)
    assert found.converged.all()
    assert relative_error(f(found.value), y) <= 1e-12


def inverse_of_everything(name):
    f = make(name)
    y = f(0.7 * torch.randn(2, 2)).detach().requires_grad_()
    function, weights = of_weights(f, lambda f, y: f.inverse(y).value)
    return lambda *everything: function(1, *everything), (y, *weights)


@pytest.mark.parametrize("name", ["exp", "ridge", "icnn", "bilipschitz", *LINEAR])
def test_gradients_of_the_inverse_are_those_of_finite_differences(name):
    assert torch.autograd.gradcheck(*inverse_of_everything(name))


@pytest.mark.parametrize("name", INVERTIBLE)
def test_gradients_of_the_inverse_along_a_line_through_outputs_and_weights(name):
    function, inputs = inverse_of_everything(name)
    for _ in range(2):
        assert torch.autograd.gradcheck(*on_a_line(function, *inputs))


@pytest.mark.parametrize("name", INVERTIBLE)
def test_the_gradient_of_the_inverse_is_the_inverse_of_the_jacobian(name):
    f = make(name, 4)
    y = f(torch.randn(3, 4)).detach()
    x = f.inverse(y).value.detach()
    slopes = torch.stack([
        torch.autograd.functional.jacobian(lambda one: f.inverse(one).value, row) for row in y
    ])  # fmt: skip
    assert gap(slopes @ f.jacobian(x), torch.eye(4)) <= 1e-9


@pytest.mark.parametrize("name", ["softplus", "triangular", *LINEAR])
def test_second_gradients_of_inverses_by_formula(name):
    f = make(name)
    y = f(0.7 * torch.randn(2, 2)).detach().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda y: f.inverse(y).value, y)


@pytest.mark.parametrize("name", INVERTIBLE)
@pytest.mark.parametrize("shape", [(), (2, 3), (0,)])
def test_batch_dimensions_of_inverses(name, shape):
    f, x = make(name), torch.randn(*shape, 2)
    found = f.inverse(f(x))
    assert found.value.shape == x.shape
    assert found.converged.shape == shape
    assert not x.numel() or gap(found.value, x) <= 1e-9


@pytest.mark.parametrize("name", INVERTIBLE)
def test_without_gradients_the_inverse_is_the_same(name):
    f, x = make(name), torch.randn(5, 2)
    with torch.no_grad():
        found = f.inverse(f(x)).value
    assert not found.requires_grad
    assert gap(found, f.inverse(f(x)).value) <= 1e-12


@pytest.mark.parametrize("name", INVERTIBLE)
def test_round_trips_of_layers_in_float32(name):
    torch.set_default_dtype(torch.float32)
    f, x = make(name), torch.randn(32, 2)
    found = f.inverse(f(x))
    assert found.value.dtype == torch.float32
    assert gap(found.value, x) <= 1e-5


@pytest.mark.parametrize("name", [n for n in SINGLE if n != "rotation"])
def test_a_structure_made_in_float32_inverts_in_float64(name):
    torch.set_default_dtype(torch.float32)
    f = make(name).to(torch.float64)
    torch.set_default_dtype(torch.float64)
    x = torch.randn(16, 2)
    assert gap(f.inverse(f(x)).value, x) <= 1e-12


def exponential(**settings):
    """f(x) = eˣ, whose values are positive: J = eˣ from (0, 1)."""
    return jn.PathIntegral(
        1, 1, activation=jn.Exponential(), net=torch.nn.Identity(), value=torch.ones(1),
        rule=jn.GaussLegendre(12), **settings,
    )  # fmt: skip


def test_an_inverse_that_is_not_whole_raises_or_tells_which_samples_are():
    y = torch.tensor([[[2.0], [0.5], [-2.0]], [[3.0], [-1.0], [1.0]]])
    with pytest.raises(br.SolveError, match=r"2 of 6 are missing, the first is number 2") as caught:
        exponential().inverse(y)
    assert caught.value.result is br.Result.no_inverse
    assert str(caught.value).startswith("No input was found for some of the outputs")
    found = exponential().inverse(y, throw=False)
    assert found.result is br.Result.no_inverse and found.result.is_error
    assert found.converged.tolist() == [[True, True, False], [True, False, True]]
    assert gap(found.value[found.converged], y[found.converged].log()) <= 1e-12
    assert found.stats.relative_residual > 0.05


def test_a_missing_layer_of_a_composition_is_missing_of_the_whole():
    y = torch.tensor([[2.0], [-2.0], [0.5]])
    f = jn.Compose([jn.Permutation(1), exponential(), jn.Monotone1d(table=jn.Knots(-4, 4, 9))])
    y = f.layers[2](y).detach()
    found = f.inverse(y, throw=False)
    assert found.converged.tolist() == [True, False, True]
    assert gap(f(found.value)[found.converged], y[found.converged]) <= 1e-12


def test_a_holomorphic_map_gives_some_preimage_and_says_where_it_found_none():
    f = jn.Holomorphic(2, 8)
    y = f(torch.randn(64, 2)).detach()
    found = f.inverse(y, throw=False)
    assert 0 < int(found.converged.sum()) < 64
    error = (f(found.value) - y).detach().norm(dim=-1)
    assert float(error[found.converged].max()) <= 1e-11
    assert float(error[~found.converged].min()) > 1e-9


def test_a_path_integral_in_two_dimensions_inverts_what_it_evaluates():
    f = hushed(jn.PathIntegral(2, 2, activation=jn.Gram(0.5), hidden=8))
    x = 0.5 * torch.randn(16, 2)
    found = f.inverse(f(x))
    assert gap(f(found.value), f(x)) <= 1e-12


def test_entrywise_structures_are_their_columns():
    for name in ENTRYWISE:
        f, x = make(name, 3), torch.randn(4, 3)
        moved = x.clone()
        moved[:, 1] += 1
        changed = (f(moved) - f(x)).detach()
        assert float(changed[:, [0, 2]].abs().max()) == 0
        assert float(changed[:, 1].min()) >= 0.1
