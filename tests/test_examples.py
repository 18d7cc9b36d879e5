"""Every example runs, and ends in what it promises."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))

PROMISES = {
    # the figure in the last line, and the range in which it must lie
    "augmentation": (r"learned ranges: test error \S+ %, (\S+)% lower", 15.0, 60.0),
    "check_hypergradient": (r"agrees with retraining to (\S+) %", 0.0, 0.2),
    "data_cleaning": (r"wrong labels found: AUROC (\S+)$", 0.92, 1.0),
    "distillation": (r"ten learned images: test accuracy (\S+)", 0.93, 0.99),
    "exact_hypergradient": (r"relative error (\S+);", 0.1, 0.5),
    "hypernetwork": (r"the predicted curve is off by at most (\S+) %", 0.0, 5.0),
    "jacnet_calibration": (r"lower by a factor of (\S+)", 20.0, 1e3),
    "jacnet_colours": (r"learned map: distance (\S+)", 0.0, 0.06),
    "jacnet_concrete": (r"monotone network: (\S+) MPa$", 0.0, 6.0),
    "jacnet_pressure": (r"largest error (\S+) K", 0.0, 1e-9),
    "jacnet_terrain": (r"heights from slopes, error (\S+)", 0.0, 0.4),
    "language_dropout": (r"with it: (\S+) % lower", 1.0, 60.0),
    "learned_learning_rate": (r"validation loss after 10 steps (\S+)", 0.0, 1.2),
    "learned_response": (r"do: (\S+) times fewer", 1.9, 10.0),
    "outer_lbfgs": (r"validation loss (\S+)", 0.0, 0.06),
    "overfit_validation": (r"above test accuracy by (\S+)", 0.05, 0.3),
    "self_tuning": (r"self-tuned: test loss (\S+)$", 0.05, 0.2),
    "weight_decay_per_weight": (r"test accuracy (\S+)", 0.9, 1.0),
}


def exact_one_is_exact(printed):
    errors = [float(value) for value in re.findall(r"relative error (\S+);", printed)]
    assert max(errors[:2]) < 1e-12 < 1e-4 < min(errors[2:])


def outer_l_bfgs_beats_the_stochastic_run(printed):
    stochastic, exact = map(float, re.findall(r"validation loss (\S+)", printed)[-2:])
    assert exact < stochastic


def learned_images_teach_more_than_mean_ones(printed):
    full, means, learned = map(float, re.findall(r"test accuracy (\S+)", printed))
    assert means + 0.03 < learned < full + 0.02


MORE = {
    "exact_hypergradient": exact_one_is_exact,
    "outer_lbfgs": outer_l_bfgs_beats_the_stochastic_run,
    "distillation": learned_images_teach_more_than_mean_ones,
}
DATA = {"jacnet_concrete": Path(__file__).parents[2] / "shared" / "data" / "uci" / "concrete"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path):
    arguments = [str(DATA[path.stem])] if path.stem in DATA else []
    run = subprocess.run(
        [sys.executable, "-W", "error", str(path), *arguments],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    if run.stderr.startswith("Skipped: "):
        pytest.skip(run.stderr.strip())
    assert run.returncode == 0, run.stderr
    for picture in re.findall(r"picture: ([^\s;)]+)", run.stdout):
        with Image.open(tmp_path / picture) as image:
            assert image.size[0] > 400
    pattern, low, high = PROMISES[path.stem]
    assert low <= float(re.findall(pattern, run.stdout, re.MULTILINE)[-1]) <= high
    if path.stem in MORE:
        MORE[path.stem](run.stdout)
