"""`tune`: what it writes, that its figures are what they say, that the options reach the run."""

import io
import json
import re

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

import bestresponse as br
from bestresponse.apps import _models
from bestresponse.apps._examples import Examples, Order, corrupted
from bestresponse.apps.tune import Tune

QUICK = dict(steps=60, interval=10, warmup=5, evaluations=4, validation=60)


def run(path, **settings):
    text = io.StringIO()
    tune = Tune(out=path, **(QUICK | settings))
    return tune, tune.run(Console(file=text, width=120)), text.getvalue()


@pytest.fixture(autouse=True)
def _single_precision():
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    torch.set_default_dtype(torch.float32)
    path = tmp_path_factory.mktemp("runs") / "run"
    return path, *run(path, corrupt=0.4, tune="weights,decay", steps=200)


def test_the_folder_is_complete(finished):
    path, *_ = finished
    names = {file.name for file in path.iterdir()}
    assert names == {
        "settings.json", "splits.json", "metrics.jsonl", "checkpoint.pt", "result.json",
        "model.safetensors", "hyper.safetensors", "report.html",
    }  # fmt: skip


def test_headline_has_the_promised_figures_and_the_terminal_prints_them(finished):
    path, _, outcome, printed = finished
    headline = json.loads((path / "result.json").read_text())["headline"]
    promised = [
        "untuned_test_accuracy", "validation_only_test_accuracy",
        "train_and_validation_test_accuracy", "filtered_test_accuracy", "tuned_test_accuracy",
        "untuned_seconds", "tuned_seconds", "auroc",
    ]  # fmt: skip
    assert all(isinstance(headline[name], float) for name in promised)
    assert headline == outcome.headline
    for name in promised:
        shown = f"{headline[name]:.1f}" if "seconds" in name else f"{headline[name]:.4f}"
        assert shown in printed


def test_saved_model_has_the_reported_accuracy(finished):
    path, tune, outcome, _ = finished
    test = tune.load_splits().test
    model = _models.build("mlp", test.dataset.shape, 10, seed=9)
    model.load_state_dict(load_file(path / "model.safetensors"))
    inputs, labels = test.batch()
    accuracy = float((model(inputs).argmax(1) == labels).double().mean())
    assert accuracy == pytest.approx(outcome.headline["tuned_test_accuracy"], abs=1e-12)


def test_auroc_is_that_of_the_saved_weights(finished):
    path, tune, outcome, _ = finished
    labels = tune.load_splits().train.labels
    _, flipped = corrupted(labels, 10, 0.4, tune.seed)
    raw = load_file(path / "hyper.safetensors")["weights.raw"]
    assert outcome.headline["auroc"] == pytest.approx(roc_auc_score(flipped, -raw), abs=1e-9)
    assert int(flipped.sum()) == round(0.4 * len(labels))


def test_split_record_is_in_the_folder(finished):
    path, tune, _, _ = finished
    saved = json.loads((path / "splits.json").read_text())
    assert saved["record"] == tune.load_splits().record
    rows = [set(saved["indices"][role]) for role in ("train", "validation", "test")]
    assert sum(map(len, rows)) == len(set.union(*rows)) == 1797


def test_report_is_one_file_with_pictures(finished):
    path, _, outcome, _ = finished
    html = (path / "report.html").read_text()
    assert len(re.findall(r'src="data:image/png;base64,', html)) == 5
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert outcome.verdict in html


def test_untuned_row_is_the_tuned_row_without_hyperparameter_steps(tmp_path):
    """With equal weights of 1 the two trainings are the same computation."""
    _, outcome, _ = run(tmp_path / "a", tune="decay", decay_per="model", hyper_lr=1e-12)
    rows = {row.name: row for row in outcome.rows}
    assert rows["tuned"].test_loss == pytest.approx(rows["untuned"].test_loss, rel=1e-6)


def test_verdict_admits_defeat(tmp_path):
    _, outcome, printed = run(tmp_path / "a", hyper_lr=50.0, interval=1)
    best = max(row.test_accuracy for row in outcome.rows if row.name != "tuned")
    assert outcome.headline["tuned_test_accuracy"] < best
    assert "Tuning did not pay here" in printed


METHODS = {
    "cg": dict(solver="cg", solver_steps=3),
    "neumann": dict(solver="neumann", solver_lr=0.05, solver_steps=3),
    "dense": dict(solver="dense", model="linear", damping=1.0),
    "unroll": dict(method="unroll", unroll_steps=2),
    "finite-difference": dict(method="finite-difference"),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs(tmp_path, name):
    _, outcome, _ = run(tmp_path / "a", corrupt=0.3, **METHODS[name])
    calls = outcome.headline["hypergradient_calls"]
    assert calls == 5  # after steps 15, 25, 35, 45, 55
    products = {"cg": 3, "neumann": 3, "dense": 650}.get(name, 0)
    assert outcome.headline["products"] == products * calls
    if products:
        assert 0 <= outcome.headline["worst_relative_residual"] < 1.5


@pytest.mark.parametrize("model", ["linear", "mlp", "cnn", "resnet", "resnet18", "resnet44"])
def test_every_model_runs(tmp_path, model):
    _, outcome, _ = run(tmp_path / "a", model=model, steps=12, evaluations=2, interval=4, warmup=1)
    assert outcome.headline["hypergradient_calls"] == 2


def test_a_model_from_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n"
        "def make(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(),"
        " nn.Linear(8, classes))\n"
    )
    _, outcome, _ = run(tmp_path / "a", model=f"{file}:make")
    assert outcome.headline["hypergradient_calls"] == 5


def test_patience_stops_tuning(tmp_path):
    _, outcome, printed = run(tmp_path / "a", patience=1, hyper_lr=30.0, interval=2, lr=0.05)
    assert outcome.tuning["stopped_at"] is not None
    assert f"Tuning stopped early, at step {outcome.tuning['stopped_at']}" in printed


def test_csv_data(tmp_path):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 3))
    names = np.where(x[:, 0] + x[:, 1] > 0, "yes", "no")
    lines = [f"{a},{b},{c},{name}" for (a, b, c), name in zip(x, names, strict=True)]
    (tmp_path / "t.csv").write_text("a,b,c,kind\n" + "\n".join(lines) + "\n")
    _, outcome, _ = run(
        tmp_path / "a",
        data=str(tmp_path / "t.csv"),
        target="kind",
        model="linear",
        corrupt=0.2,
        lr=0.05,
    )
    assert outcome.headline["tuned_test_accuracy"] > 0.8
    assert "Row of the data" in (tmp_path / "a" / "report.html").read_text()


def test_same_seed_same_result_and_another_seed_another(tmp_path):
    results = [run(tmp_path / str(i), seed=seed)[1] for i, seed in enumerate((4, 4, 5))]
    accuracies = [[(row.test_accuracy, row.test_loss) for row in r.rows] for r in results]
    assert accuracies[0] == accuracies[1] != accuracies[2]


def test_a_nonfinite_loss_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(br.SolveError) as error:
        run(tmp_path / "a", lr=1e30, steps=200, checkpoint_seconds=1e-9)
    assert error.value.result is br.Result.nonfinite
    assert (tmp_path / "a" / "checkpoint.pt").exists()
    assert not (tmp_path / "a" / "result.json").exists()


def test_order_visits_everything_once_an_epoch():
    order = Order(10, 5, seed=0, purpose="test")
    epoch = torch.cat([order.next(), order.next()])
    assert sorted(epoch.tolist()) == list(range(10))
    state = order.state()
    ahead = [order.next().tolist() for _ in range(5)]
    order.load(state)
    assert [order.next().tolist() for _ in range(5)] == ahead


def test_corruption_moves_exactly_the_share_to_other_classes():
    labels = torch.arange(10).repeat(20)
    noisy, flipped = corrupted(labels, 10, 0.35, seed=1)
    assert torch.equal(noisy != labels, flipped)
    assert int(flipped.sum()) == 70 and int(noisy.max()) <= 9
    again, _ = corrupted(labels, 10, 0.35, seed=1)
    assert torch.equal(noisy, again)


def test_joined_examples_keep_their_labels():
    splits = Tune(validation=60).load_splits()
    device = torch.device("cpu")
    wrong = torch.zeros_like(splits.train.labels)
    one = Examples(splits.train, wrong, device)
    both = one.joined(Examples(splits.validation, splits.validation.labels, device))
    index = torch.tensor([0, len(one)])
    inputs, labels = both.batch(index)
    assert labels.tolist() == [0, int(splits.validation.labels[0])]
    assert torch.equal(inputs[1], splits.validation.batch(torch.tensor([0]))[0][0])


def test_flips_and_batches_are_independent():
    """The first batches must not be just the flipped examples."""
    _, flipped = corrupted(torch.arange(10).repeat(100), 10, 0.5, seed=3)
    order = Order(1000, 100, seed=3, purpose="training")
    shares = [float(flipped[order.next()].double().mean()) for _ in range(5)]
    assert all(0.3 < share < 0.7 for share in shares)
