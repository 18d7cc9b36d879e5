"""A distillation that was stopped or killed and resumed gives the same files, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from bestresponse import cli
from bestresponse.apps.distill import _keeper
from bestresponse.apps.distill._files import ARRAYS, PICTURE, TABLE
from bestresponse.apps.distill._session import Keeper

FILES = (ARRAYS, PICTURE, TABLE)
WAYS = {
    "linear": ["--steps", "5", "--seeds", "0", "1"],
    "unroll": ["--model", "mlp", "--steps", "8", "--inner-steps", "3", "--seeds", "0", "1",
               "--learn", "labels,weights,lr", "--batch-size", "64", "--full-epochs", "1"],
    "implicit": ["--model", "mine.py:tanh", "--mode", "implicit", "--steps", "5", "--restart", "3",
                 "--seeds", "2", "--learn", "labels", "--batch-size", "64", "--full-epochs", "1"],
}  # fmt: skip
MODEL = """
from math import prod
from torch import nn

def tanh(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), 8), nn.Tanh(), nn.Linear(8, classes))
"""


@pytest.fixture(autouse=True)
def _as_a_user_has_it(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MODEL)


def distill(*arguments):
    return cli.main(["distill", *arguments])


def figures(path):
    """`result.json` without what it cost."""
    content = json.loads((path / "result.json").read_text())
    content["headline"] = {
        name: value
        for name, value in content["headline"].items()
        if "seconds" not in name and "memory" not in name
    }
    for seed in content["seeds"]:
        for name in [name for name in seed if "seconds" in name or "memory" in name]:
            del seed[name]
    return content


def assert_same(one, other):
    assert figures(one) == figures(other)
    for name in FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes()


class Stopping(Keeper):
    """Asked to stop after every few reports, as by a signal."""

    every = 1
    count = 0

    def after(self, left, done, note):
        Stopping.count += 1
        if Stopping.count % Stopping.every == 0:
            self._wish.signal_number = signal.SIGINT
        super().after(left, done, note)


@pytest.mark.parametrize(("way", "every"), [("linear", 1), ("unroll", 7), ("implicit", 3)])
def test_stopped_again_and_again(tmp_path, monkeypatch, capsys, way, every):
    """After every so many reports, of which a training on all images gives up to a hundred."""
    flags = [*WAYS[way], "--threads", "1"]
    assert distill(*flags, "--out", "whole") == 0
    monkeypatch.setattr("bestresponse.apps.distill._session.Keeper", Stopping)
    monkeypatch.setattr(Stopping, "every", every)
    monkeypatch.setattr(Stopping, "count", 0)
    capsys.readouterr()
    code, stops = distill(*flags, "--out", "broken"), 0
    model = ["--model", "mine.py:tanh"] if way == "implicit" else []
    while code == 130:
        stops += 1
        assert not (tmp_path / "broken" / "result.json").exists()
        assert "continue with: bestresponse distill --resume broken" in capsys.readouterr().err
        code = distill("--resume", "broken", *model)
    assert code == 0
    assert stops >= 3
    assert_same(tmp_path / "whole", tmp_path / "broken")


def command(*arguments):
    return [sys.executable, "-m", "bestresponse.cli", "distill", *arguments]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_writes_a_checkpoint_and_says_how_to_go_on(tmp_path, number, code):
    flags = ["--steps", "60", "--threads", "1", "--seeds", "0"]
    process = subprocess.Popen(command(*flags, "--out", "run"), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "settings.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "bestresponse distill --resume run" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "run" / "result.json").exists()
    assert distill("--resume", "run") == 0
    assert distill(*flags, "--out", "whole") == 0
    assert_same(tmp_path / "whole", tmp_path / "run")


def test_a_run_killed_in_the_middle_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    flags = [*WAYS["unroll"], "--threads", "1"]
    assert distill(*flags, "--out", "whole") == 0
    process = subprocess.Popen(command(*flags, "--checkpoint-seconds", "1e-9", "--out", "run"))
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert distill("--resume", "run") == 0
    assert_same(tmp_path / "whole", tmp_path / "run")


@pytest.fixture
def unfinished(tmp_path, monkeypatch):
    """A run that was stopped on its way."""
    with monkeypatch.context() as patch:
        patch.setattr("bestresponse.apps.distill._session.Keeper", Stopping)
        patch.setattr(Stopping, "every", 4)
        patch.setattr(Stopping, "count", 0)
        assert distill(*WAYS["implicit"], "--threads", "1", "--out", "run") == 130
    return tmp_path / "run"


def refused(capsys, *arguments):
    capsys.readouterr()
    assert distill(*arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_refusals(unfinished, capsys, tmp_path):
    named = ["--model", "mine.py:tanh"]
    assert "leave --steps out" in refused(capsys, "--resume", "run", "--steps", "3")
    assert "leave --model out" in refused(capsys, "--resume", "run", "--model", "mlp")
    assert "not run unless you name it again" in refused(capsys, "--resume", "run")
    assert "holds no run" in refused(capsys, "--resume", "nowhere")
    assert "continue it with --resume" in refused(capsys, "--seeds", "0", "--out", "run")
    roles = (unfinished / "splits.json").read_text()
    (unfinished / "splits.json").write_text("{}")
    assert "data is not what" in refused(capsys, "--resume", "run", *named)
    (unfinished / "splits.json").write_text(roles)
    (tmp_path / "mine.py").write_text(MODEL.replace("8", "9"))
    assert "model's file has changed" in refused(capsys, "--resume", "run", *named)
    (tmp_path / "mine.py").write_text(MODEL)
    settings = json.loads((unfinished / "settings.json").read_text())
    (unfinished / "settings.json").write_text(json.dumps({**settings, "command": "tune"}))
    assert "no run of distill" in refused(capsys, "--resume", "run", *named)
    (unfinished / "settings.json").write_text(json.dumps(settings))
    (unfinished / "checkpoint.pt").write_bytes(b"x")
    assert "checkpoint is damaged" in refused(capsys, "--resume", "run", *named)


def test_a_finished_run_is_left_as_it_is(tmp_path, capsys):
    assert distill("--steps", "3", "--seeds", "0", "--threads", "1", "--out", "run") == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    capsys.readouterr()
    assert distill("--resume", "run") == 0
    said = capsys.readouterr().out
    assert "finished" in said
    assert "learned images of digits" in said
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before


def test_a_state_that_does_not_fit_is_said_plainly():
    from bestresponse import InputError

    with pytest.raises(InputError, match="does not fit"), _keeper.restoring():
        raise KeyError("net")
