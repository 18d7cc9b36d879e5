"""Optimizers and settings that cannot be unrolled: each by its sentence."""

import pytest
import torch

import bestresponse as br

SGD, MOMENTUM, ADAM = br.optim.SGD, br.optim.Momentum, br.optim.Adam
T = torch.optim


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: T.RMSprop(p), "knows SGD, Adam and AdamW, not RMSprop"),
        (lambda p: T.Adam(p, amsgrad=True), "amsgrad=True"),
        (lambda p: T.SGD(p, 0.1, maximize=True), "maximize=True"),
        (lambda p: T.AdamW([{"params": p, "maximize": True}]), "maximize=True"),
    ],
)
def test_unsupported_optimizers_are_refused(make, message):
    with pytest.raises(br.InputError, match=message):
        br.optim.from_torch(make([torch.nn.Parameter(torch.ones(2))]))


@pytest.mark.parametrize(
    "make",
    [
        *(lambda rule=rule: rule(lr=-1.0) for rule in (SGD, MOMENTUM, ADAM)),
        *(lambda rule=rule: rule(0.1, weight_decay=-1.0) for rule in (SGD, MOMENTUM, ADAM)),
        lambda: ADAM(0.1, betas=(0.9, 1.0)),
        lambda: ADAM(0.1, betas=(-0.1, 0.9)),
        lambda: MOMENTUM(0.1, -0.5),
        lambda: SGD(float("nan")),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(br.InputError, match="out of range"):
        make()


@pytest.mark.parametrize("rule", [SGD, MOMENTUM, ADAM])
@pytest.mark.parametrize("setting", ["lr", "weight_decay", "momentum", "betas"])
def test_a_live_hyperparameter_as_a_setting_is_refused(rule, setting):
    """Its gradient would be lost without a word; a callable reads it where it is swapped."""
    if setting not in rule.__dataclass_fields__:
        pytest.skip("no such setting")
    live = br.hyper.Bounded(s=(0.0, 1.0, 0.1)).s
    value = (live, 0.9) if setting == "betas" else live
    with pytest.raises(br.InputError, match=r"lambda|callable|function"):
        rule(**{"lr": 0.1, setting: value})


def test_a_parameter_that_the_optimizer_does_not_hold_is_named():
    leaves = {name: torch.nn.Parameter(torch.ones(2)) for name in "ab"}
    rules = br.optim.from_torch(T.SGD([leaves["a"]], 0.1))
    inner = lambda p, h: sum(((leaf - h["t"]) ** 2).sum() for leaf in p.values())  # noqa: E731
    with pytest.raises(br.InputError, match="does not hold the parameter 'b'"):
        br.hypergradient(inner, inner, leaves, {"t": torch.ones(2)}, br.Unroll(rules, 1))
