"""The command line itself: help, version, list, spelling of flags, where runs go."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from PIL import Image

import bestresponse
from bestresponse import cli
from bestresponse.apps._models import BUILT_IN
from bestresponse.apps.tune import Tune

TINY = {
    "steps": "4", "evaluations": "2", "interval": "2", "warmup": "0", "validation": "60",
    "train": "200", "model": "linear",
}  # fmt: skip
FLAGS = [f"--{name}={value}" for name, value in TINY.items()]
FIELDS = dataclasses.fields(Tune)


@pytest.fixture(autouse=True)
def _as_a_user_has_it(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


def helped(capsys, *arguments):
    """The help text on one line, without its frame."""
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments])
    assert stop.value.code in (0, None)
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out, re.sub(r"[\s│]+", " ", printed.out)


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(capsys, flag):
    assert cli.main([flag]) == 0
    version = f"bestresponse {bestresponse.__version__} (torch {torch.__version__})\n"
    assert capsys.readouterr().out == version


def test_the_module_is_the_command():
    ended = subprocess.run(
        [sys.executable, "-m", "bestresponse.cli", "--version"], capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"bestresponse {bestresponse.__version__} ")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_names_the_commands(capsys, arguments):
    _, text = helped(capsys, *arguments)
    assert " tune " in text and " list " in text


def test_help_mentions_the_version_flag(capsys):
    assert "--version" in helped(capsys, "--help")[1]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_help_has_every_setting_with_its_default_and_a_sentence(capsys, field):
    _, text = helped(capsys, "tune", "--help")
    flag = "--" + field.name.replace("_", "-")
    entry = re.search(rf" {flag} (?P<words>.*?)(?= --[a-z]| ╰|$)", text)
    assert entry, f"{flag} is not in the help"
    assert len(entry["words"].split()) >= 5
    if field.default is not None and field.default is not False and field.default != ():
        shown = text[entry.start() :][:500].replace(" ", "")  # lines may break within a default
        assert f"(default:{field.default})".replace(" ", "") in shown


def test_help_says_nothing_about_none(capsys):
    assert "None" not in helped(capsys, "tune", "--help")[1]


def test_help_fits_a_terminal(capsys):
    assert max(map(len, helped(capsys, "tune", "--help")[0].splitlines())) <= 80


@pytest.mark.parametrize("join", ["=", " "])
@pytest.mark.parametrize("mark", ["-", "_"])
def test_flags_in_every_spelling(tmp_path, join, mark):
    words = [f"--batch{mark}size{join}77", f"--hyper{mark}lr{join}0.25", "--overwrite", "--out=run"]
    arguments = [part for word in words for part in word.split(" ")]
    assert cli.main(["tune", *FLAGS, *arguments]) == 0
    saved = json.loads((tmp_path / "run" / "settings.json").read_text())["settings"]
    assert (saved["batch_size"], saved["hyper_lr"], saved["steps"]) == (77, 0.25, 4)


def test_settings_are_saved_as_they_were_given(tmp_path):
    assert cli.main(["tune", *FLAGS, "--out=run", "--seed=3"]) == 0
    saved = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert saved["command"] == "tune" and saved["version"] == bestresponse.__version__
    fields = {field.name: field.default for field in FIELDS}
    assert set(saved["settings"]) == set(fields)
    changed = {"seed": 3, "model": "linear"} | {
        name: int(TINY[name]) for name in TINY if name != "model"
    }
    filled_in = {"threads", "inner_batch", "outer_batch"}
    for name in set(fields) - {"out", "data"} - filled_in:
        as_json = json.loads(json.dumps(changed.get(name, fields[name])))
        assert saved["settings"][name] == as_json, name
    assert saved["settings"]["threads"] >= 1
    batch = 4 * saved["settings"]["batch_size"]  # of a linear model
    assert saved["settings"]["inner_batch"] == saved["settings"]["outer_batch"] == batch


def test_runs_go_under_runs_by_default(tmp_path, capsys):
    assert cli.main(["tune", *FLAGS]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}-tune-digits", run.name)
    assert (run / "result.json").exists()
    assert f"runs/{run.name}/report.html" in capsys.readouterr().out


def test_overwrite_replaces_a_run(tmp_path):
    assert cli.main(["tune", *FLAGS, "--out=run"]) == 0
    first = (tmp_path / "run" / "result.json").read_text()
    assert cli.main(["tune", *FLAGS, "--out=run", "--seed=1", "--overwrite"]) == 0
    assert (tmp_path / "run" / "result.json").read_text() != first
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_empty_folder_is_a_place_for_a_run(tmp_path):
    (tmp_path / "run").mkdir()
    assert cli.main(["tune", *FLAGS, "--out=run"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("out", [".", "../here/run", "deep/er/run", "a b [c]", "r [b]x", "ü"])
def test_names_of_run_folders(tmp_path, monkeypatch, capsys, out):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert cli.main(["tune", *FLAGS, f"--out={out}"]) == 0
    assert (tmp_path / "here" / out / "result.json").exists()
    shown = re.search("Report: (.*)", capsys.readouterr().out)[1]
    assert (tmp_path / "here" / shown).exists()


def test_a_folder_named_like_markup(tmp_path):
    (tmp_path / "r [").mkdir()
    assert cli.main(["tune", *FLAGS, "--out=r [/b]"]) == 0


def test_a_link_to_an_empty_folder_is_used_or_refused_but_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    code = cli.main(["tune", *FLAGS, "--out=link"])
    assert (code, (tmp_path / "real" / "result.json").exists()) in [(0, True), (2, False)]
    assert (tmp_path / "link").is_symlink()


def test_a_draft_that_a_killed_run_left_is_no_obstacle(tmp_path):
    (tmp_path / f".run.{os.getpid()}").mkdir()
    assert cli.main(["tune", *FLAGS, "--out=run"]) == 0


def test_home_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = "".join(f"{i},{-i},{i % 2}\n" for i in range(100))
    (tmp_path / "t.csv").write_text("a,b,c\n" + rows)
    flags = [flag for flag in FLAGS if "train" not in flag and "validation" not in flag]
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    data = ["--data=~/t.csv", "--target=c", "--train=20", "--validation=20"]
    assert cli.main(["tune", *flags, *data, "--out=~/run"]) == 0
    assert (tmp_path / "run" / "result.json").exists()


def test_relative_data_and_resume_from_elsewhere(tmp_path, monkeypatch):
    rows = "".join(f"{i},{-i},{i % 2}\n" for i in range(100))
    (tmp_path / "my table.csv").write_text("a,b,c\n" + rows)
    flags = [flag for flag in FLAGS if "train" not in flag and "validation" not in flag]
    data = ["--data=my table.csv", "--target=c", "--train=20", "--validation=20"]
    assert cli.main(["tune", *flags, *data, "--out=my run"]) == 0
    before = json.loads((tmp_path / "my run" / "result.json").read_text())["headline"]
    (tmp_path / "my run" / "result.json").unlink()
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    assert cli.main(["tune", "--resume", "../my run"]) == 0
    after = json.loads((tmp_path / "my run" / "result.json").read_text())["headline"]
    assert {k: v for k, v in after.items() if "seconds" not in k} == {
        k: v for k, v in before.items() if "seconds" not in k
    }


def test_a_model_file_may_hold_dataclasses(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from torch import nn\n@dataclass\nclass Size:\n    width: int = 5\n"
        "def make(shape, classes):\n    w = Size().width\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, w), nn.Linear(w, classes))\n"
    )
    assert cli.main(["tune", *FLAGS, "--model=mine.py:make"]) == 0


def test_lazy_modules_start_alike_for_the_same_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef make(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))\n"
    )
    losses = []
    for i in range(2):
        torch.manual_seed(i)
        assert cli.main(["tune", *FLAGS, "--model=mine.py:make", f"--out={i}"]) == 0
        headline = json.loads((tmp_path / f"{i}" / "result.json").read_text())["headline"]
        losses.append(headline["untuned_test_loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", ["US$", r"$\frac$", "b&<i>x", "a b", "[b]"])
def test_class_names_that_mean_something_elsewhere(tmp_path, name):
    for folder in (name, "plain"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        for i in range(40):
            Image.new("L", (8, 8), 3 * i).save(tmp_path / "set" / folder / f"{i}.png")
    flags = [flag for flag in FLAGS if "train" not in flag and "validation" not in flag]
    roles = ["--train=30", "--validation=20", "--corrupt=0.3"]
    assert cli.main(["tune", *flags, *roles, "--data=set", "--out=run"]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<i>x" not in page


# --- list


def listed(capsys, *arguments):
    capsys.readouterr()
    assert cli.main(["list", *arguments]) == 0
    return capsys.readouterr().out


def line_of(text, word):
    return next(line for line in text.splitlines() if line.startswith(f"│ {word} "))


def test_list_without_runs(capsys):
    text = listed(capsys)
    assert "bestresponse tune" in text and "none yet" in text
    for model in (*BUILT_IN, "FILE.py:FACTORY"):
        assert model in text


def test_list_finished_unfinished_and_unreadable_runs(tmp_path, capsys):
    assert cli.main(["tune", *FLAGS, "--out=runs/done"]) == 0
    headline = json.loads((tmp_path / "runs" / "done" / "result.json").read_text())["headline"]
    settings = (tmp_path / "runs" / "done" / "settings.json").read_text()
    broken = {"cut": settings[:40], "list": "[]", "number": "3", "empty": "", "none": "{}"}
    for name, text in {"going": settings, **broken}.items():
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "settings.json").write_text(text)
    (tmp_path / "runs" / "badresult").mkdir()
    (tmp_path / "runs" / "badresult" / "settings.json").write_text(settings)
    (tmp_path / "runs" / "badresult" / "result.json").write_text('{"headline": []}')
    (tmp_path / "runs" / "nothing").mkdir()
    (tmp_path / "runs" / "note.txt").write_text("hello")
    text = listed(capsys)
    assert "finished" in line_of(text, "done") and "unfinished" not in line_of(text, "done")
    assert f"{headline['tuned_test_accuracy']:.4f}" in line_of(text, "done")
    assert "unfinished" in line_of(text, "going")
    for name in (*broken, "badresult"):
        assert "unreadable" in line_of(text, name)
    assert " nothing " not in text and "note.txt" not in text


def test_list_another_folder(tmp_path, capsys):
    assert cli.main(["tune", *FLAGS, "--out=else/one"]) == 0
    assert "digits" in line_of(listed(capsys, "--runs", "else"), "one")
    assert "none yet" in listed(capsys, "--runs=nowhere")


@pytest.mark.parametrize("name", ["a [red]b", "a [", "plain"])
def test_list_shows_names_as_they_are(tmp_path, capsys, name):
    (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / name / "settings.json").write_text("{")
    assert f" {name} " in listed(capsys)


def test_list_survives_a_name_like_markup(tmp_path, capsys):
    (tmp_path / "runs" / "x [").mkdir(parents=True)
    (tmp_path / "runs" / "x [" / "b]").mkdir()
    (tmp_path / "runs" / "x [" / "b]" / "settings.json").write_text("{")
    assert "b]" in listed(capsys, "--runs=runs/x [")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train"], "train.*see bestresponse --help"),
        (["list", "--nonsense"], "--nonsense.*see bestresponse list --help"),
        (["--nonsense"], "nonsense.*see bestresponse --help"),
        (["tune", "extra"], "extra.*see bestresponse tune --help"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, says):
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(f"bestresponse: .*{says}\\.", line), line
