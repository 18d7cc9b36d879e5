"""How much memory a call takes, measured in a process that does nothing else."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from bestresponse._peak_memory import PeakMemory

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",  # tensors are pages of their own, given back when freed
    "MALLOC_TRIM_THRESHOLD_": "0",
    "KINETO_LOG_LEVEL": "5",
}


def peak(run: Callable[[], object]) -> dict[str, int | None]:
    """Bytes that a call takes at its peak: `resident` of the process, `allocated` by PyTorch."""
    torch.set_num_threads(1)
    run()  # kernels are loaded and caches filled
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    memory = PeakMemory(())
    run()
    return {"resident": memory.read(), "allocated": _allocated(run)}


def _allocated(run: Callable[[], object]) -> int:
    """The peak sum of what PyTorch's allocator gave out."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = profiled.profiler.kineto_results.events()
    current = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            current += event.nbytes()
            highest = max(highest, current)
    return highest
