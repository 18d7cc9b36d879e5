"""Every example runs, and ends in what it promises."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))

PROMISES = {
    # the figure in the last line, and the range in which it must lie
    "check_hypergradient": (r"agrees with retraining to (\S+) %", 0.0, 0.2),
    "exact_hypergradient": (r"relative error (\S+);", 0.1, 0.5),
    "learned_learning_rate": (r"validation loss after 10 steps (\S+)", 0.0, 1.2),
    "outer_lbfgs": (r"validation loss (\S+)", 0.0, 0.06),
    "weight_decay_per_weight": (r"test accuracy (\S+)", 0.9, 1.0),
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path):
    run = subprocess.run(
        [sys.executable, "-W", "error", str(path)], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    pattern, low, high = PROMISES[path.stem]
    assert low <= float(re.findall(pattern, run.stdout)[-1]) <= high


def test_exact_example_is_exact():
    path = next(path for path in EXAMPLES if path.stem == "exact_hypergradient")
    run = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=True)
    errors = [float(value) for value in re.findall(r"relative error (\S+);", run.stdout)]
    assert max(errors[:2]) < 1e-12 < 1e-4 < min(errors[2:])
