"""A run that was killed and resumed gives the same result, bit for bit."""

import json
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from killable import run_and_kill, run_to_the_end, warm_up

SETTINGS = dict(
    tune="weights,decay,augment,dropout", refit=True, corrupt=0.3, validation=60, steps=160,
    interval=5, warmup=5, evaluations=8, checkpoint_seconds=0.02, seed=3,
)  # fmt: skip


def without_times(path):
    """`result.json` without what it cost."""
    result = json.loads((path / "result.json").read_text())
    for row in result["rows"]:
        del row["seconds"]
    cost = re.compile("seconds|memory")
    result["headline"] = {k: v for k, v in result["headline"].items() if not cost.search(k)}
    return result


def metrics(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(one, other):
    assert without_times(one) == without_times(other)
    assert metrics(one) == metrics(other)
    for name in ("model.safetensors", "hyper.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.parametrize(
    "method", [{}, {"method": "unroll", "unroll_steps": 2}], ids=["implicit", "unroll"]
)
def test_killed_at_random_points(tmp_path, method):
    """Ten kills for each method, twenty in all."""
    settings = SETTINGS | method
    warm_up()
    start = time.perf_counter()
    run_to_the_end(settings | {"out": tmp_path / "whole"})
    whole = time.perf_counter() - start
    chance, kills = random.Random(0), 0
    broken = tmp_path / "broken"
    while kills < 10:
        fresh = not (broken / "settings.json").exists()
        begin = settings | {"out": broken} if fresh else {"resume": broken}
        kills += run_and_kill(begin, chance.uniform(0.0, 0.8 * whole))
        if (broken / "result.json").exists():
            assert_same_run(tmp_path / "whole", broken)
            for file in broken.iterdir():  # start over, with what the dice say next
                file.unlink()
            broken.rmdir()
    if not (broken / "settings.json").exists():
        run_to_the_end(settings | {"out": broken})
    else:
        run_to_the_end({"resume": broken})
    assert_same_run(tmp_path / "whole", broken)
    assert not [path for path in tmp_path.rglob(".*") if (path / "settings.json").exists()
                and path.parent == broken]  # fmt: skip
    assert load_file(broken / "hyper.safetensors")


def command(*arguments):
    return [sys.executable, "-m", "bestresponse.cli", "tune", *arguments]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_write_a_checkpoint_and_say_how_to_go_on(tmp_path, number, code):
    flags = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in SETTINGS.items()
        if name != "checkpoint_seconds"
    ]
    flags[flags.index("--steps=160")] = "--steps=700"
    out = tmp_path / "stopped"
    process = subprocess.Popen(
        command(*flags, "--out", str(out)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (out / "settings.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.4)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"bestresponse tune --resume {out}" in errors
    assert "Traceback" not in errors
    assert (out / "checkpoint.pt").exists() and not (out / "result.json").exists()
    subprocess.run(command("--resume", str(out)), check=True, capture_output=True, timeout=120)
    subprocess.run(
        command(*flags, "--out", str(tmp_path / "whole")),
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert_same_run(tmp_path / "whole", out)


def test_a_checkpoint_runs_no_code(tmp_path):
    import pickle

    import torch

    from bestresponse import InputError
    from bestresponse.apps._run import RunFolder

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    folder = RunFolder.create(tmp_path / "run", {"settings.json": {}}, overwrite=False)
    torch.save({"metrics_bytes": 0, "state": Evil()}, tmp_path / "run" / "checkpoint.pt",
               pickle_module=pickle)  # fmt: skip
    with pytest.raises(InputError, match="damaged"):
        folder.load_checkpoint()
    assert not (tmp_path / "owned").exists()
