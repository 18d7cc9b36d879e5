"""`bestresponse list`: what there is to run, and the runs in a folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bestresponse.apps._models import BUILT_IN
from bestresponse.apps.experiments import EXPERIMENTS

_VERBS = {
    "tune": "train a classifier and tune its hyperparameters in the same run",
    "check": "compare the hypergradient of your own problem with retraining",
    "distill": "learn a few images that a model can be trained on alone",
    "jacnet": "fit a monotone, Lipschitz or invertible function to columns of a CSV file",
    "experiment": "reproduce what the papers show",
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
        experiments = Table(title_justify="left", show_header=False, box=None)
        experiments.title = "\nExperiments (bestresponse experiment NAME)"
        for each in EXPERIMENTS:
            experiments.add_row(f"  {each.verb}", each.title)
        console.print(experiments)
        console.print(f"\nModels: {', '.join(BUILT_IN)}, FILE.py:FACTORY", highlight=False)
        console.print("Data: digits (bundled), Parquet, CSV, IDX, image folders\n", highlight=False)
        console.print(_runs(self.runs))


def _runs(folder: Path) -> Table:
    table = Table(title=escape(f"Runs in {folder}/"), title_justify="left")
    for heading in ("run", "data", "what", "state", "result"):
        table.add_column(heading)
    for path in sorted(folder.glob("*/settings.json")):
        table.add_row(escape(path.parent.name), *(escape(cell) for cell in _summary(path)))
    if not table.rows:
        table.add_row("none yet", "", "", "", "")
    return table


def _summary(path: Path) -> tuple[str, str, str, str]:
    """Data, what was done with it, the state, and the one figure to know."""
    try:
        content = json.loads(path.read_text())
        settings, command = content["settings"], content["command"]
        data = Path(settings.get("data", "")).name
        what = f"tune {settings['tune']}" if command == "tune" else command
        result = path.with_name("result.json")
        if not result.exists():
            return data, what, "unfinished", ""
        headline: dict[str, float | None] = json.loads(result.read_text())["headline"]
        return data, what, "finished", _figure(headline)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return "", "", "unreadable", ""


def _figure(headline: dict[str, float | None]) -> str:
    """The test accuracy, or the first figure of an experiment."""
    if "tuned_test_accuracy" in headline:
        return f"test accuracy {headline['tuned_test_accuracy']:.4f}"
    name, value = next(iter(headline.items()))
    return f"{name.replace('_', ' ')} {'not reached' if value is None else f'{value:.4g}'}"
