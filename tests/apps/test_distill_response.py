"""`bestresponse distill --mode implicit` for models with many best responses."""

import copy
import itertools
import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse import cli
from bestresponse.apps.distill import _implicit, _response
from bestresponse.apps.distill._implicit import solve
from bestresponse.apps.distill._keeper import Stretch
from bestresponse.apps.distill._problem import make_problem
from bestresponse.apps.distill._response import Guarded, ResponseDistiller, settle
from bestresponse.data import load

SMOOTH = """
from math import prod
from torch import nn

def tanh(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), 8), nn.Tanh(), nn.Linear(8, classes))

def random(shape, classes):
    return nn.Sequential(tanh(shape, classes), nn.Dropout(0.5))
"""


@pytest.fixture(autouse=True)
def _as_a_user_has_it(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "mine.py").write_text(SMOOTH)


@pytest.fixture
def problem():
    return make_problem(load("digits"), 12, None, 0)


def distiller(**changes):
    plain = ResponseDistiller(
        model="mine.py:tanh", images=12, learn=frozenset(), steps=4, hyper_lr=0.01, batch_size=64,
        full_epochs=1, decay=0.02, inner_steps=500, tolerance=1e-7, restart=3,
    )  # fmt: skip
    return replace(plain, **changes)


@pytest.mark.parametrize("learn", [(), ("labels", "weights")])
def test_the_hypergradient_is_the_difference_through_training_anew(problem, learn, monkeypatch):
    """From the same warm start, along a random direction of each part of the set.

    Newton's method adds the digits that a difference needs and L-BFGS does not reach.
    """
    monkeypatch.setattr(_implicit, "INNER_TOLERANCE", 1e-12)
    monkeypatch.setattr(_response, "in_type_of", lambda x, net: net(x.double()))
    monkeypatch.setattr(_response, "_RTOL", 1e-11)
    ours = distiller(learn=frozenset(learn))
    data, net = ours.start(problem), ours.fresh(problem, "step 1")
    x, y = problem.train.batch(torch.arange(200))
    nested = ours.nested(net, data, problem)

    def respond():
        assert ours.prepare(net, data, problem, 2)
        solve(net, lambda: ours._inner(net, data))

    respond()
    warm = copy.deepcopy(net.state_dict())
    loss, report = nested((), (x, y))
    loss.backward()
    assert report.result is br.Result.success
    assert report.clipped_from is None
    generator = torch.Generator().manual_seed(0)

    def answered(parameter, change):
        with torch.no_grad():
            parameter += change
        net.load_state_dict(warm)
        respond()
        with torch.no_grad():
            parameter -= change
            return F.cross_entropy(net(x.double()), y).item()

    assert len(list(data.parameters())) == 1 + len(learn)
    for parameter in data.parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        step = 1e-4
        ends = [answered(parameter, sign * step * direction) for sign in (1, -1)]
        slope = (ends[0] - ends[1]) / (2 * step)
        assert abs(slope) > 1e-4
        assert (parameter.grad * direction).sum().item() == pytest.approx(slope, rel=1e-5)


def test_settling_ends_in_the_closed_form():
    """Ridge regression."""
    torch.manual_seed(0)
    x, y = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    net = nn.Linear(4, 1, bias=False).double()

    def loss():
        return (net(x)[:, 0] - y).square().sum() / 2 + 0.05 * net.weight.square().sum()

    assert settle(net, loss, 1e-8, 100)
    expected = torch.linalg.solve(x.T @ x + 0.1 * torch.eye(4, dtype=torch.float64), x.T @ y)
    torch.testing.assert_close(net.weight[0].detach(), expected, rtol=1e-7, atol=1e-7)
    assert net.weight.grad is None
    nn.init.ones_(net.weight)
    assert not settle(net, loss, 1e-8, 1)


def test_settling_leaves_other_gradients_alone_and_refuses_what_is_not_finite():
    net, image = nn.Linear(1, 1).double(), torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    settle(net, lambda: net(image).square().sum(), 1e-6, 20)
    assert image.grad is None
    with pytest.raises(br.SolveError, match="distilled images"):
        settle(net, lambda: net(image).sum() * float("nan"), 1e-6, 3)


def test_where_the_hessian_is_indefinite_gauss_newton_takes_its_place():
    """½(w − a)² has Gauss-Newton curvature 1; with −(w − 1)² the Hessian is −1.

    At w = 1 and the outer loss w, the one gives dw/da = 1 where the other has no minimum.
    """
    params, hyper = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(params.weight)
    nn.init.ones_(hyper.weight)

    def outputs():
        return (params.weight - hyper.weight)[0]

    def loss(out):
        return 0.5 * out.square().sum()

    def nested(bend, curvature):
        return br.Nested(
            params=params,
            hyper=hyper,
            inner=lambda: loss(outputs()) - bend * (params.weight - 1).square().sum(),
            outer=lambda: params.weight.sum(),
            method=br.Implicit(br.CG(), curvature=curvature),
        )

    exact, definite = nested(1.0, None), nested(0.0, br.GaussNewton(outputs, loss))
    guarded = Guarded(exact, definite)
    value, report = guarded()
    value.backward()
    assert report.warnings[-1] is br.Result.negative_curvature
    assert hyper.weight.grad.item() == pytest.approx(1.0)
    hyper.weight.grad = None
    value, report = Guarded(nested(-1.0, None), definite)()  # here the Hessian is 3
    value.backward()
    assert report.result is br.Result.success
    assert hyper.weight.grad.item() == pytest.approx(1 / 3)
    state = guarded.state_dict()
    assert set(state) == {"exact", "definite"}
    draws = [part.state_dict()["stream"] for part in (exact, definite)]
    guarded()
    assert not torch.equal(exact.state_dict()["stream"], draws[0])
    guarded.load_state_dict(state)
    assert [
        torch.equal(part.state_dict()["stream"], draw)
        for part, draw in zip((exact, definite), draws, strict=True)
    ] == [True, True]


def test_weights_are_warm_until_they_are_drawn_anew(problem, monkeypatch):
    ours, starts = distiller(steps=7, tolerance=1e-4), []
    purposes = []
    monkeypatch.setattr(
        ResponseDistiller, "_settle",
        lambda self, net, data: starts.append(net[1].weight.detach().clone()) or True,
    )  # fmt: skip
    fresh = ResponseDistiller.fresh
    monkeypatch.setattr(
        ResponseDistiller, "fresh",
        lambda self, problem, purpose: purposes.append(purpose) or fresh(self, problem, purpose),
    )  # fmt: skip
    net, data = ours.fresh(problem, "step 0"), ours.start(problem)
    for step in range(1, 8):
        ours.prepare(net, data, problem, step)
    assert purposes == ["step 0", "step 1", "step 4", "step 7"]
    same = [torch.equal(one, other) for one, other in itertools.pairwise(starts)]
    assert same == [True, True, False, True, True, False]


def test_dropout_is_off_where_something_is_solved_for(problem):
    ours = distiller(model="mine.py:random", steps=2, tolerance=1e-6)
    found = ours.distill(problem, Stretch())
    assert found.solves.steps == 2
    assert found.solves.unsolved == 0
    assert found.solves.inner_gradient < 1e-3


def test_the_command_says_how_exact_it_was(tmp_path, capsys):
    common = ["--mode", "implicit", "--steps", "20", "--seeds", "0", "--threads", "1"]
    assert cli.main(["distill", *common, "--model", "mine.py:tanh", "--out", "smooth"]) == 0
    said = capsys.readouterr().out
    assert "solved to its tolerance at 20 of 20 hypergradients" in said
    assert "approximation" not in said
    assert "alone, mine.py:tanh reaches" in said
    seed = json.loads((tmp_path / "smooth" / "result.json").read_text())["seeds"][0]
    assert seed["solves"]["unsolved"] == 0
    assert len(seed["test_accuracies"]) == 5
    head = json.loads((tmp_path / "smooth" / "result.json").read_text())["headline"]
    assert head["test_accuracy"] > head["first_images_test_accuracy"]
    assert head["full_data_test_accuracy"] > 0.8  # small data gets more than one pass
    again = [*common, "--model", "mine.py:tanh", "--inner-steps", "2", "--out", "hasty"]
    assert cli.main(["distill", *again]) == 0
    said = capsys.readouterr().out
    assert "solved to its tolerance at 0 of 20 hypergradients" in said
    assert "the hypergradient is an approximation; raise --inner-steps" in said
    assert "approximation" in (tmp_path / "hasty" / "report.html").read_text()
