"""An interrupted experiment goes on where it was, and ends in the same figures."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
from rich.console import Console

from bestresponse.apps.experiments._experiment import Experiment, Findings
from bestresponse.apps.experiments._ledger import Ledger

MEASURED = []


@dataclass(frozen=True)
class Roots(Experiment):
    """Square roots."""

    numbers: tuple[int, ...] = (2, 3, 5)
    fails_at: ClassVar[int] = 0
    verb: ClassVar[str] = "roots"
    title: ClassVar[str] = "Roots"

    @property
    def steps(self):
        return len(self.numbers)

    def check(self, given=None):
        pass

    def root(self, number):
        if number == self.fails_at:
            raise KeyboardInterrupt
        MEASURED.append(number)
        return math.sqrt(number)

    def measure(self, pulse):
        roots = [pulse.once(f"root of {n}", lambda n=n: self.root(n)) for n in self.numbers]
        return Findings("Done.", {"sum": sum(roots)}, (), {"roots": roots})


@pytest.fixture(autouse=True)
def _forget():
    MEASURED.clear()


def run(tmp_path, **settings):
    console = Console(record=True, width=200)
    findings = Roots(out=tmp_path / "roots", **settings).run(console)
    return findings, console.export_text()


def interrupted(tmp_path, monkeypatch, at, **settings):
    monkeypatch.setattr(Roots, "fails_at", at)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, **settings)
    monkeypatch.setattr(Roots, "fails_at", 0)


def test_what_is_measured_is_not_measured_again(tmp_path, monkeypatch):
    interrupted(tmp_path, monkeypatch, at=5)
    assert not (tmp_path / "roots").exists()
    findings, said = run(tmp_path)
    assert MEASURED == [2, 3, 5] and "2 parts are measured already" in said
    assert findings.curves["roots"] == [math.sqrt(n) for n in (2, 3, 5)]
    assert [path.name for path in tmp_path.iterdir()] == ["roots"]


def test_other_settings_begin_anew(tmp_path, monkeypatch):
    interrupted(tmp_path, monkeypatch, at=5)
    _, said = run(tmp_path, numbers=(3, 2))
    assert MEASURED == [2, 3, 3, 2] and "already" not in said


@pytest.mark.parametrize("torn", ['{"name": "root of 3", "val', "[]", '"words"', "\x00"])
def test_a_torn_line_is_measured_again(tmp_path, monkeypatch, torn):
    interrupted(tmp_path, monkeypatch, at=3)
    (parts,) = tmp_path.iterdir()
    parts.write_text(parts.read_text() + torn)
    findings, _ = run(tmp_path)
    assert MEASURED == [2, 3, 5] and findings.headline["sum"] == sum(map(math.sqrt, (2, 3, 5)))


def test_a_file_that_is_no_ledger_is_begun_anew(tmp_path):
    path = tmp_path / ".x.parts.jsonl"
    path.write_bytes(b"\xff\xfe nonsense")
    ledger = Ledger(tmp_path / "x", {"a": 1})
    assert len(ledger) == 0 and ledger.once("b", lambda: 2) == 2
    assert Ledger(tmp_path / "x", {"a": 1}).once("b", lambda: 3) == 2
