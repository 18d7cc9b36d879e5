"""How many steps inverses take, and their second derivatives."""

import pytest
import torch

import bestresponse as br
from bestresponse import jacnet as jn

SMOOTH = {
    "cells": lambda: jn.Monotone1d(2, table=jn.Cells(-3, 3, 16, 4), hidden=8),
    "convex": lambda: jn.ConvexGradient(2, 8),
    "icnn": lambda: jn.ConvexGradient(2, potential=jn.InputConvex(2, 8)),
    "skew": lambda: jn.ConvexGradient(2, 8, skew=True),
    "bilipschitz": lambda: jn.BiLipschitz(2, 8),
    "composition": lambda: jn.Compose([jn.BiLipschitz(2, 8), jn.Rotation(2)]),
    "kronecker": lambda: jn.KroneckerLinear(1, 2),
    "path": lambda: jn.PathIntegral(1, 1, activation=jn.Gram(0.1), hidden=8),
}  # fmt: skip


@pytest.mark.parametrize("slope", [jn.Softplus(0.1), jn.Softplus(1e-4), jn.Exp(1e-4),
                                   jn.Interval(0.1, 3.0)], ids=str)  # fmt: skip
def test_newton_between_two_knots_takes_six_steps(slope):
    for seed in range(5):
        torch.manual_seed(seed)
        f = jn.Monotone1d(slope=slope, table=jn.Cells())
        x = torch.linspace(-5, 5, 1000)[:, None]
        found = f.inverse(f(x).detach())
        assert found.stats.steps <= 6
        assert (found.value - x).abs().max() <= 1e-11


@pytest.mark.parametrize("name", SMOOTH)
def test_an_inverse_has_a_first_and_a_second_derivative(name):
    torch.manual_seed(1)
    f = SMOOTH[name]()
    y = f(0.7 * torch.randn(3, f.dim_in)).detach().requires_grad_()
    weight = next(iter(f.parameters()))

    def inverse(y, weight):
        own = {next(n for n, _ in f.named_parameters()): weight}
        return torch.func.functional_call(_Inverse(f), {f"f.{n}": w for n, w in own.items()}, (y,))

    assert torch.autograd.gradcheck(inverse, (y, weight), atol=1e-6)
    assert torch.autograd.gradgradcheck(inverse, (y, weight), atol=1e-5)


class _Inverse(torch.nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, y):
        return self.f.inverse(y).value


def test_rotations_of_float32_are_orthogonal_in_float64():
    torch.set_default_dtype(torch.float32)
    f = jn.Compose([jn.Rotation(8, seed=0), jn.BiLipschitz(8)]).double()
    torch.set_default_dtype(torch.float64)
    q = f.layers[0].matrix()
    assert (q @ q.T - torch.eye(8)).abs().max() < 1e-14
    x = torch.randn(4, 8)
    assert (f.inverse(f(x)).value - x).abs().max() < 1e-12


@pytest.mark.parametrize("dim", [2, 3, 8])
def test_a_drawn_rotation_does_not_turn_space_over_and_a_start_may(dim):
    for seed in range(8):
        assert jn.Rotation(dim, seed=seed).matrix().det().item() == pytest.approx(1.0)
    mirror = torch.eye(dim)
    mirror[0, 0] = -1
    assert jn.Rotation(dim, start=mirror).matrix().det().item() == pytest.approx(-1.0)
    with pytest.raises(br.InputError, match="must be an orthogonal matrix"):
        jn.Rotation(dim, start=2 * mirror)


def test_corners_and_numbers_that_are_none():
    """x² + xy is smooth: nested points at corners of a path must not see two velocities."""
    field = lambda z: torch.stack([2 * z[..., 0] + z[..., 1], z[..., 0]], -1)[..., None, :]  # noqa: E731
    end = torch.tensor([[0.7, -1.3]])
    found = jn.line_integral(field, jn.AXES, torch.zeros(1, 2), end, jn.ClenshawCurtis(1e-10))
    assert found.reached and found.nodes <= 20
    assert found.value.item() == pytest.approx(0.49 - 0.91, abs=1e-9)
    broken = lambda z: torch.full((*z.shape[:-1], 1, 2), torch.nan)  # noqa: E731
    for rule in (jn.ClenshawCurtis(1e-6, 33), jn.GaussKronrod(1e-6, 9)):
        assert not jn.line_integral(broken, jn.STRAIGHT, torch.zeros(1, 2), end, rule).reached


def test_certificates_do_not_claim_what_nobody_checked():
    for f in (jn.Monotone1d(table=jn.Cells(), context=1), jn.Triangular(2, table=jn.Cells())):
        told = f.certificate()
        assert (told.kind, told.invertible, told.lower, told.upper) == ("none", False, None, None)
    assert not jn.Monotone1d(table=jn.Cells()).certificate().invertible
    assert jn.PathIntegral(1, 1).certificate().kind == "pointwise"
    with pytest.raises(br.InputError, match="give Triangular a positive floor"):
        jn.Triangular(2, slope=jn.Square(0.0))


def test_inference_mode_is_refused_and_not_differentiated_to_zero():
    f = jn.Triangular(2)
    with torch.inference_mode():
        for ask in (f.jacobian, f.log_abs_det, jn.Monotone1d(2).derivative, jn.Potential(2)):
            with pytest.raises(br.InputError, match="inference mode"):
                ask(torch.ones(2))
