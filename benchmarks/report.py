"""Pages of measured tables: on the terminal, as Markdown and as JSON."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table as RichTable

_RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Table:
    """Rows of cells under a heading.

    Attributes:
        title: what it shows.
        header: names of the columns.
        rows: as many cells each.
        text: what must be known to read it.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: str = ""


@dataclass(frozen=True)
class Target:
    """A figure beside the limit that the issue set for it.

    Attributes:
        what: the figure's name.
        value: what was measured; None if it was never reached.
        limit: what it should be at the most.
        at_least: the limit is one from below.
    """

    what: str
    value: float | None
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the figure keeps to its limit."""
        if self.value is None:
            return False
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        value = "not reached" if self.value is None else f"{self.value:.4g}"
        bound = "at least" if self.at_least else "at most"
        return f"{self.what}: {value}, {bound} {self.limit:g}: {'met' if self.met else 'missed'}"


@dataclass(frozen=True)
class Page:
    """All that one part of the benchmarks has to show."""

    title: str
    text: str
    tables: Sequence[Table]
    targets: Sequence[Target] = field(default=())


def setting(rounds: int, peers: Mapping[str, str]) -> dict[str, Any]:
    """What the numbers were measured with."""
    return {
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "rounds": rounds,
        "peers": dict(peers),
    }


def show(console: Console, page: Page) -> None:
    """Tables and targets on the terminal."""
    for table in page.tables:
        shown = RichTable(title=table.title)
        for cell in table.header:
            shown.add_column(cell)
        for row in table.rows:
            shown.add_row(*row, style="bold" if "bestresponse" in row[1] else None)
        console.print(shown)
    for target in page.targets:
        console.print(str(target), style=None if target.met else "red")


def write(name: str, page: Page, results: object, described: Mapping[str, Any]) -> list[Path]:
    """`<name>.json` and `<name>.md` in `benchmarks/results`."""
    _RESULTS.mkdir(exist_ok=True)
    data, text = _RESULTS / f"{name}.json", _RESULTS / f"{name}.md"
    content = {"setting": described, "results": results}
    data.write_text(json.dumps(content, indent=1, default=asdict) + "\n")
    text.write_text("\n".join(_markdown(page, described)) + "\n")
    return [data, text]


def _markdown(page: Page, described: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"# {page.title}", "", page.text, "", f"`{described['command']}`", "")
    yield (
        f"{described['processor']}, {described['cores']} cores, {described['threads']} thread; "
        f"PyTorch {described['torch']}, Python {described['python']}; "
        f"{described['rounds']} rounds, {described['date']}."
    )
    if described["peers"]:
        yield ", ".join(f"{name} {state}" for name, state in described["peers"].items()) + "."
    for table in page.tables:
        yield from ("", f"## {table.title}", "")
        if table.text:
            yield from (table.text, "")
        yield from map(_line, [table.header, ["---"] * len(table.header), *table.rows])
    if page.targets:
        yield from ("", "## Targets", "", *(f"- {target}" for target in page.targets))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
