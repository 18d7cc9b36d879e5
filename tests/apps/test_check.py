"""`bestresponse check`: what it prints, its exit codes, and what it says to mistakes."""

import dataclasses
import re
import sys
from pathlib import Path

import pytest
import torch

from bestresponse import cli
from bestresponse.apps.check import Check

EXAMPLE = Path(__file__).parents[2] / "examples" / "check_hypergradient.py"

PROBLEM = """
import torch
import bestresponse as br

class One(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.v = torch.nn.Parameter(torch.tensor([value]))

def nested(alpha=0.25, w=1.0):
    model, target = One(w), One(2.0)
    return br.Nested(  # ½(2w − λ)²: the Hessian is 4
        params=model, hyper=target,
        inner=lambda x: 0.5 * (2 * model.v * x - target.v).square().sum(),
        outer=lambda x: (model.v * x).square().sum(),
        method=br.Implicit(br.Scale(alpha)),
    )

BATCH = (torch.ones(1),)
def right(): return nested(), BATCH, BATCH
def named(): return {"outer_batch": BATCH, "inner_batch": BATCH, "nested": nested()}
def wrong(): return nested(1.0), BATCH, BATCH
def early(): return nested(w=5.0), BATCH, BATCH
def none(): pass
def pair(): return nested(), BATCH
def swapped(): return BATCH, nested(), BATCH
def other(): return {"nested": nested(), "batch": BATCH}
def needs(x): return x
def fails(): raise OSError("no such disk.\\nreally")
def leaves(): raise SystemExit("bye")
def shapes(): return nested(), (torch.ones(2, 3), 1), BATCH
def drawn():
    draw = torch.rand(1).item()
    return nested(draw), BATCH, BATCH
number = 3
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "mine.py").write_text(PROBLEM)
    return "mine.py"


def printed(capsys, *arguments):
    """The exit code, and what was printed."""
    code = cli.main(["check", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("name", ["right", "named"])
def test_a_right_hypergradient(file, capsys, name):
    code, out, err = printed(capsys, f"{file}:{name}")
    assert (code, err) == (0, "")
    assert re.search(r"agrees with retraining to \S+ %\.\n$", out)
    for word in ("chosen method", "dense solve", "unrolled SGD", "retraining", "cosine", "note"):
        assert word in out


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "wrong",
            r"differs from retraining by 300 % because the solve is inexact \(300 %\); raise",
        ),
        ("early", r"differs from .* because the weights are not at a minimum .*; train further"),
    ],
)
def test_a_wrong_hypergradient(file, capsys, name, says):
    code, out, err = printed(capsys, f"{file}:{name}")
    assert (code, err) == (1, "")
    assert re.search(says, out.splitlines()[-1])


def test_flags_reach_the_check(file, capsys):
    assert printed(capsys, f"{file}:wrong", "--tolerance=4")[0] == 0
    assert "CG solve" in printed(capsys, f"{file}:right", "--limit=0")[1]
    assert "at the minimum nearby" in printed(capsys, f"{file}:early", "--rows=1")[1]
    assert printed(capsys, f"{file}:right", "--keep=v")[0] == 0
    assert "'v'" in printed(capsys, f"{file}:right", "--keep=x")[2]
    assert "Undecided" in printed(capsys, f"{file}:right", "--seconds=1e-9")[1]


def test_the_seed_is_the_factory_s(file, capsys):
    runs = [printed(capsys, f"{file}:drawn", f"--seed={seed}")[1] for seed in (0, 0, 1)]
    norms = [re.search(r"chosen method\W+([\d.]+)", out)[1] for out in runs]
    assert norms[0] == norms[1] != norms[2]


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        ("gone.py:make", r"check names the file 'gone\.py', which does not exist"),
        ("mine.py", r"'mine\.py' names no function; write FILE\.py:FACTORY"),
        ("mine.py:gone", r"'mine\.py' has no function 'gone'"),
        ("mine.py:number", r"'mine\.py' has no function 'number'"),
        ("mine.py:none", r"returned NoneType; it must return \(nested, inner_batch, outer_batch\)"),
        ("mine.py:pair", r"returned \(Nested, tuple\); it must"),
        ("mine.py:swapped", r"returned \(tuple, Nested, tuple\); it must"),
        ("mine.py:other", r"returned a dict of nested, batch; it must"),
        ("mine.py:needs", r"fails when it is called without arguments: TypeError: .*'x'"),
        ("mine.py:fails", r"called without arguments: OSError: no such disk"),
        ("mine.py:leaves", r"called without arguments: SystemExit: bye"),
        ("mine.py:shapes", r"mine\.py:shapes fails when it is checked: TypeError: .*argument"),
        ("broken.py:f", r"'broken\.py' fails when it is imported: ZeroDivisionError"),
        ("text.txt:f", r"'text\.txt' is no Python file"),
    ],
)
def test_mistakes_are_one_line(file, capsys, tmp_path, problem, says):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "text.txt").write_text("hello\n")
    code, out, err = printed(capsys, problem)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert re.fullmatch(f"bestresponse: .*{says}.*\\.", line), line


@pytest.mark.parametrize("arguments", [[], ["mine.py:right", "--nonsense"]])
def test_mistakes_in_the_command(file, capsys, arguments):
    code, _, err = printed(capsys, *arguments)
    assert code == 2
    (line,) = err.splitlines()
    assert line.endswith("see bestresponse check --help.")


def test_bad_settings(file, capsys):
    code, _, err = printed(capsys, f"{file}:right", "--rows=0")
    assert (code, err) == (2, "bestresponse: rows=0 is too few; use 1 or more.\n")


def test_neighbours_of_the_file_can_be_imported(file, capsys, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "neighbour_of_mine.py").write_text(PROBLEM)
    (tmp_path / "deep" / "top.py").write_text("from neighbour_of_mine import right\n")
    path = list(sys.path)
    assert printed(capsys, "deep/top.py:right")[0] == 0
    assert sys.path == path


def test_help_explains_every_flag(file, capsys):
    with pytest.raises(SystemExit):
        cli.main(["check", "--help"])
    text = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    flags = {f"--{field.name}" for field in dataclasses.fields(Check)} - {"--problem"}
    for word in (*flags, "FILE.py:FACTORY"):
        entry = re.search(rf" {word} (?P<words>.*?)(?= --[a-z]| ╰|$)", text)
        assert len(entry["words"].split()) >= 5, word
    assert "None" not in text


def test_it_is_listed(file, capsys):
    assert cli.main(["list"]) == 0
    assert "bestresponse check" in capsys.readouterr().out


def test_the_example(file, capsys):
    code, out, _ = printed(capsys, f"{EXAMPLE}:problem")
    assert code == 0 and "650 weights" in out
