"""`experiment jacnet-exp` and `jacnet-abs`: the paper's figures, as far as it gives them."""

import json
import math

import pytest
import torch

from bestresponse import jacnet
from bestresponse.apps.experiments.jacnet import _paper as paper
from bestresponse.apps.experiments.jacnet import abs as jacnet_abs
from bestresponse.apps.experiments.jacnet import exp as jacnet_exp

SEEDS = 20


@pytest.fixture(scope="module", params=["exp", "abs"])
def found(request, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param) / "run"
    kind = {"exp": jacnet_exp.JacNetExp, "abs": jacnet_abs.JacNetAbs}[request.param]
    findings = kind(seeds=SEEDS, out=out).run()
    return request.param, findings, out


def test_the_acceptance_figures(found):
    name, findings, out = found
    headline = findings.headline
    assert headline == json.loads((out / "result.json").read_text())["headline"]
    assert list(headline) == [
        "median_train_risk", "median_test_risk", "default_median_test_risk", "max_inverse_error",
    ]  # fmt: skip
    risks = {key: paper.median(curve["test_risk"]) for key, curve in findings.curves.items()}
    if name == "exp":
        assert headline["median_train_risk"] <= 0.030
        assert headline["median_test_risk"] <= 0.40
        assert headline["default_median_test_risk"] <= 0.15
        assert headline["max_inverse_error"] <= 1e-8
    else:
        assert headline["median_test_risk"] <= 0.10
        assert risks["paper"] / risks["free"] <= 0.2
        assert headline["max_inverse_error"] is None
    assert (out / "report.html").stat().st_size > 50_000


def test_more_iterations():
    """The longer runs of the acceptance table: in range for eˣ, on all of [−2, 2] for |x|."""
    grid = torch.linspace(-1, 1, 201, dtype=torch.float64)[:, None]
    errors, risks = [], []
    for seed in range(10):
        x = paper.points(seed)[0]
        torch.manual_seed(seed)
        model = jacnet.Monotone1d(slope=jacnet.Exp(), value=1.0).double()
        optimizer = torch.optim.Adam(model.parameters(), lr=paper.RATE)
        for _ in range(500):
            optimizer.zero_grad()
            (model(x) - x.exp()).square().mean().backward()
            optimizer.step()
        errors.append(float((model(grid) - grid.exp()).abs().mean().detach()))
        risks.append(paper.train(jacnet_abs.PAPER, torch.abs, seed, 200).test_risk)
    assert paper.median(errors) <= 0.006
    assert paper.median(risks) <= 0.04


@pytest.mark.parametrize(
    ("contender", "limit"), [(jacnet_exp.CONTENDERS[1], 0.025), (jacnet_exp.CONTENDERS[2], 0.025)],
    ids=lambda value: getattr(value, "key", ""),
)  # fmt: skip
def test_this_librarys_structures_fit_where_the_data_lies(contender, limit):
    grid = torch.linspace(-1, 1, 201, dtype=torch.float64)[:, None]
    errors = []
    for seed in range(SEEDS):
        model = paper.train(contender, torch.exp, seed, 50).model
        with torch.no_grad():
            errors.append(float((model(grid) - grid.exp()).abs().mean()))
    assert paper.median(errors) <= limit


def test_the_setting_is_the_papers():
    x, x_test = paper.points(3)
    assert (x.shape, x_test.shape) == ((5, 1), (100, 1))
    assert x.abs().max() <= 1 < x_test.abs().max() <= 2
    trained = paper.train(jacnet_exp.PAPER, torch.exp, 3, 50)
    assert len(trained.risks) == 50
    assert sum(p.numel() for p in trained.model.parameters()) == 3 * 64 + 1
    assert trained.model(torch.zeros(1, 1).double()).item() == pytest.approx(1.0)
    halvings = [a / b for a, b in zip(trained.tolerances, trained.tolerances[1:], strict=False)]
    assert set(halvings) == {1.0, 2.0}
    for step, ratio in enumerate(halvings):
        assert (ratio == 2.0) == (trained.risks[step] < trained.tolerances[step])


def test_the_printed_inverse_is_wrong_and_the_equation_right():
    """J = eˣ: the exact inverse is log y; what the paper prints gives e⁻¹ − e⁻ʸ."""

    class Exact(torch.nn.Module):
        def forward(self, x):
            return (x.exp() - 1e-12).sqrt()

    model = jacnet.PathIntegral(
        1, 1, activation=jacnet.Gram(1e-12), net=Exact(), value=torch.ones(1)
    ).double()
    y = torch.tensor([[2.0], [0.5]], dtype=torch.float64)
    right = model.inverse(y).value
    assert (right - y.log()).abs().max() < 1e-9
    equation = model.inverse(y, polish=False).value
    assert (equation - y.log()).abs().max() < 1e-6
    printed = math.exp(-1) - torch.exp(-y)
    assert (printed - y.log()).abs()[0] > 0.3
    assert paper.printed_inverse_error(model) > 0.3
