"""`tune --method self-tuning`: schedules, the frozen model, fixed values beside, refusals."""

import io
import json
import math
import re

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from safetensors.torch import load_file

import bestresponse as br
from bestresponse.apps import _models
from bestresponse.apps._run import RunFolder
from bestresponse.apps.tune import Tune
from bestresponse.apps.tune._rows import make_data
from bestresponse.apps.tune._self_tuning_rows import SelfTuningBench
from bestresponse.apps.tune._session import Session

QUICK = dict(
    method="self-tuning", tune="dropout,decay,augment,label-smoothing",
    augment="rotate,gain,drop,cutout,holes", steps=24, warmup=4, evaluations=3, validation=60,
    train=100, batch_size=20, grid=2, threads=1,
)  # fmt: skip
ALONE = QUICK | dict(tune="dropout", augment=Tune.augment)
DEEP = """from torch import nn
def make(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.{}, nn.Linear(8, classes))
"""


@pytest.fixture(autouse=True)
def _single_precision():
    torch.set_default_dtype(torch.float32)


def run(path, **settings):
    text = io.StringIO()
    outcome = Tune(out=path, **(QUICK | settings)).run(Console(file=text, width=120))
    return outcome, text.getvalue()


def bench(**settings):
    tune = Tune(**(ALONE | settings))
    data = make_data(tune.load_splits(), tune.corrupt, tune.seed, torch.device("cpu"))
    return SelfTuningBench(tune, data, lambda **metrics: None), data


def metrics(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", params=[False, True], ids=["stn", "delta-stn"])
def finished(request, tmp_path_factory):
    torch.set_default_dtype(torch.float32)
    path = tmp_path_factory.mktemp("runs") / "run"
    return path, *run(path, centred=request.param)


def test_the_schedule_is_what_the_run_went_through(finished):
    path, outcome, _ = finished
    schedule = br.response.Schedule.load(path / "schedule.csv")
    assert schedule.column("step") == [0, 8, 16, 24]
    shown = [line for line in metrics(path) if line["kind"] == "values"]
    names = {"dropout": ["dropout.3"], "decay": ["decay"], "label-smoothing": ["label-smoothing"],
             "augment": ["rotate", "gain", "drop"], "cutout": ["cutout", "holes"]}  # fmt: skip
    assert len(shown) == 3 * len(names)
    for line in shown:
        at = schedule.at(line["step"])
        assert line["levels"] == pytest.approx([float(at[name]) for name in names[line["name"]]])
    last = schedule.rows[-1]
    for name, value in outcome.tuning["values"].items():
        assert last[name] == value != schedule.rows[0][name] or name in ("cutout", "holes")
        assert last[f"sigma:{name}"] == outcome.tuning["sigma"][name] != 0.5
    replay = br.response.Replay(
        _models.build("mlp", (1, 8, 8), 10, seed=0), schedule, {"3": "dropout.3"}
    )
    replay.set(24)
    assert float(replay.values["dropout.3"]) == pytest.approx(last["dropout.3"])
    saved = load_file(path / "hyper.safetensors")
    rate = 0.9 * torch.sigmoid(saved["bounded.raw.dropout|3"])
    assert float(rate) == pytest.approx(outcome.tuning["values"]["dropout.3"])


def test_the_saved_model_is_a_plain_one_with_the_reported_loss(finished):
    path, outcome, _ = finished
    test = Tune(**QUICK).load_splits().test
    model = _models.build("mlp", test.dataset.shape, 10, seed=9)
    model.load_state_dict(load_file(path / "model.safetensors"))
    inputs, labels = test.batch()
    loss = F.cross_entropy(model(inputs), labels, reduction="sum").item() / len(labels)
    assert loss == outcome.headline["test_loss"] == outcome.headline["tuned_test_loss"]


def test_validation_steps_are_taken_when_they_are_due(finished):
    path, outcome, printed = finished
    steps = [line["step"] for line in metrics(path) if line["kind"] == "hyper"]
    assert steps == [6, 8, 10, 12, 14, 16, 18, 20, 22, 24]
    assert outcome.headline["validation_steps"] == 10 and "10 validation steps" in printed


def test_the_best_fixed_value_is_the_validation_sets_choice(finished):
    path, outcome, printed = finished
    grid = outcome.tuning["grid"]
    assert [row["name"] for row in grid] == ["dropout=0", "dropout=0.45"]
    best = min(grid, key=lambda row: row["validation_loss"])
    head = json.loads((path / "result.json").read_text())["headline"]
    assert head["best_grid_test_loss"] == best["test_loss"]
    assert head["time_ratio"] == head["tuned_seconds"] / head["untuned_seconds"]
    assert head["time_ratio_to_grid_run"] > 0
    assert f"{best['name']}, test loss {best['test_loss']:.4f}" in printed


def test_the_report_shows_it_all(finished):
    path, outcome, _ = finished
    html = (path / "report.html").read_text()
    for heading in (
        "What was found", "Perturbations and responses", "Validation steps", "Layers",
        "Fixed values beside", "What the augmentation does", "Cutout",
    ):  # fmt: skip
        assert f"<h2>{heading}</h2>" in html
    for layer, size in outcome.tuning["response_size"].items():
        assert f"<td>{layer}</td><td>yes</td><td>{size:.3g}</td>" in html
    assert not re.search(r'(src|href)="(?!data:)', html)


def test_a_fixed_value_is_a_plain_run_with_that_dropout():
    b, data = bench(grid=2)
    zero, row = b.fixed()
    assert (zero.name, row.name) == ("dropout=0", "dropout=0.45")
    row.advance(24, lambda: True)
    plain = b.plain("untuned", data.train)
    model, rate = plain.model, torch.tensor(0.45)

    def dropped(layer, inputs):
        (x,) = inputs
        return x * ((torch.rand(x.shape) < 1 - rate) / (1 - rate)) if layer.training else x

    model[3].register_forward_pre_hook(dropped)
    plain.advance(24, lambda: True)
    for one, other in zip(row.product().parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_without_dropout_and_response_it_is_the_untuned_run():
    """A rate of zero, and gates that stay shut because the response does not train."""
    b, data = bench(centred=True, grid=1, lr=1e-3)
    untuned = b.plain("untuned", data.train)
    (zero,) = b.fixed()
    for training in (untuned, zero):
        training.advance(24, lambda: True)
    for one, other in zip(zero.product().parameters(), untuned.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    tuned, _ = b.tuned()
    x, y = data.train.batch(torch.arange(20))
    net = tuned.model.eval()
    plain = F.cross_entropy(b.plain("untuned", data.train).model(x), y)
    assert F.cross_entropy(net(x), y) == plain  # at the start, bit for bit


def test_the_training_loss_is_written_out():
    b, data = bench(tune="decay,label-smoothing,dropout", sigma=0.3)
    training, _ = b.tuned()
    net, index = training.model, torch.arange(7)
    x, y = data.train.batch(index)
    torch.manual_seed(1)
    found = training.loss(x, y, index)
    torch.manual_seed(1)
    with net.perturbed(7) as drawn:
        logs = F.log_softmax(net(x), 1)
        strength, decays = drawn["label-smoothing"], drawn["decay"]
        each = (1 - strength) * -logs[torch.arange(7), y] - strength * logs.mean(1)
        z = net.values.gates
    assert len(decays.unique()) == 1 and len(strength.unique()) == 7
    squares = [
        sum(w.square().sum() for n, w in net.best_response(raw).items() if n.endswith("weight"))
        for raw in ({n: row[i] for i, n in enumerate(net.hyper.raws())} for row in z)
    ]
    penalty = 0.5 * (decays * torch.stack(squares)).mean()
    torch.testing.assert_close(found, each.mean() + penalty)


def test_a_validation_step_changes_hyperparameters_alone():
    b, _ = bench()
    training, hyper = b.tuned()
    weights = [p.clone() for p in training.model.parameters()]
    before = hyper.values()["dropout"].values, training.companion.net.scales.flat().detach()
    torch.manual_seed(0)
    training.companion.after_step(6)
    for one, other in zip(weights, training.model.parameters(), strict=True):
        assert torch.equal(one, other) and other.grad is None
    assert hyper.values()["dropout"].values != before[0]
    assert training.companion.net.scales.flat() != before[1]


def test_a_run_that_was_cut_off_ends_the_same(tmp_path, monkeypatch):
    """Stopped twice while it tunes and once while it refits."""
    monkeypatch.setattr("bestresponse.apps.tune._session.write_report", lambda *_: None)  # slow
    settings = dict(centred=True, refit=True, grid=1)
    whole, _ = run(tmp_path / "whole", **settings)
    asked, stops = [], []

    def due(session):
        asked.append(session)
        return len(asked) in (87, 110, 155)

    def save_and_stop(session, save=Session._save):
        save(session)
        if len(asked) in (87, 110, 155):
            asked.append(session)
            raise KeyboardInterrupt

    monkeypatch.setattr(Session, "_checkpoint_is_due", due)
    monkeypatch.setattr(Session, "_save", save_and_stop)
    cut, again = tmp_path / "cut", dict(QUICK, **settings, out=tmp_path / "cut")
    while not (cut / "result.json").exists():
        try:
            Tune(**again).run(Console(file=io.StringIO()))
        except KeyboardInterrupt:
            state = RunFolder.open(cut).load_checkpoint()["trainings"]
            stops.append((state["tuned"]["step"], state.get("refitted", {}).get("step")))
            again = dict(resume=cut)
    tuned, refitted = zip(*stops, strict=True)
    assert 4 < tuned[0] < tuned[1] < 24 == tuned[2] and refitted[:2] == (None, None)
    assert 0 < refitted[2] < 24
    assert metrics(cut) == metrics(tmp_path / "whole")
    for name in ("model.safetensors", "hyper.safetensors", "schedule.csv"):
        assert (cut / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    result = json.loads((cut / "result.json").read_text())
    assert result["tuning"] == json.loads(json.dumps(whole.tuning))
    losses = {row["name"]: row["test_loss"] for row in result["rows"]}
    assert losses == {row.name: row.test_loss for row in whole.rows}


def test_the_refit_is_on_both_sets_at_what_was_found():
    b, _ = bench(refit=True, grid=0)
    training, hyper = b.tuned()
    training.advance(12, lambda: True)
    refitted = b.refitted(hyper)
    assert len(refitted.examples) == 160
    found = hyper.values()["dropout"].values
    assert torch.equal(refitted.model.values["dropout.3"], found) and found != 0.05


def test_a_nonfinite_validation_loss_stops_and_saves_nothing(tmp_path):
    with pytest.raises(br.SolveError, match="validation step after training step 6") as error:
        run(tmp_path / "a", hyper_lr=1e36, valid_steps=2, tune="decay", grid=0,
            augment=Tune.augment)  # fmt: skip
    assert error.value.result is br.Result.nonfinite
    assert not (tmp_path / "a" / "model.safetensors").exists()


def test_batch_norm_is_warned_of_and_other_layers_are_named(tmp_path):
    (tmp_path / "mine.py").write_text(DEEP.format("BatchNorm1d(8)"))
    outcome, printed = run(
        tmp_path / "a", model=f"{tmp_path}/mine.py:make", **{**ALONE, "grid": 0, "steps": 8}
    )
    assert re.search("batch norm.*recalibrate", printed)
    assert "Layers that do not respond: 2." in printed
    assert "best_grid_test_loss" not in outcome.headline
    html = (tmp_path / "a" / "report.html").read_text()
    assert "None was trained; --grid" in html and "<td>2</td><td>no</td>" in html


def test_the_own_dropouts_of_a_model_are_tuned(tmp_path):
    (tmp_path / "mine.py").write_text(DEEP.format("Dropout()"))
    b, _ = bench(model=f"{tmp_path}/mine.py:make")
    assert b._tunable.dropout == {"2": "dropout.2"}
    training, _ = b.tuned()
    assert training.product()[2].p == pytest.approx(0.05)


def test_values_to_try_lie_in_their_range():
    for tune, augment, expected in [
        ("decay", None, [2e-5, 2e-4, 2e-3, 2e-2]),
        ("label-smoothing", None, [0.0, 0.25, 0.5, 0.75]),
        ("augment", "rotate", [0.0, math.pi / 4, math.pi / 2, 3 * math.pi / 4]),
        ("augment", "cutout", [0, 1, 2, 3]),
    ]:
        b, _ = bench(tune=tune, augment=augment or Tune.augment, grid=4)
        (values,) = zip(*(v.values() for v in b._tunable.fixed_values(4)), strict=True)
        assert values == pytest.approx(expected)


BAD = {
    "weights": (dict(tune="weights"), "self-tuning cannot tune weights"),
    "reweight-net": (dict(tune="dropout,reweight-net"), "self-tuning cannot tune reweight-net"),
    "kind": (dict(augment="rotate,spin"), "--augment rotate,spin is not understood.*cutout"),
    "twice": (dict(augment="hue,hue"), "--augment hue,hue is not understood"),
    "colour": (dict(augment="rotate,hue"), "--augment rotate,hue: .*no hue"),
    "holes": (dict(augment="holes"), "holes without cutout"),
    "shallow": (dict(ALONE, model="linear"), "no hidden layer"),
    "sigma": (dict(sigma=0.0), "--sigma is 0.0"),
    "negative sigma": (dict(sigma=-1.0), "--sigma is -1.0"),
    "entropy": (dict(entropy=-1.0), "--entropy is -1.0"),
    "train steps": (dict(train_steps=0), "--train-steps is 0"),
    "valid steps": (dict(valid_steps=0), "--valid-steps is 0"),
    "grid": (dict(grid=-1), "--grid is -1"),
    "never": (dict(warmup=23), "lower --warmup or --train-steps"),
    "smoothing": (dict(tune="label-smoothing,decay", augment="rotate"), "--augment has no effect"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_sentence_and_writes_nothing(tmp_path, name):
    settings, says = BAD[name]
    with pytest.raises(br.InputError, match=says):
        run(tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_model_with_no_layer_that_can_respond(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def make(shape, classes):\n"
        "    layers = nn.Flatten(1, 2), nn.Conv1d(8, classes, 8), nn.Flatten()\n"
        "    return nn.Sequential(*layers)\n"
    )
    with pytest.raises(br.InputError, match="no layer that can be converted"):
        run(tmp_path / "out", model=f"{tmp_path}/mine.py:make", tune="decay", augment=Tune.augment)
