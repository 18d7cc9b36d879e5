"""Problems with known hypergradients, made side by side and kept until their code changes."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks import trajectory
from benchmarks.problems import DATA
from bestresponse.apps.experiments.inverse import _accuracy_problems, _explicit
from bestresponse.apps.experiments.inverse._accuracy_problems import AccuracyProblem, Point

STEPS = 10  # outer steps of a trajectory
SOURCE = DATA / "mnist"

_KEPT = Path(__file__).parent / ".references"
_MAKERS: dict[str, Callable[..., AccuracyProblem]] = {
    "logistic": _accuracy_problems.logistic,
    "mlp": _accuracy_problems.mlp,
}


def prepare(problems: Iterable[tuple[str, int]], walks: Iterable[tuple[str, int]]) -> None:
    """Make what is missing, on two cores: problems, then trajectories; each by name and seed."""
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for make, wanted in ((problem, problems), (walk, walks)):
            list(pool.map(_quietly, *zip(*((make, *which) for which in wanted), strict=True)))


def problem(name: str, seed: int) -> AccuracyProblem:
    """A problem at its best response; made if it is not kept."""
    return _kept(f"{name}-{seed}", lambda: _MAKERS[name](str(SOURCE), seed))


def walk(name: str, seed: int) -> list[Point]:
    """The points of its trajectory; made if they are not kept."""
    return _kept(f"{name}-{seed}-walk", lambda: trajectory.follow(problem(name, seed), STEPS))


def _quietly(make: Callable[[str, int], object], name: str, seed: int) -> None:
    """In a process of its own; the answer comes through the file."""
    torch.set_num_threads(1)
    make(name, seed)


def _kept(name: str, make: Callable[[], object]) -> Any:
    sources = "".join(map(inspect.getsource, (_accuracy_problems, _explicit, trajectory)))
    made_by = hashlib.sha256(sources.encode()).hexdigest()[:12]
    path = _KEPT / f"{name}-{made_by}.pt"
    if not path.exists():
        _KEPT.mkdir(exist_ok=True)
        for stale in _KEPT.glob(f"{name}-" + "?" * 12 + ".pt"):
            stale.unlink()
        torch.save(make(), path)
    return torch.load(path, weights_only=False)
