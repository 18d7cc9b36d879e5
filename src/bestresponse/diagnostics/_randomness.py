"""Randomness that no seed pins: the same closure at the same point, twice."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from bestresponse._problem import Problem
from bestresponse._tree import leaves_of

_ROUNDING = 100  # of the loss: kernels on an accelerator may add in any order


def losses(problem: Problem) -> tuple[float, float]:
    """The inner and the outer loss at the problem's point, which can be differentiated there."""
    params, hyper = leaves_of(problem.params), leaves_of(problem.hyper)
    inner = problem.inner_loss(params, hyper)
    torch.autograd.grad(inner, list(params.values()), allow_unused=True)
    return float(inner.detach()), float(problem.outer_gradients(problem.params).loss)


def unpinned(problem: Problem) -> str:
    """Which closure gives two values at one point and seed, in words; empty if none does."""
    streams = _streams()
    first = losses(problem)
    drawn = [name for name, state in _streams().items() if state != streams[name]]
    second = losses(problem)
    tolerance = _ROUNDING * max(torch.finfo(w.dtype).eps for w in problem.params.values())
    for role, one, other in zip(("inner", "outer"), first, second, strict=True):
        if abs(one - other) > min(tolerance, 1e-3) * max(abs(one), abs(other)):
            source = f", drawing from {' and '.join(drawn)}" if drawn else ""
            return (
                f"the {role} closure gives {one:.6g} and then {other:.6g} at the same weights "
                f"and seed{source}"
            )
    return ""


@contextmanager
def other_streams_kept() -> Iterator[None]:
    """Python's and NumPy's global random states are given back as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _streams() -> dict[str, str]:
    """The states of the global streams that PyTorch's seed does not reach, to be compared."""
    numpy = np.random.get_state(legacy=False)
    with np.printoptions(threshold=sys.maxsize):
        return {"NumPy": repr(numpy), "random": repr(random.getstate())}
