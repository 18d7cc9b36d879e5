"""Measurements in a process of their own, which knows of nothing else.

In one that has freed large blocks the C library keeps them for the next ones, which then take no
memory that could be seen; and whatever else a process keeps counts with every measurement in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

_ENVIRONMENT = {  # whatever this process was told
    "MALLOC_MMAP_THRESHOLD_": "65536",  # tensors are pages of their own, given back when freed
    "MALLOC_MMAP_MAX_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "0",
    "MALLOC_TOP_PAD_": "0",
}


def in_fresh_process(measure: Callable[..., Any], *given: Any) -> Any:
    """What the function returns in a new Python process, with as many threads as here.

    Args:
        measure: a function of a module; what it returns is ready for JSON.
        given: its arguments, ready for JSON, which turns tuples into lists.

    Raises:
        RuntimeError: if the other process fails, with what it said.
    """
    threads = torch.get_num_threads()
    asked = {
        "module": measure.__module__,
        "function": measure.__name__,
        "given": given,
        "threads": threads,
    }
    other = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(asked),
        env={
            **os.environ,
            **_ENVIRONMENT,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if other.returncode:
        raise RuntimeError(f"The process of {measure.__name__} failed:\n{other.stderr}")
    return json.loads(other.stdout)


def _answer(asked: dict[str, Any]) -> Any:
    """The other end."""
    torch.set_num_threads(asked["threads"])
    measure = getattr(import_module(asked["module"]), asked["function"])
    return measure(*asked["given"])


if __name__ == "__main__":
    print(json.dumps(_answer(json.load(sys.stdin))))
