"""Experiments run as a user has them: float32 by default, in an empty folder."""

import io
import json

import pytest
import torch
from rich.console import Console


@pytest.fixture(autouse=True)
def _as_a_user_has_it(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Run an experiment; its findings, its folder, and what it printed."""

    def run_it(kind, **settings):
        torch.set_default_dtype(torch.float32)
        text, out = io.StringIO(), tmp_path_factory.mktemp("runs") / kind.verb
        findings = kind(out=out, **settings).run(Console(file=text, width=120))
        return findings, out, text.getvalue()

    return run_it


@pytest.fixture
def headline_of():
    """The headline as it is on disk."""
    return lambda out: json.loads((out / "result.json").read_text())["headline"]
