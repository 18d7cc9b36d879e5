"""Quadrature rules against closed forms, QUADPACK's digits and each other."""

import math

import numpy as np
import pytest
import torch

from bestresponse.jacnet import ClenshawCurtis, GaussKronrod, GaussLegendre
from bestresponse.jacnet._quadrature import gauss_kronrod
from jacnet_structures import scaled

TIME = torch.tensor(0.0, dtype=torch.float64)
# QUADPACK's qk15: nodes of one half of [-1, 1], from the outermost on, and their weights
NODES = [
    0.991455371120812639206854697526329,
    0.949107912342758524526189684047851,
    0.864864423359769072789712788640926,
    0.741531185599394439863864773280788,
    0.586087235467691130294144378258730,
    0.405845151377397166906606412076961,
    0.207784955007898467600689403773245,
    0.0,
]
WEIGHTS = [
    0.022935322010529224963732008058970,
    0.063092092629978553290700663189204,
    0.104790010322250183839876322541518,
    0.140653259715525918745189590510238,
    0.169004726639267902826583426598550,
    0.190350578064785409913256402421014,
    0.204432940075298892414161999234649,
    0.209482141084727828012999174891714,
]
GAUSS = [
    0.129484966168869693270611432679082,
    0.279705391489276667901467771423780,
    0.381830050505118944950369775488975,
    0.417959183673469387755102040816327,
]


def over_unit(rule, integrand):
    return rule.integrate(integrand, TIME, 0.0, 1.0)


def rough_net(seed, factor, hidden=64):
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Linear(1, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 1)
    )
    return scaled(net, factor)


def along(net, x):
    """t ↦ J(tx)x, the integrand of a line integral from 0 to each x."""
    return lambda t: net((t[:, None] * x).unsqueeze(-1)).squeeze(-1).detach() * x


@pytest.mark.parametrize("nodes", [1, 2, 4, 8, 16])
def test_gauss_legendre_is_exact_up_to_degree_2n_minus_1_and_no_further(nodes):
    for degree in range(2 * nodes):
        value = over_unit(GaussLegendre(nodes), lambda t, k=degree: (2 * t - 1) ** k).value
        exact = (1 + (-1) ** degree) / (2 * (degree + 1))
        assert float(value) == pytest.approx(exact, abs=2e-15)
    if nodes <= 4:
        value = over_unit(GaussLegendre(nodes), lambda t: t ** (2 * nodes)).value
        assert abs(float(value) - 1 / (2 * nodes + 1)) > 1e-6


def test_equal_parts_sum_to_the_whole_and_take_their_share_of_nodes():
    found = GaussLegendre(3, cells=5).integrate(torch.exp, TIME, -1.0, 2.0)
    parts = [
        GaussLegendre(3).integrate(torch.exp, TIME, -1 + 0.6 * i, -0.4 + 0.6 * i).value
        for i in range(5)
    ]
    assert float(found.value) == pytest.approx(float(sum(parts)), rel=1e-15)
    assert (found.nodes, found.error, found.reached) == (15, None, True)
    errors = [
        abs(float(over_unit(GaussLegendre(2, cells=c), torch.exp).value) - math.e + 1)
        for c in (2, 4, 8)
    ]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.05)  # order 2n
    assert errors[1] / errors[2] == pytest.approx(16, rel=0.05)


def test_kronrod_nodes_and_weights_are_those_of_quadpack():
    nodes, weights, gauss = gauss_kronrod()
    known = np.array(NODES)
    expected = np.concatenate([-known, known[-2::-1]])
    assert np.abs(2 * nodes - 1 - expected).max() <= 5e-15
    assert np.abs(2 * weights - np.array(WEIGHTS + WEIGHTS[-2::-1])).max() <= 5e-15
    assert np.abs(2 * gauss - np.array(GAUSS + GAUSS[-2::-1])).max() <= 5e-15


def test_kronrod_is_exact_to_degree_22_and_its_gauss_part_to_13():
    for degree in range(0, 23, 2):
        one = GaussKronrod(tolerance=1e9, max_cells=1)
        found = over_unit(one, lambda t, k=degree: (2 * t - 1) ** k)
        assert float(found.value) == pytest.approx(1 / (degree + 1), abs=2e-15)
        assert (found.error <= 1e-14) == (degree <= 13)
        assert found.nodes == 15


@pytest.mark.parametrize("seed", range(4))
def test_adaptive_kronrod_keeps_its_tolerance_on_rough_networks(seed):
    net, x = rough_net(seed, 20.0), torch.linspace(-2, 2, 21)
    found = over_unit(GaussKronrod(1e-8), along(net, x))
    exact = over_unit(GaussLegendre(16, cells=400), along(net, x)).value
    assert found.reached and found.error <= 1e-8
    assert float((found.value - exact).abs().max()) <= 1e-8
    assert found.nodes > 15
    short = over_unit(GaussLegendre(15), along(net, x)).value
    assert float((short - exact).abs().max()) > 1e-6  # as many nodes at fixed places do not do


@pytest.mark.parametrize(("factor", "share"), [(1.0, 1.0), (5.0, 0.99), (20.0, 0.95)])
def test_one_panels_estimate_covers_the_true_error(factor, share):
    covered = []
    for seed in range(4):
        net, points = rough_net(seed, factor), torch.linspace(-2, 2, 26)
        exact = over_unit(GaussLegendre(16, cells=200), along(net, points)).value
        for x, truth in zip(points, exact, strict=True):
            found = over_unit(GaussKronrod(1e9, max_cells=1), along(net, x))
            covered.append(float((found.value - truth).abs()) <= found.error + 1e-13)
    assert sum(covered) >= share * len(covered)


@pytest.mark.parametrize(("rule", "nodes"), [(GaussKronrod(1e-12, 3), 45), (ClenshawCurtis(), 513)])
def test_a_tolerance_that_is_not_reached_is_said_so(rule, nodes):
    found = over_unit(rule, lambda t: (t - 0.3).abs().pow(0.05))
    assert not found.reached
    assert found.nodes <= nodes


@pytest.mark.parametrize("tolerance", [1e-4, 1e-8, 1e-12])
def test_clenshaw_curtis_is_accurate_and_evaluates_every_node_once(tolerance):
    seen = []

    def integrand(t):
        seen.append(t)
        return torch.stack([torch.exp(3 * t), torch.cos(20 * t)], dim=-1)

    found = over_unit(ClenshawCurtis(tolerance), integrand)
    exact = torch.tensor([(math.exp(3) - 1) / 3, math.sin(20) / 20])
    assert float((found.value - exact).abs().max()) <= tolerance
    assert found.reached and found.error <= tolerance
    times = torch.cat(seen)
    assert len(times) == found.nodes == len(times.unique())


def test_clenshaw_curtis_weights_are_exact_for_polynomials():
    for degree in range(5):  # the first five points interpolate degree 4
        found = over_unit(ClenshawCurtis(1e-12), lambda t, k=degree: t**k)
        assert float(found.value) == pytest.approx(1 / (degree + 1), abs=1e-15)
        assert found.nodes == 9


RULES = [GaussLegendre(12), GaussLegendre(6, cells=3), GaussKronrod(1e-5), ClenshawCurtis(1e-5)]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_float32_times_are_rounded_once_and_the_value_is_float32(rule):
    seen = {}

    def recorded(kind):
        def integrand(t):
            seen.setdefault(kind, []).append(t)
            return torch.exp(t)

        return integrand

    single = rule.integrate(recorded("single"), TIME.float(), 0.0, 1.0).value
    double = rule.integrate(recorded("double"), TIME, 0.0, 1.0).value
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert torch.equal(torch.cat(seen["single"]), torch.cat(seen["double"]).float())
    assert float(single) == pytest.approx(math.e - 1, abs=4e-7)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_any_interval_is_the_unit_one_stretched(rule):
    value = rule.integrate(lambda t: torch.stack([t, t**3], -1), TIME, -0.5, 2.0).value
    exact = torch.tensor([(4 - 0.25) / 2, (16 - 0.0625) / 4])
    assert float((value - exact).abs().max()) <= 1e-13
