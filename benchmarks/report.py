"""The measured costs as a table on the terminal, as Markdown and as JSON."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.cost import Cost, Measurement
from benchmarks.problems import DECAYS, HYPERS, PROBLEMS

Results = Mapping[tuple[str, str], Measurement]
"""By kind of hyperparameter and name of problem."""

_RESULTS = Path(__file__).parent / "results"


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


def show(console: Console, results: Results) -> None:
    """One table a kind of hyperparameter, on the terminal."""
    for kind in _kinds(results):
        table = Table(title=f"One hypergradient in plain gradients, λ = {HYPERS[kind]}")
        _, *rows = _rows(results, kind)
        for cell in ("method", "library", *(name for k, name in results if k == kind)):
            table.add_column(cell)
        for row in rows:
            table.add_row(*row, style="bold" if row[1] == "bestresponse" else None)
        console.print(table)
    for line in _verdicts(results):
        console.print(line)


def write(results: Results, described: Mapping[str, Any]) -> list[Path]:
    """`cost.json` and `cost.md` in `benchmarks/results`."""
    _RESULTS.mkdir(exist_ok=True)
    data, page = _RESULTS / "cost.json", _RESULTS / "cost.md"
    measured = [
        {
            "hyper": kind,
            "problem": name,
            "unit_ms": m.unit_ms,
            "costs": [asdict(c) for c in m.costs],
        }
        for (kind, name), m in results.items()
    ]
    data.write_text(json.dumps({"setting": described, "results": measured}, indent=1) + "\n")
    page.write_text("\n".join(_markdown(results, described)) + "\n")
    return [data, page]


def _markdown(results: Results, described: Mapping[str, Any]) -> Iterator[str]:
    yield "# Cost of one hypergradient"
    yield ""
    yield (
        "In units of one plain training gradient on the same batch with respect to the weights "
        "only, decay included. A hypergradient is one call and its `backward()`: the graph, the "
        "products, the mixed product and the outer gradient. Median of the rounds, [least–most]; "
        "process CPU time, one thread, all rows interleaved in one process."
    )
    yield ""
    yield f"`{described['command']}`"
    yield ""
    yield (
        f"{described['processor']}, {described['cores']} cores, {described['threads']} thread; "
        f"PyTorch {described['torch']}, Python {described['python']}; "
        f"{described['rounds']} rounds, {described['date']}."
    )
    yield ", ".join(f"{name} {state}" for name, state in described["peers"].items()) + "."
    for kind in _kinds(results):
        header, *rows = _rows(results, kind)
        yield ""
        yield f"## λ = {HYPERS[kind]}"
        yield ""
        yield _line(header)
        yield _line(["---"] * len(header))
        yield from map(_line, rows)
    verdicts = list(_verdicts(results))
    if verdicts:
        yield ""
        yield "## Targets"
        yield ""
        yield from (f"- {line}" for line in verdicts)


def _rows(results: Results, kind: str) -> Iterator[list[str]]:
    """Header, the unit, then each method with ours first."""
    names = [name for k, name in results if k == kind]
    yield ["method", "library", *(PROBLEMS[name].title for name in names)]
    units = [f"1 = {results[kind, name].unit_ms:.1f} ms" for name in names]
    yield ["plain gradient", "PyTorch", *units]
    first = results[kind, names[0]].costs
    identities = [(cost.method, cost.library, cost.note) for cost in first]
    order = list(dict.fromkeys(method for method, _, _ in identities))
    for method, library, note in sorted(identities, key=lambda identity: order.index(identity[0])):
        cells = [_cell(_find(results[kind, name], method, library, note)) for name in names]
        yield [method, f"{library} ({note})" if note else library, *cells]


def _find(measurement: Measurement, method: str, library: str, note: str) -> Cost:
    wanted = (method, library, note)
    return next(c for c in measurement.costs if (c.method, c.library, c.note) == wanted)


def _cell(cost: Cost) -> str:
    if cost.failure:
        return f"fails: {cost.failure}"
    return f"{cost.median:.2f} [{min(cost.ratios):.2f}–{max(cost.ratios):.2f}]"


def _verdicts(results: Results) -> Iterator[str]:
    """Ours against the targets of the issue, which are for decays."""
    for name, problem in PROBLEMS.items():
        if (DECAYS, name) not in results:
            continue
        for method, limit in problem.targets.items():
            median = _find(results[DECAYS, name], method, "bestresponse", "").median
            verdict = "met" if median <= limit else "missed"
            yield f"{name}, {method}: {median:.2f}, at most {limit:g}: {verdict}"


def _kinds(results: Results) -> list[str]:
    return list(dict.fromkeys(kind for kind, _ in results))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
