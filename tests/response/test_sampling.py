"""Where hypernetworks are trained."""

import math

import pytest
import torch

from bestresponse import InputError
from bestresponse.response import Global, Local, Simplified, Uniform

MANY = 20_000


def points(sampling, live, count=MANY, seed=0):
    return sampling.points(live, count, torch.Generator().manual_seed(seed))


def test_global_is_normal_and_clipped():
    """E min(z, c) = −φ(c) + c(1 − Φ(c)) for a standard normal z."""
    live = torch.tensor([5.0, -5.0])
    drawn = points(Global((1.0, -1.0), (0.5, 2.0)), live)
    assert torch.allclose(drawn.mean(0), torch.tensor([1.0, -1.0]), atol=0.06)
    assert torch.allclose(drawn.std(0), torch.tensor([0.5, 2.0]), rtol=0.03)
    clipped = points(Global(0.0, 1.0, high=0.5), live)
    density = math.exp(-0.125) / math.sqrt(2 * math.pi)
    above = 0.5 * math.erfc(0.5 / math.sqrt(2))
    assert clipped.mean().item() == pytest.approx(0.5 * above - density, abs=0.02)
    assert clipped.max() == 0.5
    assert points(Global(low=-0.25), live).min() == -0.25


def test_uniform_is_even():
    drawn = points(Uniform(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 3.0])), torch.zeros(2))
    assert torch.allclose(drawn.mean(0), torch.tensor([0.0, 1.5]), atol=0.03)
    assert torch.allclose(drawn.var(0), torch.tensor([4 / 12, 9 / 12]), rtol=0.05)


def test_local_follows_the_live_point():
    live = torch.tensor([10.0, -3.0])
    drawn = points(Local((0.5, 0.1)), live)
    assert torch.allclose(drawn.mean(0), live, atol=0.02)
    assert torch.allclose(drawn.std(0), torch.tensor([0.5, 0.1]), rtol=0.03)
    near, far = points(Local(0.5), live, 3), points(Local(0.5), live + 1, 3)
    assert torch.allclose(far - near, torch.ones(3, 2))


def test_simplified_is_the_live_point():
    live = torch.tensor([10.0, -3.0])
    assert torch.equal(points(Simplified(), live), live[None])


@pytest.mark.parametrize("sampling", [Global(), Uniform(0, 1), Local(), Simplified()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_seeded_and_of_the_type_of_the_hyperparameters(sampling, dtype):
    live = torch.zeros(2, dtype=dtype)
    one, same = points(sampling, live, 4), points(sampling, live, 4)
    assert one.dtype == dtype and torch.equal(one, same)
    if not isinstance(sampling, Simplified):
        assert not torch.equal(one, points(sampling, live, 4, seed=1))


def test_settings_are_compared_by_value():
    assert Global(torch.tensor([1.0, 2.0])) == Global((1.0, 2.0))
    assert hash(Local([0.5, 1.0])) == hash(Local((0.5, 1.0)))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Local(0.0), "sigma=0.0 must be positive"),
        (lambda: Local(-1.0), "sigma=-1.0 must be positive"),
        (lambda: Local((0.5, 0.0)), "must be positive"),
        (lambda: Local(math.nan), "must be positive"),
        (lambda: Global(sigma=0), "must be positive"),
        (lambda: Global(low=1.0, high=1.0), "range from 1.0 to 1.0 is empty"),
        (lambda: Uniform(2.0, 1.0), "range from 2.0 to 1.0 is empty"),
        (lambda: Uniform((0.0, 1.0), (1.0, 1.0)), "is empty"),
        (lambda: Local(torch.ones(2, 2)), r"shape \(2, 2\) is no vector"),
    ],
)
def test_refused(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()


def test_draws_do_not_depend_on_the_default_device():
    live = torch.zeros(2)
    for sampling in (Global(), Uniform(0, 1), Local()):
        with torch.device("meta"):
            drawn = points(sampling, live, 3)
        assert torch.equal(drawn, points(sampling, live, 3))
