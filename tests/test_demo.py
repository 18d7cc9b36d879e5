"""`python -m benchmarks.demo`: any `tune`, several seeds, one table."""

import json
import statistics

import pytest
import torch
from benchmarks import demo

from bestresponse.apps.tune import Tune

FLAGS = [
    "--steps", "12", "--interval", "4", "--warmup", "0", "--train", "60", "--validation", "60",
    "--evaluations", "2", "--threads", "1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _single_precision():
    torch.set_default_dtype(torch.float32)


def test_flags_are_those_of_tune_and_without_any_it_is_the_demo():
    assert demo.tune_settings(demo.DEMO) == Tune(tune="weights", corrupt=0.4, validation=100)
    found = demo.tune_settings(["--tune", "augment", "--model", "cnn", "--refit"])
    assert found == Tune(tune="augment", model="cnn", refit=True)


def test_every_seed_is_run_and_the_figures_are_written(tmp_path, capsys):
    out = tmp_path / "figures.json"
    demo.main(["--seeds", "3", "4", "--write", str(out), "--tune", "decay", "--refit", *FLAGS])
    content, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert content["command"].startswith("bestresponse tune --tune decay --refit --steps 12")
    each = [one["refitted_test_accuracy"] for one in content["headlines"]]
    assert len(each) == 2 and each[0] != each[1]
    mean, deviation = statistics.mean(each), statistics.stdev(each)
    assert content["means"]["refitted_test_accuracy"] == [mean, deviation]
    assert f"refitted on both sets | {mean:.4f} | {deviation:.4f} |" in printed
    assert "AUROC" not in printed  # no label was flipped


@pytest.mark.parametrize(
    "flags", [["--out", "x"], ["--seed", "1"], ["--model", "nix"], ["--tune", "decay,decay"]]
)
def test_what_makes_no_sense_is_refused_before_any_run(flags, capsys, monkeypatch):
    monkeypatch.setattr(demo, "_run", lambda *_: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as stopped:
        demo.main(flags)
    assert stopped.value.code == 2 and flags[0] in capsys.readouterr().err
