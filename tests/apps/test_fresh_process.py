"""Measurements in a process of their own."""

import os

import pytest
import torch

from bestresponse.apps._fresh_process import in_fresh_process
from bestresponse.diagnostics import PeakMemory


def process(number):
    """What a process knows of itself, and the number doubled."""
    return [os.getpid(), torch.get_num_threads(), 2 * number]


def peak_of_freed(count):
    """Twice the same bytes: what the first time takes and frees is taken again the second."""
    peaks = []
    for _ in range(2):
        peak = PeakMemory()
        torch.ones(count, dtype=torch.uint8)
        peaks.append(peak.read())
    return peaks


def failing():
    raise ValueError("no such thing")


def test_it_is_another_process_with_as_many_threads():
    other, threads, answer = in_fresh_process(process, 21)
    assert other != os.getpid() and threads == torch.get_num_threads() and answer == 42


def test_memory_that_was_freed_before_counts_again():
    first, second = in_fresh_process(peak_of_freed, 30_000_000)
    if first is None:
        pytest.skip("The system does not tell.")
    assert second > 29_000_000 and abs(first - second) < 2_000_000


def test_what_fails_there_says_so_here():
    with pytest.raises(RuntimeError, match=r"failing failed:(.|\n)*no such thing"):
        in_fresh_process(failing)
