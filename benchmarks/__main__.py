"""`python -m benchmarks`: measure, show, write."""

from __future__ import annotations

import argparse
import time
from types import ModuleType

import torch
from rich.console import Console

from benchmarks import (
    accuracy,
    cost,
    jacnet,
    memory,
    peers,
    product,
    report,
    scale,
    self_tuning,
)
from benchmarks.options import Options

PARTS: dict[str, ModuleType] = {
    "cost": cost,
    "product": product,
    "memory": memory,
    "scale": scale,
    "accuracy": accuracy,
    "jacnet": jacnet,
    "self-tuning": self_tuning,
}


def main() -> None:
    """Read the flags and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all of them by default")
    parser.add_argument("--rounds", type=int, default=7, help="timings of each figure (7)")
    parser.add_argument("--trial", action="store_true", help="a part of everything, not written")
    parser.add_argument("--only-ours", action="store_true", help="leave the peers out; not written")
    flags = parser.parse_args()

    torch.set_num_threads(1)
    console = Console()
    found, states = ({}, {}) if flags.only_ours else peers.available()
    for name, state in states.items():
        console.print(f"{name} {state}")
    for name in flags.parts or PARTS:
        start = time.perf_counter()
        with console.status(name) as status:
            options = Options(flags.rounds, flags.trial, found, status.update, console.print)
            results = PARTS[name].measure(options)
        page = PARTS[name].page(results)
        report.show(console, page)
        console.print(f"{name}: {time.perf_counter() - start:.0f} s")
        if flags.trial or flags.only_ours:
            console.print("Not written: only a full run replaces the tables.")
            continue
        for path in report.write(name, page, results, report.setting(flags.rounds, states)):
            console.print(f"written: {path.relative_to(path.parents[2])}")


if __name__ == "__main__":
    main()
