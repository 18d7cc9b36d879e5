"""Ranges to tune and to search in, the network's shapes, and the figures from made-up runs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse.apps._examples import Order, stream_seed
from bestresponse.apps.experiments.stn import _cnn_report as report
from bestresponse.apps.experiments.stn._classifier import Fixed, Recipe, Roles, Tuned
from bestresponse.apps.experiments.stn._image_net import RATES, Span, draw, problem, spans

RECIPE = Recipe(
    batch=20, lr=0.01, hyper_batch=15, hyper_lr=0.05, entropy=1e-3, sigma=0.5, response_lr=0.01,
    response_interval=1,
)  # fmt: skip


@pytest.fixture
def task():
    return problem(Roles.of("digits", 70, 30, seed=0), width=2)


def test_only_coloured_images_have_colours():
    grey = [*RATES, "cutout", "holes", "brightness", "contrast"]
    assert list(spans((1, 8, 8))) == grey
    assert list(spans((3, 32, 32))) == [*grey, "saturation", "hue"]
    assert spans((3, 32, 32))["cutout"] == Span(0, 16, 4, whole=True)


@pytest.mark.parametrize("shape", [(64,), (1, 7, 8)])
def test_what_is_no_image_is_a_sentence(shape):
    with pytest.raises(br.InputError, match="give images of at least 8×8 pixels"):
        spans(shape)


def test_draws_are_even_and_in_their_ranges():
    within = {"rate": Span(0.0, 0.9, 0.05), "holes": Span(0, 3, 1, whole=True)}
    stream = torch.Generator().manual_seed(0)
    found = [draw(within, stream) for _ in range(400)]
    rates, holes = ([each[name] for each in found] for name in within)
    assert 0 <= min(rates) < 0.02 and 0.88 < max(rates) < 0.9
    assert sum(rates) / 400 == pytest.approx(0.45, abs=0.04)
    assert [round(holes.count(n) / 100) for n in (0, 1, 2, 3)] == [1, 1, 1, 1]


def test_a_fixed_run_is_the_plain_step_on_augmented_images(task):
    values = {name: float(span.start) for name, span in spans(task.roles.shape).items()}
    learner = Fixed(task, RECIPE, 3, values)
    learner.step()
    torch.manual_seed(stream_seed(3, "weights"))
    model = task.make()
    for part in model.modules():
        if isinstance(part, nn.Dropout | nn.Dropout2d):
            part.p = 0.05
    torch.manual_seed(stream_seed(3, "dropout"))
    x, y = task.roles.train
    rows = Order(len(y), 20, 3, "training").next()
    images = br.hyper.augment(x[rows], cutout=1.0, holes=1.0, brightness=0.05, contrast=0.05)
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    F.cross_entropy(model(images), y[rows]).backward()
    adam.step()
    for own, other in zip(learner.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(own, other)


def test_all_are_read_and_tuned(task):
    within = spans(task.roles.shape)
    hyper = br.hyper.Bounded(**{name: span.spec() for name, span in within.items()})
    learner = Tuned(task, RECIPE, 3, hyper)
    before = {name: raw.detach().clone() for name, raw in hyper.raws().items()}
    learner.step()
    learner.tune()
    assert not any(torch.equal(raw, before[name]) for name, raw in hyper.raws().items())
    assert learner.net.unconverted == ()


@pytest.mark.parametrize(("own", "says"), [(0.4, "better than the 0.500"), (0.6, "worse than")])
def test_the_verdict_says_who_is_better(own, says):
    def run(test, seconds, **more):
        return {"validation": [1.0], "test": test, "best": 0, "seconds": seconds, **more}

    trials = [{"seconds": 3.0}, {"seconds": 5.0}]
    found = {"tuned": [run(own, 8.0)], "start": [run(0.7, 4.0)],
             "search": [run(0.5, 3.0, trials=trials)]}  # fmt: skip
    figures = report.headline(found)
    assert figures["time_ratio"] == figures["search_time_ratio"] == 2
    assert figures["test_loss"] == own and figures["best_grid_test_loss"] == 0.5
    assert says in report.verdict(figures)
