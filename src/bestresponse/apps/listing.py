"""`bestresponse list`: what there is to run, and the runs in a folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bestresponse.apps._models import BUILT_IN

_VERBS = {
    "tune": "train a classifier and tune its hyperparameters in the same run",
    "list": "this list",
}


@dataclass(frozen=True)
class List:
    """What there is to run, and the runs that are in a folder."""

    runs: Path = Path("runs")
    """The folder of runs."""

    def run(self, console: Console | None = None) -> None:
        """Print the lists."""
        console = console or Console()
        commands = Table(title="Commands", title_justify="left", show_header=False, box=None)
        for verb, words in _VERBS.items():
            commands.add_row(f"  bestresponse {verb}", words)
        console.print(commands)
        console.print(f"\nModels: {', '.join(BUILT_IN)}, FILE.py:FACTORY", highlight=False)
        console.print("Data: digits (bundled), Parquet, CSV, IDX, image folders\n", highlight=False)
        console.print(_runs(self.runs))


def _runs(folder: Path) -> Table:
    table = Table(title=escape(f"Runs in {folder}/"), title_justify="left")
    for heading in ("run", "data", "tuned", "state", "test accuracy"):
        table.add_column(heading)
    for path in sorted(folder.glob("*/settings.json")):
        table.add_row(escape(path.parent.name), *(escape(cell) for cell in _summary(path)))
    if not table.rows:
        table.add_row("none yet", "", "", "", "")
    return table


def _summary(path: Path) -> tuple[str, str, str, str]:
    try:
        settings = json.loads(path.read_text())["settings"]
        data, tuned = Path(settings["data"]).name, settings["tune"]
        result = path.with_name("result.json")
        if not result.exists():
            return data, tuned, "unfinished", ""
        headline: dict[str, Any] = json.loads(result.read_text())["headline"]
        return data, tuned, "finished", f"{headline['tuned_test_accuracy']:.4f}"
    except (OSError, ValueError, KeyError, TypeError):
        return "", "", "unreadable", ""
