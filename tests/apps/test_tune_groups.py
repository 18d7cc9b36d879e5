"""What `tune` can tune, alone and together: the loss written out, rates, refitting, the report."""

import io
import json
import re

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from safetensors.torch import load_file

import bestresponse as br
from bestresponse.apps import _models
from bestresponse.apps.tune import Tune
from bestresponse.apps.tune._groups import GROUPS
from bestresponse.apps.tune._rows import Bench, make_data

QUICK = dict(steps=30, interval=5, warmup=5, evaluations=3, validation=60, train=100)
CPU = torch.device("cpu")
TOGETHER = ",".join(GROUPS)


@pytest.fixture(autouse=True)
def _single_precision():
    torch.set_default_dtype(torch.float32)


def run(path, **settings):
    text = io.StringIO()
    tune = Tune(out=path, **(QUICK | settings))
    return tune.run(Console(file=text, width=120)), text.getvalue()


def bench(**settings):
    tune = Tune(**(QUICK | settings))
    data = make_data(tune.load_splits(), tune.corrupt, tune.seed, CPU)
    return Bench(tune, data, lambda **metrics: None), data


@pytest.mark.parametrize("group", [*GROUPS, TOGETHER])
def test_every_group_runs_and_is_in_the_report(tmp_path, group):
    outcome, _ = run(tmp_path / "a", tune=group, corrupt=0.2)
    html = (tmp_path / "a" / "report.html").read_text()
    saved = load_file(tmp_path / "a" / "hyper.safetensors")
    text = (tmp_path / "a" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    for name in group.split(","):
        assert f"<h2>{name.replace('-', ' ').capitalize()}</h2>" in html
        assert any(key.startswith(name.replace("-", "_") + ".") for key in saved)
        levels = [line["levels"] for line in lines if line.get("name") == name]
        assert len(levels) == 3 and levels[0] != levels[-1]
    assert ("auroc" in outcome.headline) == bool({"weights", "reweight-net"} & {*group.split(",")})
    assert ("What the augmentation does" in html) == ("augment" in group)


def test_the_cost_is_in_the_headline_and_said(tmp_path):
    outcome, printed = run(tmp_path / "a")
    head = outcome.headline
    assert head["relative_seconds"] == head["tuned_seconds"] / head["untuned_seconds"]
    assert 1e8 < head["tuned_peak_memory"] < 1e11 and 0.9 < head["relative_peak_memory"] < 3
    assert f"{head['relative_seconds']:.2f} × the time of the untuned run" in printed
    assert f"Peak memory {head['tuned_peak_memory'] / 1e6:.0f} MB" in printed


@pytest.mark.parametrize("augmentation", ["transforms", "network"])
def test_the_training_loss_is_the_groups_written_out(augmentation):
    b, data = bench(tune=TOGETHER, augmentation=augmentation)
    training, hyper = b.tuned()
    model, index = training.model, torch.tensor([3, 50, 7, 7])
    with torch.no_grad():  # weights that differ
        hyper.weights.raw += torch.randn(100)
        hyper.reweight_net.score.weight.normal_()
    x, y = data.train.batch(index)
    torch.manual_seed(1)
    found = hyper.inner(model, x, y, index)
    torch.manual_seed(1)
    logits = hyper.dropout(model, hyper.augment(x))
    each = F.cross_entropy(logits, y, reduction="none")
    strength = hyper.label_smoothing.strength
    each = (1 - strength) * each - strength * F.log_softmax(logits, 1).mean(1)
    weights = torch.sigmoid(hyper.weights.raw[index]) * hyper.reweight_net(x, y)
    decays = dict(hyper.decay.named_parameters())
    penalty = sum(
        0.5 * (decays[f"log_decay.{name.replace('.', '|')}"].exp() * w * w).sum()
        for name, w in model.named_parameters()
        if name.endswith("weight")
    )
    torch.testing.assert_close(found, (weights * each).mean() + penalty)


def test_the_validation_loss_knows_no_group_but_keeps_a_network_in_order():
    b, data = bench(tune=TOGETHER, augmentation="network", augment_regularizer=0.5)
    training, hyper = b.tuned()
    x, y = data.validation.batch(torch.arange(40))
    torch.manual_seed(2)
    found = hyper.outer(training.model, x, y)
    torch.manual_seed(2)
    kept = 0.5 * hyper.augment.regularizer(x[:32])
    torch.testing.assert_close(found, F.cross_entropy(training.model(x), y) + kept)
    b, _ = bench(tune=TOGETHER)
    training, hyper = b.tuned()
    plain = F.cross_entropy(training.model(x), y)
    torch.testing.assert_close(hyper.outer(training.model, x, y), plain)


def test_the_regularizer_is_descended():
    """The direct part of the hypergradient has the sign of the regularizer's own gradient."""
    b, data = bench(tune="augment", augmentation="network", augment_regularizer=1e6)
    training, hyper = b.tuned()
    tuner = training.companion
    x, y = data.validation.batch(torch.arange(30))
    index = torch.arange(20)
    loss, report = tuner.nested((*data.train.batch(index), index), (x, y))
    loss.backward()
    found = torch.cat([p.grad.reshape(-1) for p in hyper.augment.parameters()])
    assert report.direct_norm > 1e3 * report.indirect_norm
    draws = []
    for seed in range(20):
        torch.manual_seed(seed)
        parameters = [*hyper.augment.parameters()]
        gradient = torch.autograd.grad(hyper.augment.regularizer(x), parameters)
        draws.append(torch.cat([g.reshape(-1) for g in gradient]))
    assert float(torch.cosine_similarity(found, torch.stack(draws).mean(0), 0)) > 0.5


def test_each_group_has_its_learning_rate():
    b, _ = bench(tune="weights,decay,augment", group_lr=("decay=0.25",))
    training, _ = b.tuned()
    rates = [group["lr"] for group in training.companion.optimizer.param_groups]
    assert rates == [GROUPS["weights"].lr, 0.25, GROUPS["augment"].lr]
    b, _ = bench(tune="weights,decay", hyper_lr=0.5, group_lr=("weights=2",))
    training, _ = b.tuned()
    assert [g["lr"] for g in training.companion.optimizer.param_groups] == [2.0, 0.5]
    sizes = [sum(p.numel() for p in g["params"]) for g in training.companion.optimizer.param_groups]
    assert sizes[0] == 100


def test_other_groups_do_not_change_what_a_group_starts_with():
    first, again = (bench(tune=names)[0].tuned()[1] for names in ("augment,decay", "augment"))
    for one, other in zip(first.augment.parameters(), again.augment.parameters(), strict=True):
        assert torch.equal(one, other)


def test_refitting_without_tuning_is_training_on_both_sets(tmp_path):
    """With decays that hardly move, the refitted row is the plain row of both sets."""
    outcome, _ = run(tmp_path / "a", tune="decay", decay_per="model", hyper_lr=1e-12, refit=True)
    rows = {row.name: row for row in outcome.rows}
    assert rows["refitted"].examples == rows["train_and_validation"].examples == 160
    both = rows["train_and_validation"].test_loss
    assert rows["refitted"].test_loss == pytest.approx(both, rel=1e-6)


def test_validation_examples_count_fully_in_the_refit():
    b, _ = bench(tune="weights", refit=True)
    _, hyper = b.tuned()
    refitted = b.refitted(hyper)
    assert len(refitted.examples) == 160
    index = torch.tensor([5, 99, 100, 159])
    x, y = refitted.examples.batch(index)
    model = refitted.model
    losses = F.cross_entropy(model(x), y, reduction="none")
    counted = (torch.tensor([0.5, 0.5, 1.0, 1.0]) * losses).mean()
    penalty = 0.5 * 2e-3 * sum(w.square().sum() for n, w in model.named_parameters() if "wei" in n)
    torch.testing.assert_close(refitted.loss(x, y, index), counted + penalty)


def test_the_refitted_model_is_saved_and_nothing_tunes_on(tmp_path):
    outcome, printed = run(tmp_path / "a", refit=True, tune="decay,weights")
    assert outcome.product == "refitted" and "tuned, then refitted on both sets" in printed
    test = Tune(**QUICK).load_splits().test
    model = _models.build("mlp", test.dataset.shape, 10, seed=9)
    model.load_state_dict(load_file(tmp_path / "a" / "model.safetensors"))
    inputs, labels = test.batch()
    accuracy = float((model(inputs).argmax(1) == labels).double().mean())
    assert accuracy == pytest.approx(outcome.headline["refitted_test_accuracy"], abs=1e-12)
    assert re.search(f"{accuracy:.4f} against", outcome.verdict)


BAD = {
    "table": (dict(tune="augment"), "for a table of features"),
    "shallow": (dict(tune="dropout", model="linear"), "no hidden layer"),
    "halving": (
        dict(tune="augment", augmentation="network", augment_depth=5), "cannot be halved 4 times"
    ),
    "rate": (dict(group_lr=("weights=fast",)), "--group-lr weights=fast .*GROUP=RATE"),
    "negative": (dict(group_lr=("weights=-1",)), "--group-lr weights=-1"),
    "no rate": (dict(group_lr=("weights",)), "--group-lr weights"),
    "other group": (dict(group_lr=("decay=0.1",)), "group of --tune .weights."),
    "regularizer": (
        dict(tune="augment", augmentation="network", augment_regularizer=-1.0), "is -1.0"
    ),
    "hidden": (dict(tune="reweight-net", reweight_hidden=0), "--reweight-hidden is 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_sentence_and_writes_nothing(tmp_path, name):
    settings, says = BAD[name]
    if name == "table":
        rows = [f"{i % 7},{i % 3},{'yes' if i % 2 else 'no'}" for i in range(300)]
        (tmp_path / "t.csv").write_text("a,b,kind\n" + "\n".join(rows) + "\n")
        settings = settings | dict(data=str(tmp_path / "t.csv"), target="kind", model="linear")
    with pytest.raises(br.InputError, match=says):
        run(tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (1024, 1024)),
        ({"model": "linear", "batch_size": 30}, (120, 120)),
        ({"model": "cnn"}, (256, 256)),
        ({"model": "cnn", "batch_size": 64, "outer_batch": 7}, (64, 7)),
        ({"inner_batch": 5}, (5, 1024)),
    ],
)
def test_hyperparameter_steps_see_as_many_examples_as_training_steps(settings, expected):
    """Light models four times as many."""
    assert Tune(**settings).hyper_batches == expected
    b, data = bench(**settings)
    training, _ = b.tuned()
    tuner = training.companion
    drawn = (tuner.inner_order.batch_size, tuner.outer_order.batch_size)
    assert drawn == (min(expected[0], len(data.train)), min(expected[1], len(data.validation)))


def test_a_run_folder_tells_the_batches_that_were_used(tmp_path):
    run(tmp_path / "a", batch_size=20)
    saved = json.loads((tmp_path / "a" / "settings.json").read_text())["settings"]
    assert (saved["inner_batch"], saved["outer_batch"], saved["interval"]) == (80, 80, 5)


def test_a_u_net_is_tuned_at_the_rate_of_a_network():
    assert Tune(tune="augment").hyper_rates == {"augment": 0.03}
    network = Tune(tune="augment,decay", augmentation="network")
    assert network.hyper_rates == {"augment": 0.003, "decay": 0.1}
    given = Tune(tune="augment", augmentation="network", group_lr=("augment=0.5",))
    assert given.hyper_rates == {"augment": 0.5}


def test_the_default_regularizer_is_the_published_one_at_the_default_scale():
    """Factor 1 with a solver scale of 0.1 and factor 10 with 1 differ by a factor of 10 only."""
    found = []
    for settings in ({}, {"augment_regularizer": 1.0, "solver_lr": 0.1}):
        b, data = bench(tune="augment", augmentation="network", **settings)
        training, hyper = b.tuned()
        index = torch.arange(20)
        inner = (*data.train.batch(index), index)
        loss, _ = training.companion.nested(inner, data.validation.batch(index))
        loss.backward()
        found.append(torch.cat([p.grad.reshape(-1) for p in hyper.augment.parameters()]))
    torch.testing.assert_close(found[0], 10 * found[1], rtol=1e-3, atol=1e-5)
