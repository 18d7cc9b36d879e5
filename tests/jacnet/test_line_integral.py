"""Line integrals: closed forms, paths that agree and paths that must not, chunks, gradients."""

import math

import pytest
import torch

import bestresponse as br
from bestresponse.jacnet import (
    AXES,
    STRAIGHT,
    ClenshawCurtis,
    GaussKronrod,
    GaussLegendre,
    Path,
    PathIntegral,
    line_integral,
)
from checks import relative_error

FINE = GaussLegendre(24)


def bend(t, start, end):
    """A half wave to one side; with a velocity by autograd."""
    across = torch.stack([start[..., 1] - end[..., 1], end[..., 0] - start[..., 0]], -1)
    return start + t * (end - start) + 0.4 * torch.sin(math.pi * t) * across


def bend_velocity(t, start, end):
    across = torch.stack([start[..., 1] - end[..., 1], end[..., 0] - start[..., 0]], -1)
    return end - start + 0.4 * math.pi * torch.cos(math.pi * t) * across


BEND, BEND_BY_HAND = Path(bend), Path(bend, bend_velocity)
PATHS = {"straight": STRAIGHT, "axes": AXES, "bend": BEND, "bend_by_hand": BEND_BY_HAND}


def potential_map(x):
    """(e^a sin b, a²b), whose Jacobian is below."""
    a, b = x.unbind(-1)
    return torch.stack([torch.exp(a) * torch.sin(b), a**2 * b], -1)


def conservative(x):
    a, b = x.unbind(-1)
    first = torch.stack([torch.exp(a) * torch.sin(b), torch.exp(a) * torch.cos(b)], -1)
    return torch.stack([first, torch.stack([2 * a * b, a**2], -1)], -2)


def spinning(x):
    """(−b, a): twice the area under the path, not a gradient."""
    a, b = x.unbind(-1)
    return torch.stack([-b, a], -1)[..., None, :]


def ends():
    return torch.randn(5, 2), torch.randn(5, 2)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_conservative_field_gives_the_difference_of_its_function_on_every_path(path):
    start, end = ends()
    found = line_integral(conservative, path, start, end, FINE)
    assert relative_error(found.value, potential_map(end) - potential_map(start)) <= 1e-12


def test_a_field_that_is_none_differs_by_twice_the_enclosed_area():
    start, end = torch.zeros(4, 2), torch.rand(4, 2) + 0.5
    a, b = end.unbind(-1)
    along = {name: line_integral(spinning, path, start, end, FINE).value[..., 0]
             for name, path in PATHS.items()}  # fmt: skip
    assert float(along["straight"].abs().max()) <= 1e-15
    assert relative_error(along["axes"], a * b) <= 1e-14
    # the bend encloses ∫ 0.4 sin(πt) dt |D|² = 0.8/π |D|², to the right of the line
    area = -2 * 0.8 / math.pi * end.square().sum(-1)
    assert relative_error(along["bend"], area) <= 1e-12
    assert relative_error(along["bend_by_hand"], area) <= 1e-12


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_axes_path_moves_one_coordinate_at_a_time(dim):
    start, end = torch.randn(dim), torch.randn(dim)
    times = (torch.arange(dim) + 0.25) / dim
    points, velocities = AXES.at(times, start, end)
    for i in range(dim):
        expected = torch.cat([end[:i], start[i:]])
        expected[i] = start[i] + 0.25 * (end[i] - start[i])
        assert relative_error(points[i], expected) <= 1e-14
        unit = dim * torch.eye(dim)[i] * (end[i] - start[i])
        assert float((velocities[i] - unit).abs().max()) <= 1e-12


def test_velocities_by_autograd_are_those_by_hand():
    start, end = ends()
    times = torch.linspace(0, 1, 7)
    for one, other in zip(BEND.at(times, start, end), BEND_BY_HAND.at(times, start, end),
                          strict=True):  # fmt: skip
        assert relative_error(one, other) <= 1e-14


@pytest.mark.parametrize("rule", [GaussKronrod(1e-10), ClenshawCurtis(1e-10)], ids=str)
def test_adaptive_rules_give_the_same_as_a_fine_fixed_one(rule):
    start, end = ends()
    for path in (STRAIGHT, BEND):
        found = line_integral(conservative, path, start, end, rule)
        assert found.reached and found.error <= 1e-10
        exact = potential_map(end) - potential_map(start)
        assert float((found.value.detach() - exact).abs().max()) <= 1e-10


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_batch_dimensions(shape):
    start, end = torch.randn(*shape, 2), torch.randn(*shape, 2)
    for path in PATHS.values():
        found = line_integral(conservative, path, start, end, FINE).value
        assert found.shape == end.shape
        assert relative_error(found, potential_map(end) - potential_map(start)) <= 1e-12


def field_of(weight):
    return lambda x: torch.tanh(x @ weight).unflatten(-1, (2, 2))


@pytest.mark.parametrize(
    ("path", "chunk"), [(STRAIGHT, None), (STRAIGHT, 2), (AXES, None), (BEND, None), (BEND, 2)]
)
def test_first_and_second_gradients_are_those_of_finite_differences(path, chunk):
    start, end, weight = torch.randn(3, 2), torch.randn(3, 2), torch.randn(2, 4)
    inputs = [item.requires_grad_() for item in (start, end, weight)]

    def integral(start, end, weight):
        rule = GaussLegendre(4)
        return line_integral(field_of(weight), path, start, end, rule, chunk=chunk).value

    quick = chunk is not None  # along random directions
    assert torch.autograd.gradcheck(integral, inputs, fast_mode=quick)
    assert torch.autograd.gradgradcheck(integral, inputs, fast_mode=quick)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("path", [STRAIGHT, AXES, BEND], ids=["straight", "axes", "bend"])
def test_chunks_change_neither_value_nor_gradients(path, chunk):
    start, end = ends()
    weight = torch.randn(2, 4)
    results = []
    for size in (None, chunk):
        leaves = [item.clone().requires_grad_() for item in (start, end, weight)]
        found = line_integral(field_of(leaves[2]), path, *leaves[:2], GaussLegendre(6), chunk=size)
        grads = torch.autograd.grad(found.value.sin().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in grads), leaves)
        results.append((found.nodes, [found.value, *grads, *second]))
    assert results[0][0] == results[1][0]
    for one, other in zip(results[0][1], results[1][1], strict=True):
        assert relative_error(other, one) <= 1e-13


def test_chunks_of_an_adaptive_rule_each_keep_the_tolerance():
    start, end = ends()
    found = line_integral(conservative, STRAIGHT, start, 3 * end, GaussKronrod(1e-9), chunk=2)
    exact = potential_map(3 * end) - potential_map(start)
    assert found.reached and found.error <= 1e-9
    assert float((found.value - exact).abs().max()) <= 1e-9


def test_chunks_integrate_as_many_samples_as_said():
    sizes = []

    def field(x):
        sizes.append(x.shape[1])
        return conservative(x)

    with torch.no_grad():
        line_integral(field, STRAIGHT, *ends(), GaussLegendre(3), chunk=2)
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        (lambda t, a, b: a + 0.5 * t * (b - a), "ends 0.5 away"),
        (lambda t, a, b: b + 0.0 * t, "begins 1 away"),
        (lambda t, a, b: (a + t * (b - a)).sum(-1, keepdim=True), "shape"),
    ],
)
def test_a_path_that_does_not_join_its_ends_is_refused(curve, words):
    start, end = torch.zeros(3, 2), torch.tensor([1.0, 0.0]).expand(3, 2)
    with pytest.raises(br.InputError, match=words):
        line_integral(conservative, Path(curve), start, end, FINE)
    f = PathIntegral(2, 2, path=Path(curve))
    with pytest.warns(UserWarning), pytest.raises(br.InputError, match=words):
        f(end)


def test_one_bad_sample_of_many_is_enough_to_refuse():
    off = torch.tensor([0.0, 0.0, 1e-3])[:, None]
    path = Path(lambda t, a, b: a + t * (b - a) + t * off)
    with pytest.raises(br.InputError, match=r"ends 0\.00141 away"):
        line_integral(conservative, path, torch.zeros(3, 2), torch.ones(3, 2), FINE)
