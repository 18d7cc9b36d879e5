"""Unrolling: what it costs, where it starts, and what it hands back."""

import sys

import pytest
import torch
import torch.nn.functional as F

import bestresponse as br
from checks import relative_error
from problems import Ridge, tuned_network


def calls(function):
    """How many Python and C functions are called: a measure of host work that is exact."""
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("optimizer", [br.optim.SGD(0.1), br.optim.Adam(0.01)])
@pytest.mark.parametrize("checkpoint", [None, 5])
def test_work_grows_linearly_with_the_steps(optimizer, checkpoint):
    def work(steps):
        method = br.Unroll(optimizer, steps=steps, checkpoint=checkpoint)
        _, _, nested, batch = tuned_network("logistic", method)
        nested(batch, batch)  # imports and caches
        return calls(lambda: nested(batch, batch))

    short, middle, long = (work(steps) for steps in (20, 40, 80))
    assert long - middle <= 2.1 * (middle - short)


def test_the_report_carries_the_last_weights():
    method = br.Unroll(br.optim.Momentum(0.1), steps=6)
    model, decay, nested, (x, y) = tuned_network("logistic", method)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = nested((x, y), (x, y))[1]
    assert list(report.params) == list(before)
    assert not any(leaf.requires_grad for leaf in report.params.values())
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    for _ in range(6):
        optimizer.zero_grad()
        (F.cross_entropy(model(x), y) + decay(model)).backward()
        optimizer.step()
    assert relative_error(report.params, dict(model.named_parameters())) <= 1e-12
    loss = F.cross_entropy(model(x), y)
    assert report.outer_loss == pytest.approx(loss.item(), rel=1e-12)
    assert (report.steps, report.products, report.relative_residual) == (6, 0, None)


def test_the_outer_gradient_is_taken_at_the_last_weights():
    ridge = Ridge()
    start = {"w": torch.zeros(ridge.d)}
    method = br.Unroll(br.optim.SGD(0.3), steps=3)
    result = br.hypergradient(ridge.inner, ridge.outer, start, ridge.hyper, method)
    assert float(result.loss) == pytest.approx(
        float(ridge.outer(result.report.params, ridge.hyper))
    )
    assert torch.equal(start["w"], torch.zeros(ridge.d))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: br.Unroll(br.optim.SGD(0.1), steps=0), r"Unroll\(steps=0\) must be"),
        (lambda: br.Unroll(br.optim.SGD(0.1), steps=2.5), "steps=2.5"),
        (lambda: br.Unroll(br.optim.SGD(0.1), 3, truncate=0), r"Unroll\(truncate=0\) must be"),
        (
            lambda: br.Unroll(br.optim.SGD(0.1), 3, checkpoint=-1),
            r"Unroll\(checkpoint=-1\) must be",
        ),
        (
            lambda: br.Unroll(torch.optim.SGD([torch.ones(1)], 0.1), 3),
            "SGD is no differentiable optimizer; use br.optim.SGD",
        ),
        (lambda: br.Unroll(0.1, 3), "float is no differentiable optimizer"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(br.InputError, match=message):
        make()
