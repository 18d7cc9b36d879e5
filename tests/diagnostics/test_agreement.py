"""Learned responses beside implicit ones, where both are known."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse import InputError
from bestresponse.diagnostics import agreement

X = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Ridge(nn.Module):
    def __init__(self, *log_decay):
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(log_decay))


def solved(raw):
    """The minimum of ½ mean (xᵀw − y)² + ½ Σ e^λ w², with one λ or one for each weight."""
    decay = torch.diag(raw.exp().expand(5))
    return torch.linalg.solve(X.T @ X / 40 + decay, X.T @ Y / 40)


def exact(hyper):
    return {"weight": solved(hyper["raw"])[None]}


def problem(ridge, model, method=None):
    return br.Nested(
        params=model,
        hyper=ridge,
        inner=lambda: (
            0.5 * (model(X)[:, 0] - Y).square().mean()
            + 0.5 * (ridge.raw.exp() * model.weight.square()).sum()
        ),
        outer=lambda: (model(X)[:, 0] + Y).square().mean(),
        method=method or br.Implicit(br.Dense()),
    )


def at_minimum(ridge):
    model = nn.Linear(5, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(solved(ridge.raw)[None])
    return model


@pytest.mark.parametrize("decays", [(-1.0,), (-1.0, 0.0, 0.5, 1.0, -0.3)])
def test_the_exact_response_agrees(decays):
    ridge = Ridge(*decays)
    found = agreement(problem(ridge, at_minimum(ridge)), exact)
    assert found.trusted and found.distance < 1e-12
    for direction in found.directions:
        assert direction.cosine == pytest.approx(1, abs=1e-10)
        assert direction.length == pytest.approx(1, abs=1e-10)
    assert found.hypergradient_cosine == pytest.approx(1, abs=1e-10)
    assert len(found.directions) == len(decays) and found.verdict in str(found)


def test_of_many_hyperparameters_random_directions_are_taken():
    ridge = Ridge(-1.0, 0.0, 0.5, 1.0, -0.3)
    nested = problem(ridge, at_minimum(ridge))
    found = agreement(nested, exact, directions=3)
    assert [d.name for d in found.directions] == ["random 0", "random 1", "random 2"]
    assert found.cosine == pytest.approx(1, abs=1e-10)


def test_errors_are_measured_as_they_are():
    """A response with a known error in direction, then in length, then in place."""
    ridge = Ridge(-1.0)
    nested, at = problem(ridge, at_minimum(ridge)), solved(ridge.raw.detach())
    move = torch.autograd.functional.jacobian(solved, ridge.raw.detach())[:, 0]
    aside = torch.randn(5)
    aside -= move * (aside @ move) / (move @ move)
    aside *= move.norm() / aside.norm()

    def bent(tangent, at=at):
        return lambda hyper: {"weight": (at + tangent * (hyper["raw"] - ridge.raw.detach()))[None]}

    wrong = agreement(nested, bent(move + aside))
    assert wrong.cosine == pytest.approx(0.5**0.5) and not wrong.trusted
    assert "moves another way" in wrong.verdict
    far = agreement(nested, bent(3 * move))
    assert far.length == pytest.approx(3) and not far.trusted and "3 times as far" in far.verdict
    away = agreement(nested, bent(move, at=1.5 * at))
    assert away.distance == pytest.approx(0.5) and "50 % away" in away.verdict


def test_the_yardstick_is_doubted_first():
    ridge = Ridge(-1.0)
    model = at_minimum(ridge)
    loose = agreement(problem(ridge, model, br.Implicit(br.Scale(1e-3))), exact)
    assert not loose.trusted and "give Implicit more steps" in loose.verdict
    with torch.no_grad():
        model.weight += 100.0
    nested = problem(ridge, model)
    nested.outer = lambda: 1e-3 * model.weight.sum()
    early = agreement(nested, exact)
    assert not early.trusted and "train on" in early.verdict


def test_a_self_tuned_ridge_regression_learns_the_implicit_response():
    """Δ-STN with the decay tuned by half_squares: cosine at least 0.99 with the implicit one."""
    hyper = br.hyper.Bounded(decay=(br.hyper.LogRange(1e-3, 1e3), 0.5))
    net = br.response.SelfTuning(
        nn.Linear(5, 1, bias=False), hyper, centred=True, sigma=0.1, shared=["decay"]
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 0.99**i)

    def penalty(drawn):
        return net.half_squares(drawn["decay"])

    for _ in range(700):
        optimizer.zero_grad()
        loss = net.training_loss(
            lambda out, y: 0.5 * F.mse_loss(out[:, 0], y), X, Y, penalty=penalty
        )
        loss.backward()
        optimizer.step()
        decay.step()
    model = net.freeze()
    nested = br.Nested(
        params=model,
        hyper=hyper,
        inner=lambda: (
            0.5 * (model(X)[:, 0] - Y).square().mean()
            + 0.5 * hyper.decay * model.weight.square().sum()
        ),
        outer=lambda: (model(X)[:, 0] + Y).square().mean(),
        method=br.Implicit(br.Dense()),
    )
    found = agreement(nested, net)
    assert found.trusted and found.cosine >= 0.99
    assert found.length == pytest.approx(1, abs=0.1) and found.distance < 1e-6


def test_a_hyperparameter_that_moves_nothing_has_no_direction():
    """One that the inner loss only adds: the others are compared all the same."""
    ridge = Ridge(-1.0)
    ridge.idle = nn.Parameter(torch.tensor(1.0))
    nested = problem(ridge, at_minimum(ridge))
    inner = nested.inner
    nested.inner = lambda: inner() + ridge.idle**2
    found = agreement(nested, exact)
    assert found.trusted and found.cosine == pytest.approx(1, abs=1e-10)


def test_bad_input_is_refused():
    ridge = Ridge(-1.0)
    model = at_minimum(ridge)
    nested = problem(ridge, model)
    with pytest.raises(InputError, match="gives no 'weight' of shape"):
        agreement(nested, lambda hyper: {"weight": hyper["raw"]})
    with pytest.raises(InputError, match="looks nowhere"):
        agreement(nested, exact, directions=0)
    nested.method = br.Unroll(br.optim.SGD(0.1), steps=2)
    with pytest.raises(InputError, match="not Unroll"):
        agreement(nested, exact)
    flat = br.Nested(
        params=model,
        hyper=ridge,
        inner=lambda: model(X).square().mean() + 0 * ridge.raw.detach().sum(),
        outer=lambda: model(X).sum() + ridge.raw.sum(),
        method=br.Implicit(br.Dense()),
    )
    with pytest.raises(InputError, match="cannot be differentiated in the hyperparameters"):
        agreement(flat, exact)
