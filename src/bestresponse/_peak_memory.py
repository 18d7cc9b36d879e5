"""How much memory a stretch of code takes at its peak."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Bytes above what was in use when this was made, at the highest point since.

    On CUDA what PyTorch allocated, on the given devices together. On the CPU the resident memory of
    the process, in steps of pages, other threads included; memory that was freed before and is
    used again does not count. None where the system does not tell (not Linux).

    Args:
        devices: indices of CUDA devices; empty for the CPU.

    Example:
        >>> peak = PeakMemory()
        >>> _ = torch.ones(10_000_000)  # 40 MB, which nobody keeps
        >>> peak.read() is None or peak.read() > 30_000_000
        True
    """

    def __init__(self, devices: Sequence[int] = ()) -> None:
        self._devices = tuple(devices)
        for device in self._devices:
            torch.cuda.reset_peak_memory_stats(device)
        if not self._devices:
            _reset_resident_peak()
        self._before = self._level("VmRSS", torch.cuda.memory_allocated)

    def read(self) -> int | None:
        """The peak so far, in bytes."""
        peak = self.level()
        if peak is None or self._before is None:
            return None
        return max(0, peak - self._before)

    def level(self) -> int | None:
        """The peak so far in bytes, with what was in use before: on the CPU the whole process."""
        return self._level("VmHWM", torch.cuda.max_memory_allocated)

    def _level(self, field: str, of_device: object) -> int | None:
        if self._devices:
            assert callable(of_device)
            return sum(of_device(device) for device in self._devices)
        return _resident(field)


def _reset_resident_peak() -> None:
    try:
        _RESET.write_text("5")
    except OSError:
        pass  # the peak since the process began is then an upper bound


def _resident(field: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith(field + ":")]
    return 1024 * int(kilobytes[0]) if kilobytes else None
