"""Self-tuning experiments: plain loops bit for bit, figures from made-up runs by hand."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse.apps._examples import Order, stream_seed
from bestresponse.apps.experiments.stn import _mlp_report as mlp_report
from bestresponse.apps.experiments.stn._classifier import (
    DeltaTuned,
    Fixed,
    Recipe,
    Replayed,
    Roles,
    Tuned,
    mean_loss,
)
from bestresponse.apps.experiments.stn._course import ByEpoch, Learner, Pace, course
from bestresponse.apps.experiments.stn._runs import at_best, plateau
from bestresponse.apps.experiments.stn._search import search
from bestresponse.apps.experiments.stn.mlp import RATES, problem

RECIPE = Recipe(
    batch=20, lr=0.01, hyper_batch=15, hyper_lr=0.05, entropy=1e-3, sigma=0.5, response_lr=0.02,
    response_interval=1,
)  # fmt: skip
PACE = Pace(epochs=2, warmup=0, interval=2)


def silent(words):
    """Say nothing."""


@pytest.fixture
def task():
    return problem(Roles.of("digits", 70, 30, seed=0), width=5)


def rates(value):
    return dict.fromkeys(RATES, value)


def by_hand(task, dropout, steps):
    """A plain loop."""
    torch.manual_seed(stream_seed(3, "weights"))
    drop = (dropout() for _ in itertools.count())
    model = nn.Sequential(
        *(next(drop) if isinstance(part, nn.Dropout) else part for part in task.make())
    )
    torch.manual_seed(stream_seed(3, "dropout"))
    x, y = task.roles.train
    order, adam = Order(len(y), 20, 3, "training"), torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        rows = order.next()
        adam.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        adam.step()
    return model.eval()


def test_a_fixed_run_is_the_plain_loop_bit_for_bit(task):
    learner = Fixed(task, RECIPE, 3, rates(0.3))
    run = course(learner, PACE, silent)
    model = by_hand(task, lambda: nn.Dropout(0.3), 6)
    x, y = task.roles.validation
    assert learner.steps_an_epoch == 3
    assert run["validation"][-1] == mean_loss(model, x, y)
    assert all(map(torch.equal, learner.model.parameters(), model.parameters()))
    with torch.no_grad():
        assert run["validation"][-1] == pytest.approx(float(F.cross_entropy(model(x), y)), rel=1e-6)


def test_a_constant_schedule_replayed_is_the_fixed_run(task):
    schedule = {name: [0.3, 0.3, 0.3] for name in RATES}
    learner = Replayed(task, RECIPE, 3, schedule)
    course(learner, PACE, silent)
    model = by_hand(task, lambda: br.response.Dropout(0.3), 6)
    for own, other in zip(learner.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(own, other)


def test_a_schedule_holds_what_each_epoch_began_with(task):
    schedule = ByEpoch({"rate": [0.1, 0.2, 0.3]}, steps_an_epoch=4)
    found = [round(float(schedule.at(step)["rate"]), 6) for step in (0, 3, 4, 7)]
    assert found == [0.1, 0.1, 0.2, 0.2]


def test_a_step_of_delta_is_the_sum_of_both_objectives(task):
    hyper = br.hyper.Bounded(**{name: (0.0, 0.9, 0.3) for name in RATES})
    learner = DeltaTuned(task, RECIPE, 3, hyper)
    with torch.no_grad():  # a response that has begun
        for parameter in learner.net.responses():
            parameter.add_(0.1)
    x, y = task.roles.train
    rows = Order(len(y), 20, 3, "training").next()
    torch.manual_seed(7)
    learner.net.training_loss(F.cross_entropy, x[rows], y[rows]).backward()
    expected = [parameter.grad.clone() for parameter in learner.net.parameters()]
    torch.manual_seed(7)
    learner.step()
    for parameter, grad in zip(learner.net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


def test_a_step_of_stn_is_the_library_s_training_loss(task):
    hyper = br.hyper.Bounded(**{name: (0.0, 0.9, 0.3) for name in RATES})
    learner = Tuned(task, RECIPE, 3, hyper)
    x, y = task.roles.train
    rows = Order(len(y), 20, 3, "training").next()
    torch.manual_seed(7)
    learner.net.training_loss(F.cross_entropy, x[rows], y[rows]).backward()
    expected = [parameter.grad.clone() for parameter in learner.net.parameters()]
    torch.manual_seed(7)
    learner.step()
    for parameter, grad in zip(learner.net.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, grad)


@pytest.mark.parametrize("kind", [Tuned, DeltaTuned])
def test_hyperparameters_rest_until_the_warmup_is_over(task, kind):
    hyper = br.hyper.Bounded(**{name: (0.0, 0.9, 0.3) for name in RATES})
    run = course(kind(task, RECIPE, 3, hyper), Pace(epochs=2, warmup=1, interval=2), silent)
    for name in RATES:
        first, second, third = run["values"][name]
        assert first == second == pytest.approx(0.3) and third != first
    assert len(run["sigma"]["input"]) == 3 and set(run["response"]) == {"2", "5", "8"}


class Counting(Learner):
    """Losses by the book, and how many steps were taken."""

    steps_an_epoch = 5

    def __init__(self, losses):
        self.trained = self.tuned = 0
        self._losses = iter(losses)

    def step(self):
        self.trained += 1

    def tune(self):
        self.tuned += 1

    def frozen(self):
        return self.tuned  # the model is what was tuned so far

    def loss(self, model, part):
        return next(self._losses) if part == "validation" else 10.0 + model


def test_the_best_epoch_has_the_lowest_validation_loss():
    learner = Counting([3.0, 1.0, 2.0])
    run = course(learner, Pace(epochs=3, warmup=1, interval=2), silent)
    assert (learner.trained, learner.tuned) == (15, 4)  # steps 2 and 4 of two epochs
    assert run["best"] == 1 and run["whole"] and run["validation"] == [3.0, 1.0, 2.0]
    assert run["test"] == 12  # of the model after the second epoch


def test_a_run_ends_when_its_time_is_up():
    learner = Counting([3.0, 1.0, 2.0])
    run = course(learner, Pace(epochs=3, warmup=0, interval=1), silent, limit=1e-12)
    assert learner.trained == 1 and not run["whole"] and len(run["validation"]) == 1


def test_a_loss_that_is_not_finite_is_an_error():
    with pytest.raises(br.SolveError, match="after epoch 1"):
        course(Counting([float("nan")]), PACE, silent)


def test_a_search_ends_with_its_time_and_keeps_the_best():
    def make(values):
        return Counting([values["loss"], values["loss"] + 1])

    losses = {0: 3.0, 1: float("nan"), 2: 2.0}
    run = search(
        make,
        lambda trial: {"loss": losses.get(trial, 4.0)},
        Pace(epochs=2, warmup=0, interval=1),
        0.02,
        silent,
    )
    assert run["drawn"] == {"loss": 2.0} and at_best(run, "validation") == 2.0
    assert sum(trial["seconds"] for trial in run["trials"][:-1]) <= 0.02
    assert [trial["whole"] for trial in run["trials"][:-1]] == [True] * (len(run["trials"]) - 1)


def made_up(validation, test, seconds, **where):
    best = min(range(len(validation)), key=validation.__getitem__)
    return where | {"validation": validation, "test": test, "best": best, "seconds": seconds}


def test_the_headline_is_computed_from_the_parts():
    def tuned(method, start, end, seconds):
        values = dict.fromkeys(RATES, [start] + 4 * [0.0] + [end])
        own = made_up([0.5, 0.3, 0.4], 0.35, seconds)
        return own | {"seed": 0, "method": method, "start": start, "values": values}

    found = {
        "tuned": [tuned("stn", 0.05, 0.2, 8.0), tuned("stn", 0.5, 0.25, 10.0),
                  tuned("delta", 0.05, 0.1, 12.0), tuned("delta", 0.5, 0.3, 12.0)],
        "fixed": [made_up([0.6, 0.5], 0.7, 3.0, seed=0, rate=0.0),
                  made_up([0.4, 0.6], 0.45, 5.0, seed=0, rate=0.1)],
        "replayed": [made_up([0.2], 0.25, 4.0, seed=0, method=m) for m in ("stn", "delta")],
    }  # fmt: skip
    assert plateau(found["tuned"][0]) == dict.fromkeys(RATES, 0.2)
    figures = mlp_report.headline(found)
    assert figures["time_ratio"] == 9 / 4 and figures["time_ratio_delta"] == 3
    assert figures["test_loss"] == 0.35 and figures["best_grid_test_loss"] == 0.45
    assert figures["best_grid_validation_loss"] == 0.4
    assert figures["largest_gap"] == pytest.approx(0.05)
    assert figures["largest_gap_delta"] == pytest.approx(0.2)
    assert (figures["gaps_within_0.1"], figures["gaps_within_0.1_delta"]) == (1, 0)
    assert "Δ-STN 0.3000 in 3.00 times" in mlp_report.verdict(found, figures)
