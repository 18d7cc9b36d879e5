"""The peak memory of a call beyond what was there before it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import bestresponse as br
from benchmarks import footprint
from benchmarks.options import Options
from benchmarks.problems import DECAYS, PROBLEMS, Case, make_case
from benchmarks.report import Page, Table, Target

_MB = 1e6
_PROBLEMS = ("mlp", "conv")
_STEPS = 20
_LIMITS = {
    "solve": {"mlp": 26, "conv": 74},
    "unroll": {"mlp": 90, "conv": 135},
}
_TEXT = (
    "Peak memory above the level before, in MB: of a plain training gradient, and of a whole "
    "nested call and its `backward()`. Each figure in a process of its own: the call runs once, "
    "what it freed is given back to the system, then it runs again. *Resident* is the growth of "
    "the process's peak resident set (`VmHWM`); *allocated* is the peak sum of what PyTorch's "
    "allocator gave out, which knows no rounding to pages and nothing of other libraries."
)


@dataclass(frozen=True)
class Peak:
    """What one call takes on one problem, in bytes."""

    problem: str
    call: str
    resident: int
    allocated: int


def calls(case: Case) -> dict[str, Callable[[], None]]:
    """By name: what is measured on a problem."""
    solver = br.CG(max_steps=_STEPS)
    unrolled = {
        f"unroll {_STEPS} steps, checkpoint={every}": br.Unroll(
            br.optim.SGD(1e-3), _STEPS, checkpoint=every
        )
        for every in (1, 2, 4)
    }
    methods: dict[str, br.Implicit | br.Unroll] = {
        "CG 20, Hessian": br.Implicit(solver, damping=case.damping),
        "CG 20, Gauss-Newton": br.Implicit(
            solver, damping=case.damping, curvature=case.gauss_newton()
        ),
        **unrolled,
    }
    return {"plain gradient": _plain(case)} | {
        name: _nested(case, method) for name, method in methods.items()
    }


def measure(options: Options) -> list[Peak]:
    """Every call on both problems, each in a fresh process."""
    peaks = []
    for name in _PROBLEMS:
        for call in calls(make_case(PROBLEMS[name], DECAYS, options.notice)):
            options.say(f"memory, {name}, {call}")
            peaks.append(Peak(name, call, **in_fresh_process("benchmarks.memory", name, call)))
    return peaks


def in_fresh_process(module: str, *arguments: str) -> dict[str, int]:
    """What `python -m module arguments` prints, in an environment where freed memory goes back."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | footprint.ENVIRONMENT,
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def page(results: Sequence[Peak]) -> Page:
    """One row a call."""
    names = dict.fromkeys(peak.call for peak in results)
    header = ["call", "library", *(PROBLEMS[name].title for name in _PROBLEMS)]
    rows = []
    for call in names:
        cells = [
            f"{p.resident / _MB:.1f} resident, {p.allocated / _MB:.1f} allocated"
            for p in results
            if p.call == call
        ]
        rows.append([call, "PyTorch" if call == "plain gradient" else "bestresponse", *cells])
    return Page("Memory of a call", _TEXT, [Table("Peak, MB", header, rows)], _targets(results))


def _targets(results: Sequence[Peak]) -> list[Target]:
    targets = []
    for peak in results:
        kind = "unroll" if peak.call.startswith("unroll") else "solve"
        if peak.call != "plain gradient":
            limit = _LIMITS[kind][peak.problem]
            targets.append(Target(f"{peak.problem}, {peak.call}, MB", peak.resident / _MB, limit))
    return targets


def _plain(case: Case) -> Callable[[], None]:
    gradient = case.plain_gradient()

    def run() -> None:
        gradient()
        case.model.zero_grad()

    return run


def _nested(case: Case, method: br.Implicit | br.Unroll) -> Callable[[], None]:
    nested = case.nested(method)

    def run() -> None:
        nested(case.batch, case.outer_batch)[0].backward()
        case.hyper.zero_grad()

    return run


if __name__ == "__main__":
    which, what = sys.argv[1:]
    chosen = calls(make_case(PROBLEMS[which], DECAYS, lambda words: None))[what]
    print(json.dumps(footprint.peak(chosen)))
