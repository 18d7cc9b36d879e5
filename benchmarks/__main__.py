"""`python -m benchmarks`: measure, show, write."""

from __future__ import annotations

import argparse

import torch
from rich.console import Console

from benchmarks import peers, report
from benchmarks.cost import Measurement, measure
from benchmarks.entrants import ours
from benchmarks.problems import HYPERS, PROBLEMS, make_case


def main() -> None:
    """Read the flags and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="timings of each row (7)")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--hyper", nargs="+", choices=HYPERS, default=list(HYPERS))
    parser.add_argument("--only-ours", action="store_true", help="leave the peers out")
    flags = parser.parse_args()

    torch.set_num_threads(1)
    console = Console()
    found, states = ({}, {}) if flags.only_ours else peers.available()
    for name, state in states.items():
        console.print(f"{name} {state}")
    results: dict[tuple[str, str], Measurement] = {}
    with console.status("") as status:
        for kind in flags.hyper:
            for name in flags.problems:
                status.update(f"{name}, λ = {HYPERS[kind]}")
                case = make_case(PROBLEMS[name], kind, console.print)
                entrants = [*ours(case), *(e for make in found.values() for e in make(case))]
                results[kind, name] = measure(case, entrants, flags.rounds)
    report.show(console, results)
    if len(results) < len(HYPERS) * len(PROBLEMS) or flags.only_ours:
        console.print("Not written: only a run of everything replaces the table.")
        return
    for path in report.write(results, report.setting(flags.rounds, states)):
        console.print(f"written: {path.relative_to(path.parents[2])}")


main()
