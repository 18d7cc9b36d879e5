"""The largest problem of the paper: one log decay for each of AlexNet's 23 million weights."""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import dataclass

import torch

import bestresponse as br
from benchmarks.memory import in_fresh_process
from benchmarks.options import Options
from benchmarks.problems import ALEXNET, DECAYS, Case, make_case
from benchmarks.report import Page, Table, Target

CURVATURES = ("Hessian", "Gauss-Newton")

_GB = 1e9
_LIMIT = 4  # GB
_PRODUCTS = 5
_TEXT = (
    "One hypergradient of one log decay for each weight and bias of a CIFAR AlexNet (23,272,266), "
    "batch 50, 5 products of CG, on two threads in a process of its own. Peak is the process's "
    "largest resident set, PyTorch itself included; seconds are wall-clock time."
)


@dataclass(frozen=True)
class Scale:
    """One call: seconds, and bytes at the start of it and at its peak."""

    curvature: str
    hyperparameters: int
    products: int
    seconds: float
    gradient_seconds: float
    before: int
    peak: int


def measure(options: Options) -> list[Scale]:
    """Both curvatures."""
    results = []
    for curvature in CURVATURES:
        options.say(f"AlexNet, {curvature}")
        results.append(Scale(curvature, **in_fresh_process("benchmarks.scale", curvature)))
    return results


def page(results: list[Scale]) -> Page:
    """One row a curvature."""
    header = ["curvature", "library", "products", "seconds", "a plain gradient", "before", "peak"]
    rows = [
        [
            s.curvature,
            "bestresponse",
            str(s.products),
            f"{s.seconds:.1f}",
            f"{s.gradient_seconds:.2f}",
            f"{s.before / _GB:.2f} GB",
            f"{s.peak / _GB:.2f} GB",
        ]
        for s in results
    ]
    targets = [Target(f"{s.curvature}, peak, GB", s.peak / _GB, _LIMIT) for s in results]
    return Page("23 million hyperparameters", _TEXT, [Table("AlexNet", header, rows)], targets)


def _measured(curvature: str) -> dict[str, float]:
    torch.set_num_threads(2)
    case = make_case(ALEXNET, DECAYS, lambda words: None)
    solver = br.CG(max_steps=_PRODUCTS)
    methods = {
        "Hessian": br.Implicit(solver, damping=case.damping),
        "Gauss-Newton": br.Implicit(solver, curvature=case.gauss_newton()),
    }
    method = methods[curvature]
    nested, before = case.nested(method), _peak()
    start = time.perf_counter()
    loss, report = nested(case.batch, case.outer_batch)
    loss.backward()
    spent, highest = time.perf_counter() - start, _peak()
    return {
        "hyperparameters": sum(leaf.numel() for leaf in case.hyper.parameters()),
        "products": report.products,
        "seconds": spent,
        "gradient_seconds": _gradient_seconds(case),
        "before": before,
        "peak": highest,
    }


def _gradient_seconds(case: Case) -> float:
    gradient = case.plain_gradient()
    gradient()
    start = time.perf_counter()
    gradient()
    return time.perf_counter() - start


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    print(json.dumps(_measured(sys.argv[1])))
