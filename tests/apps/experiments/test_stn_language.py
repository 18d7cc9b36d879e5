"""Self-tuned language models: plain loops bit for bit, penalties and losses against formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse.apps._examples import stream_seed
from bestresponse.apps.experiments.language._parts import columns, windows
from bestresponse.apps.experiments.stn import _language_report as report
from bestresponse.apps.experiments.stn._course import ByEpoch, Pace, course
from bestresponse.apps.experiments.stn._word_learners import (
    FixedWords,
    ReplayedWords,
    Timetable,
    TunedWords,
    WordRecipe,
)
from bestresponse.apps.experiments.stn._word_model import (
    PENALTIES,
    RATES,
    Reading,
    WordModel,
    dropout,
    mean_word_loss,
    penalty,
)
from bestresponse.apps.experiments.stn.language import draw
from bestresponse.data import Text

RECIPE = WordRecipe(
    width=5, layers=1, batch=3, window=4, lr=0.01, hyper_batch=3, hyper_lr=0.05, entropy=1e-3,
    sigma=0.5, response_lr=0.01,
)  # fmt: skip
PACE = Pace(epochs=2, warmup=0, interval=1)


def silent(words):
    """Say nothing."""


@pytest.fixture
def text():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randint(7, (n,), generator=generator) for n in (40, 30, 30)]
    return Text(*parts, tuple("abcdefg"), "made up", "word", "")


def by_hand(text, rate):
    """A plain loop over two epochs, with a new locked mask for each window."""
    torch.manual_seed(stream_seed(3, "weights"))
    model = WordModel(7, 5, 1)
    torch.manual_seed(stream_seed(3, "dropout"))
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(2):
        state = None
        for words, targets in windows(columns(text.train, 3), 4):
            raw, state = model.layers[0](model.embedding(words), state)
            mask = (torch.rand(1, 3, 5) < 1 - rate) / (1 - torch.full((1,), rate))
            logits = F.linear(raw * mask, model.embedding.weight, model.bias)
            adam.zero_grad()
            F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adam.step()
            state = tuple(each.detach() for each in state)
    return model


def same(left, right):
    return all(map(torch.equal, left.parameters(), right.parameters()))


def test_a_fixed_run_is_the_plain_loop_bit_for_bit(text):
    learner = FixedWords(text, RECIPE, 3, 0.4)
    run = course(learner, PACE, silent)
    model = by_hand(text, 0.4)
    assert learner.steps_an_epoch == 3 and same(learner.model, model)
    assert run["validation"][-1] == mean_word_loss(model, text.validation, model)


def test_a_constant_timetable_and_a_constant_schedule_are_the_fixed_run(text):
    constant = Timetable(lambda step: {"output": 0.4})
    schedule = ByEpoch({"output": [0.4, 0.4, 0.4]}, steps_an_epoch=3)
    for timetable in (constant, schedule):
        learner = ReplayedWords(text, RECIPE, 3, timetable)
        course(learner, PACE, silent)
        assert same(learner.model, by_hand(text, 0.4))


def test_the_mean_loss_is_that_of_the_whole_text_at_once(text):
    torch.manual_seed(0)
    model = WordModel(7, 5, 2)
    part = torch.randint(7, (2300,))  # ten columns, windows of 100, 100 and 29
    table = part.view(10, 230).T
    reading = model.eval()(table[:-1], model.start(10))
    expected = F.cross_entropy(reading.logits.flatten(0, 1), table[1:].flatten()).detach()
    assert mean_word_loss(model, part, model) == pytest.approx(float(expected), rel=1e-5)


def test_penalties_are_their_formulas():
    raw = torch.arange(12.0, dtype=torch.float64).view(3, 2, 2)
    reading = Reading(raw, raw, 2 * raw, [])
    values = {"activation": torch.tensor([0.5, 0.5]), "temporal": torch.tensor([0.25, 0.25])}
    squares = sum(4 * number**2 for number in range(12)) / 12
    assert float(penalty(reading, values)) == pytest.approx(0.5 * squares + 0.25 * 16)
    assert float(penalty(reading, {"output": torch.ones(1)})) == 0


def test_every_hyperparameter_has_its_layers():
    both = {"layers.0": "weight", "layers.1": "weight", "hidden.0": "hidden"}
    assert dropout(RATES, 2) == both | {name: name for name in ("output", "input", "embedding")}
    assert dropout(("output",), 2) == {"output": "output"}


def test_all_seven_are_tuned_and_shared_where_they_must_be(text):
    ends = dict.fromkeys(RATES, 1.0) | dict.fromkeys(PENALTIES, math.inf)
    hyper = br.hyper.Bounded(**{name: (0.0, end, 0.1) for name, end in ends.items()})
    before = hyper.values()
    recipe = WordRecipe(**{**vars(RECIPE), "layers": 2})
    learner = TunedWords(text, recipe, 3, hyper)
    run = course(learner, Pace(epochs=1, warmup=0, interval=1), silent)
    assert all(hyper.values()[name] != before[name] for name in ends)
    assert set(run["response"]) == {"embedding", "layers.0", "layers.1"}
    with learner.net.perturbed(3) as drawn:
        one = {name for name in ends if len(drawn[name].unique()) == 1}
    assert one == {"embedding", "weight", *PENALTIES}


@pytest.mark.parametrize("centred", [False, True])
def test_the_frozen_model_is_the_network_as_it_is(text, centred):
    ends = dict.fromkeys(RATES, 1.0) | dict.fromkeys(PENALTIES, math.inf)
    hyper = br.hyper.Bounded(**{name: (0.0, end, 0.1) for name, end in ends.items()})
    recipe = WordRecipe(**{**vars(RECIPE), "layers": 2})
    learner = TunedWords(text, recipe, 3, hyper, centred=centred)
    for _ in range(3):
        learner.step()
        learner.tune()
    words = text.test[:12].view(4, 3)
    state = learner.frozen().start(3)
    own, frozen = learner.net.eval()(words, state), learner.frozen()(words, state)
    torch.testing.assert_close(own.logits, frozen.logits)
    table = dict(learner.frozen().named_parameters())["table"]
    assert torch.equal(table, dict(learner.net.named_parameters())["model.table"])


def test_draws_are_repeatable_and_in_their_ranges():
    found = [draw(0, trial) for trial in range(200)]
    assert found[3] == draw(0, 3) != found[4]
    for name in RATES:
        values = [each[name] for each in found]
        assert 0.02 < min(values) < 0.05 and 0.7 < max(values) < 0.8
    assert all(1e-3 < each[name] < 10 for each in found for name in PENALTIES)


def test_the_headline_is_computed_from_the_parts():
    def run(validation, test, seconds, **where):
        best = min(range(len(validation)), key=validation.__getitem__)
        own = {"validation": validation, "test": test, "best": best, "seconds": seconds}
        return {"seed": 0, **where, **own}

    found = {
        "fixed": [run([4.0, 5.0], 4.5, 2.0, rate=0.0), run([3.0], 3.5, 4.0, rate=0.5)],
        "tuned": [run([3.0, 2.0], 2.5, 9.0)],
        "seven": [run([1.0], 1.5, 20.0)],
        "search": [run([1.0], 2.0, 5.0, trials=[{"seconds": 5.0}, {"seconds": 15.0}])],
        **{kind: [run([2.0], 3.0, 4.0)] for kind in report.TIMETABLES},
    }
    figures = report.headline(found)
    assert figures["test_loss"] == 2.5 and figures["best_grid_test_loss"] == 3.5
    assert figures["time_ratio"] == 3 and figures["search_trials"] == 2
    assert figures["seven_test_perplexity"] == pytest.approx(math.exp(1.5))
    assert "below the 33.1" in report.verdict(figures)
