"""torchdiffeq as an oracle: the same integrals as solutions of a differential equation."""

import pytest
import torch
from torchdiffeq import odeint

from bestresponse import jacnet as jn

TIGHT = {"rtol": 1e-10, "atol": 1e-12, "method": "dopri5"}


def along(field, start, end):
    """y(1) of y'(t) = J(x(t)) x'(t) on the straight line."""

    def rate(t, y):
        return (field(start + t * (end - start)) @ (end - start)[..., None])[..., 0]

    zero = torch.zeros_like(rate(torch.tensor(0.0), None))
    return odeint(rate, zero, torch.tensor([0.0, 1.0]), **TIGHT)[-1]


@pytest.mark.parametrize("dims", [(1, 1), (2, 3)])
@pytest.mark.filterwarnings("ignore:PathIntegral in 2")
def test_values_and_gradients_are_those_of_a_solver(dims):
    f = jn.PathIntegral(*dims, activation=jn.Free(), rule=jn.GaussLegendre(24))
    x = torch.randn(6, dims[0], requires_grad=True)
    ours, theirs = f(x), along(f.field, torch.zeros_like(x), x)
    assert (ours - theirs).abs().max() < 1e-9
    weights = [x, *f.parameters()]
    for one, other in zip(
        torch.autograd.grad(ours.square().sum(), weights, allow_unused=True),
        torch.autograd.grad(theirs.square().sum(), weights, allow_unused=True),
        strict=True,
    ):
        assert (one is None) == (other is None)
        assert one is None or (one - other).abs().max() < 1e-7


def test_the_inverse_is_that_of_the_equation():
    f = jn.PathIntegral(1, 1, activation=jn.Gram(0.1))
    y = torch.linspace(-0.4, 0.4, 9)[:, None]

    def rate(t, x):
        return (y / f.field(x)[..., 0]).detach()

    theirs = odeint(rate, torch.zeros_like(y), torch.tensor([0.0, 1.0]), **TIGHT)[-1]
    assert (f.inverse(y, polish=False).value - theirs).abs().max() < 1e-5
    assert (f.inverse(y).value - theirs).abs().max() < 1e-8
