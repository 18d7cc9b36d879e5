"""The language model by explicit loops, its hypergradients by refitting, and the rules of play."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

import bestresponse as br
from bestresponse.apps.experiments.language import Language
from bestresponse.apps.experiments.language._model import (
    DROPOUTS,
    LanguageModel,
    Regularizers,
    Strengths,
    check_vocabulary,
)
from bestresponse.apps.experiments.language._parts import Parts, columns, perplexity, windows
from bestresponse.apps.experiments.language._search import (
    DECAYS,
    PENALTIES,
    RATES,
    draws,
    random_search,
)
from bestresponse.apps.experiments.language._training import History, LanguageTraining, Recipe
from checks import central_difference, relative_error

STRENGTHS = Strengths(
    embedding=0.2, input=0.3, hidden=0.25, output=0.15, weight=0.1,
    activation=0.7, temporal=0.4, decay=0.02,
)  # fmt: skip
RECIPE = Recipe(
    width=6, layers=1, batch=3, window=5, epochs=3, patience=2, lr=0.02, warmup=0, interval=2,
    hyper_batch=3, hyper_lr=0.1, rates="one", decay="tensor", temperature=0.5,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)


def lstm_step(layer, weight, x, h, c):
    """One step of the textbook's cell, for one column."""
    gates = layer.weight_ih_l0 @ x + layer.bias_ih_l0 + weight @ h + layer.bias_hh_l0
    i, f, g, o = gates.chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def by_hand(model, words, targets, masks):
    """Cross-entropy, raw and dropped outputs, one word after the other."""
    losses, raws, dropped = [], [], []
    for column in range(words.shape[1]):
        states = [[torch.zeros(3), torch.zeros(3)] for _ in model.layers]
        for time in range(len(words)):
            word = int(words[time, column])
            x = model.embedding.weight[word] * masks["embedding"][word] * masks["input"][column]
            for i, layer in enumerate(model.layers):
                x = x * masks["hidden"][column] if i else x
                weight = layer.weight_hh_l0 * masks["weight"][i]
                states[i] = lstm_step(layer, weight, x, *states[i])
                x = states[i][0]
            raws.append(x)
            x = x * masks["output"][column]
            dropped.append(x)
            logits = model.embedding.weight @ x + model.bias
            losses.append(logits.logsumexp(0) - logits[int(targets[time, column])])
    shape = (words.shape[1], len(words), 3)
    return (
        torch.stack(losses).mean(),
        torch.stack(raws).view(shape),
        torch.stack(dropped).view(shape),
    )


def example(layers=2):
    model = LanguageModel(5, 3, layers)
    nn.init.normal_(model.bias)
    text = torch.randint(5, (7, 2))
    return model, text[:-1], text[1:]


def test_the_plain_loss_is_that_of_a_loop_over_words():
    model, words, targets = example()
    ones = {name: torch.ones(5, 3) for name in DROPOUTS}
    ones["weight"] = torch.ones(2, 1)
    expected, _, _ = by_hand(model, words, targets, ones)
    assert relative_error(model.loss(words, targets, model.state(2)), expected) <= 1e-12


def test_the_training_loss_is_that_of_a_loop_with_one_mask_for_all_times():
    model, words, targets = example()
    hyper = Regularizers(model, STRENGTHS, decay="model")
    torch.manual_seed(3)
    loss = hyper.loss(model, words, targets, model.state(2))
    torch.manual_seed(3)  # the order in which the model draws
    drop, masks = hyper.dropout, {}
    masks["embedding"] = drop("embedding").mask((5, 1))
    masks["input"] = drop("input").mask((1, 2, 3))[0]
    first = drop("weight").mask((12, 3))
    masks["hidden"] = drop("hidden").mask((1, 2, 3))[0]
    masks["weight"] = [first, drop("weight").mask((12, 3))]
    masks["output"] = drop("output").mask((1, 2, 3))[0]
    data, raw, dropped = by_hand(model, words, targets, masks)
    weights = [p for name, p in model.named_parameters() if "bias" not in name]
    expected = (
        data
        + 0.7 * dropped.square().mean()
        + 0.4 * (raw[:, 1:] - raw[:, :-1]).square().mean()
        + 0.5 * 0.02 * sum(weight.square().sum() for weight in weights)
    )
    assert relative_error(loss, expected) <= 1e-12


def test_the_state_goes_on_from_window_to_window():
    model, words, _ = example()
    whole, _ = model(words, model.state(2))
    first, state = model(words[:3], model.state(2))
    second, _ = model(words[3:], state)
    assert relative_error(torch.cat([first, second]), whole) <= 1e-12


@pytest.mark.parametrize("rates", ["one", "unit"])
@pytest.mark.parametrize("decay", ["model", "tensor", "weight"])
def test_each_granularity_has_its_number_of_hyperparameters(rates, decay):
    model = LanguageModel(5, 3, 2)
    hyper = Regularizers(model, STRENGTHS, rates, decay)
    weights = [p for name, p in model.named_parameters() if "bias" not in name]
    dropouts = 5 if rates == "one" else 5 + 3 + 3 + 3 + 36
    decays = {"model": 1, "tensor": 5, "weight": sum(w.numel() for w in weights)}[decay]
    assert sum(p.numel() for p in hyper.parameters()) == dropouts + 2 + decays
    hyper.loss(model, torch.zeros(4, 2).long(), torch.zeros(4, 2).long(), model.state(2))
    assert hyper.values() == pytest.approx(dataclasses.asdict(STRENGTHS))


def newton(loss, weights):
    """The minimum near `weights`, by Newton's method on a flat vector."""
    for _ in range(30):
        leaf = weights.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(leaf), leaf)
        if slope.norm() < 1e-11:
            return weights
        hessian = torch.autograd.functional.hessian(loss, weights)
        assert bool((torch.linalg.eigvalsh(hessian) > 0).all())
        weights = weights - torch.linalg.solve(hessian, slope)
    raise AssertionError("no minimum")


def test_hypergradients_of_all_groups_are_those_of_refitting():
    """Masks are pinned; the model is fitted to rounding before and after λ moves."""
    model, words, targets = example(layers=1)
    held = torch.randint(5, (7, 2))
    weak = dataclasses.replace(STRENGTHS, activation=0.02, temporal=0.03, decay=0.003)
    hyper = Regularizers(model, weak, decay="tensor", temperature=0.5)
    # biases do not decay and have flat directions, in which no minimum is: they stay
    params = {n: p for n, p in model.named_parameters() if "bias" not in n}
    names, shapes = [*params], [p.shape for p in params.values()]
    seen = []

    def inner():
        seen.append(torch.get_rng_state())
        return hyper.loss(model, words, targets, model.state(2))

    nested = br.Nested(
        br.select(model, lambda name: name in params),
        hyper,
        inner,
        lambda: model.loss(held[:-1], held[1:], model.state(2)),
        br.Implicit(br.Dense()),
    )

    def tree(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        return {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.hyper = model, hyper

        def forward(self):
            torch.set_rng_state(seen[0])
            return self.hyper.loss(self.model, words, targets, self.model.state(2))

    whole = Loss()

    def loss_at(values):
        fixed = {f"hyper.{name}": value for name, value in values.items()}
        return lambda flat: functional_call(
            whole, {**fixed, **{f"model.{n}": p for n, p in tree(flat).items()}}
        )

    state = nested.state_dict()
    nested()  # tells at which random state the masks are drawn
    values = {name: p.detach().clone() for name, p in hyper.named_parameters()}
    flat = torch.cat([p.detach().reshape(-1) for p in params.values()]).requires_grad_()
    lbfgs = torch.optim.LBFGS(
        [flat], max_iter=500, history_size=50, tolerance_grad=1e-6, tolerance_change=0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure():
        lbfgs.zero_grad()
        value = loss_at(values)(flat)
        value.backward()
        return value

    lbfgs.step(closure)
    best = newton(loss_at(values), flat.detach())
    for name, value in tree(best).items():
        params[name].data.copy_(value)
    nested.load_state_dict(state)
    hyper.zero_grad()
    loss, report = nested()
    loss.backward()
    assert report.inner_gradient_norm < 1e-10 and report.direct_norm == 0

    def refitted(moved):
        weights = tree(newton(loss_at(moved), best))
        with torch.no_grad():
            logits, _ = functional_call(model, weights, (held[:-1], model.state(2)))
            return nn.functional.cross_entropy(logits.flatten(0, 1), held[1:].flatten())

    around = central_difference(refitted, values)
    assert set(around) == {name for name, _ in hyper.named_parameters()}
    for name, parameter in hyper.named_parameters():  # each group by itself
        assert float(around[name].abs()) > 1e-7
        assert relative_error(parameter.grad, around[name]) <= 1e-4, name


@pytest.mark.parametrize("length", [40, 93])
def test_every_word_but_the_first_of_a_column_is_predicted_once(length):
    part = torch.arange(length)
    table = columns(part, 4)
    assert table[:, 1].tolist() == list(range(length // 4, 2 * (length // 4)))
    pairs = [
        (int(a), int(b))
        for words, targets in windows(table, 5)
        for a, b in zip(words.flatten(), targets.flatten(), strict=True)
    ]
    assert len(set(pairs)) == len(pairs) == (length // 4 - 1) * 4
    assert all(b == a + 1 for a, b in pairs)


def test_perplexities():
    model, part = LanguageModel(7, 3, 1), torch.randint(7, (250,))
    mean = model.loss(columns(part, 10)[:-1], columns(part, 10)[1:], model.state(10))
    assert perplexity(model, part) == pytest.approx(math.exp(mean.item()), rel=1e-12)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert perplexity(model, part) == pytest.approx(7, rel=1e-12)  # a uniform guess
    model.bias.data[0] = math.inf
    with pytest.raises(br.SolveError, match="loss of the trained model"):
        perplexity(model, part)


def small_parts():
    text = torch.randint(6, (200,))
    return Parts(text[:90], text[90:120], text[120:150], text[150:], 6)


def test_training_without_tuning_leaves_the_strengths_and_tuning_moves_them():
    parts = small_parts()
    for tuned in (False, True):
        training = LanguageTraining(parts, RECIPE, STRENGTHS, 0, tuned=tuned)
        history = training.run(lambda note: None)
        changed = training.regularizers.values() != pytest.approx(dataclasses.asdict(STRENGTHS))
        before = {k: v for k, v in dataclasses.asdict(STRENGTHS).items() if k != "hidden"}
        assert changed and (training.regularizers.values() == pytest.approx(before)) != tuned
        assert history.calls == (9 if tuned else 0)  # 18 steps, every second
        assert training.steps_an_epoch == 6 and len(history.test) == 3
        assert perplexity(training.model, parts.selection) == min(history.selection)


def test_training_stops_when_selection_no_longer_improves():
    recipe = dataclasses.replace(RECIPE, epochs=200, patience=3, lr=0.2)
    history = LanguageTraining(small_parts(), recipe, STRENGTHS, 0, tuned=False).run(lambda n: None)
    assert len(history.selection) < 200
    assert history.best == len(history.selection) - 4
    assert history.selection[history.best] == min(history.selection)


def test_a_search_spends_exactly_the_time_it_has():
    lengths, given = itertools.cycle([3.0, 4.0, 5.0]), []

    def train(strengths, left):
        seconds = min(next(lengths), left)
        given.append(left)
        return History(selection=[10.0 - len(given)], test=[1.0], spent=seconds)

    trials = random_search(10.0, train, seed=0)
    assert given == [10.0, 7.0, 3.0]
    assert [trial.history.spent for trial in trials] == [3.0, 4.0, 3.0]
    assert [trial.whole for trial in trials] == [True, True, False]
    assert min(trials, key=lambda trial: trial.selection) is trials[-1]


def test_trials_that_blow_up_cost_time_and_count_for_nothing():
    def train(strengths, left):
        return History(spent=4.0) if left > 6 else History(selection=[5.0], test=[1.0], spent=left)

    (trial,) = random_search(10.0, train, seed=0)
    assert trial.history.spent == 6.0
    with pytest.raises(br.SolveError, match="every trial"):
        random_search(10.0, lambda strengths, left: History(spent=4.0), seed=0)


def test_draws_fill_their_ranges_evenly():
    drawn = [dataclasses.asdict(s) for s in itertools.islice(draws(1), 2000)]
    assert drawn[0] == dataclasses.asdict(next(draws(1))) != dataclasses.asdict(next(draws(2)))
    for name in drawn[0]:
        low, high = RATES if name in DROPOUTS else DECAYS if name == "decay" else PENALTIES
        scale = (lambda p: math.log(p / (1 - p))) if name in DROPOUTS else math.log
        at = [(scale(d[name]) - scale(low)) / (scale(high) - scale(low)) for d in drawn]
        assert 0 <= min(at) < 0.01 and 0.99 < max(at) <= 1
        assert abs(sum(at) / len(at) - 0.5) < 4 / math.sqrt(12 * len(at))


def test_a_vocabulary_larger_than_the_models_is_refused():
    check_vocabulary(10, 10)
    with pytest.raises(br.InputError, match="vocabulary of 11, more than the model's 10; raise"):
        check_vocabulary(11, 10)


def test_the_findings_follow_from_the_runs(run):
    findings, _, printed = run(
        Language, tokens=600, held_out=120, width=8, batch=4, window=10, epochs=3, warmup=1,
        interval=4, seeds=(0, 1),
    )  # fmt: skip
    runs, headline = findings.curves["runs"], findings.headline
    for arm, each in runs.items():
        tests = [r["test"][r["selection"].index(min(r["selection"]))] for r in each]
        assert headline[f"{arm}_test_perplexity"] == pytest.approx(sum(tests) / 2)
        deviation = abs(tests[0] - tests[1]) / math.sqrt(2)
        assert headline[f"{arm}_deviation"] == pytest.approx(deviation)
    for tuned, search in zip(runs["tuned"], runs["search"], strict=True):
        spent = sum(trial["seconds"] for trial in search["trials"])
        assert spent >= tuned["spent"] and not search["trials"][-1]["whole"]
        assert all(trial["whole"] for trial in search["trials"][:-1])
        best = min(search["trials"], key=lambda trial: trial["selection"])
        assert best["test"] == search["test"][search["best"]]
    cost = findings.curves["cost"]["seconds_a_step"]
    assert headline["time_ratio"] == cost["tuned"] / cost["untuned"] > 1
    assert headline["memory_ratio"] is None or headline["memory_ratio"] > 0
    assert "Test perplexity" in printed
