"""Dropout before layers: against the same written out, and against autograd of a closed form."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse.hyper import ConcreteDropout, LayerDropout


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(12, 5)
    )


IMAGES = torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("per", ["layer", "unit"])
def test_it_is_the_network_written_out(per):
    model = network()
    dropout = LayerDropout(model, per=per, init=0.4)
    torch.manual_seed(2)
    found = dropout(model, IMAGES)
    torch.manual_seed(2)
    features = F.relu(model[0](IMAGES))
    shape = (4, 1, 1) if per == "unit" else ()
    features = features * ConcreteDropout(0.4, shape).mask((6, 4, 1, 1))
    features = model[2](features).flatten(1)
    features = features * ConcreteDropout(0.4, (12,) if per == "unit" else ()).mask((6, 12))
    torch.testing.assert_close(found, model[4](features))


def test_the_model_stays_what_it_was():
    model = network()
    before, state = model(IMAGES), model.state_dict()
    dropout = LayerDropout(model)
    dropout(model, IMAGES)
    assert torch.equal(model(IMAGES), before) and model.state_dict().keys() == state.keys()
    with pytest.raises(RuntimeError):
        dropout(model, IMAGES[:, :, :4])
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_eval_mode_drops_nothing():
    model = network().eval()
    assert torch.equal(LayerDropout(model, init=0.9)(model, IMAGES), model(IMAGES))


def test_named_layers_and_granularity():
    model = network()
    assert {n: r.numel() for n, r in LayerDropout(model).rates().items()} == {"2": 1, "4": 1}
    units = LayerDropout(model, per="unit", init=0.3).rates()
    assert {n: r.numel() for n, r in units.items()} == {"2": 4, "4": 12}
    torch.testing.assert_close(units["4"], torch.full((12,), 0.3))
    assert [*LayerDropout(model, layers=["0"]).rates()] == ["0"]


def test_hypergradient_is_the_gradient_through_the_closed_form():
    """Ridge regression on dropped features, solved exactly; masks of the same seed."""
    generator = torch.Generator().manual_seed(3)
    x, others = torch.rand(2, 9, 4, generator=generator)
    y, wanted = torch.randn(2, 9, 1, generator=generator)
    model = nn.Linear(4, 1, bias=False)
    dropout = LayerDropout(model, per="unit", init=0.3, layers=[""])

    def closed_form(drop):
        torch.manual_seed(4)
        dropped = drop(x)
        best = torch.linalg.solve(dropped.T @ dropped + torch.eye(4), dropped.T @ y)
        return best, (others @ best - wanted).square().sum()

    reference = ConcreteDropout(0.3, (4,))
    best, loss = closed_form(reference)
    loss.backward()
    with torch.no_grad():
        model.weight.copy_(best.T)

    def inner():
        torch.manual_seed(4)
        return 0.5 * (dropout(model, x) - y).square().sum() + 0.5 * model.weight.square().sum()

    nested = br.Nested(
        model, dropout, inner, lambda: (model(others) - wanted).square().sum(),
        br.Implicit(br.Dense()),
    )  # fmt: skip
    value, report = nested()
    value.backward()
    (raw,) = dropout.parameters()
    assert report.inner_gradient_norm < 1e-12
    torch.testing.assert_close(raw.grad, reference.logit.grad, rtol=1e-9, atol=1e-12)


def test_it_is_differentiated_inside_a_nested_problem_whose_masks_change_with_each_call():
    model = network()
    dropout = LayerDropout(model, init=0.3)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    nested = br.Nested(
        model, dropout, lambda x: F.cross_entropy(dropout(model, x), labels),
        lambda x: F.cross_entropy(model(x), labels), br.Implicit(br.Scale(1.0)),
    )  # fmt: skip
    found = []
    for _ in range(2):
        dropout.zero_grad()
        nested((IMAGES,), (IMAGES,))[0].backward()
        found.append(torch.stack([p.grad for p in dropout.parameters()]))
    assert bool((found[0] != found[1]).all()) and bool((found[0] != 0).all())


REFUSED = {
    "per": (lambda: LayerDropout(network(), per="model"), "layer, unit"),
    "shallow": (lambda: LayerDropout(nn.Linear(2, 2)), "no hidden layer"),
    "unknown": (lambda: LayerDropout(network(), layers=["9"]), "no linear .* '9'; known: 0, 2, 4"),
    "none": (lambda: LayerDropout(network(), layers=[]), "drops nothing"),
    "rate": (lambda: LayerDropout(network(), init=1.0), "dropout rate of 1.0"),
    "other": (lambda: LayerDropout(network())(nn.Linear(2, 2), IMAGES), "another model"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    act, says = REFUSED[name]
    with pytest.raises(br.InputError, match=says):
        act()
