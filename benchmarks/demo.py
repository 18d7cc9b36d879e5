"""`python -m benchmarks.demo`: the README's demo over several seeds, as one table."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from rich.console import Console

from bestresponse.apps._outcome import Outcome
from bestresponse.apps.tune import Tune

_ROWS = ("untuned", "validation_only", "train_and_validation", "filtered", "tuned")


def main() -> None:
    """Run every seed and print means with their spread."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--tune", default="weights")
    parser.add_argument("--corrupt", type=float, default=0.4)
    parser.add_argument("--validation", type=int, default=100)
    parser.add_argument("--write", type=Path, help="write the figures as JSON")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = [_run(flags, seed, Path(folder) / str(seed)) for seed in flags.seeds]
    table = _table([result.headline for result in results])
    for line in table:
        print(line)
    if flags.write:
        flags.write.write_text(json.dumps([result.headline for result in results], indent=1) + "\n")


def _run(flags: argparse.Namespace, seed: int, out: Path) -> Outcome:
    settings = Tune(
        data=flags.data,
        tune=flags.tune,
        corrupt=flags.corrupt,
        validation=flags.validation,
        seed=seed,
        out=out,
    )
    return settings.run(Console(quiet=True))


def _table(headlines: list[dict[str, float]]) -> list[str]:
    lines = ["| trained on | test accuracy, mean | least to most |", "|---|---|---|"]
    for row in _ROWS:
        lines.append(_line(row.replace("_", " "), [h[f"{row}_test_accuracy"] for h in headlines]))
    lines.append(_line("AUROC of flipped labels", [h["auroc"] for h in headlines]))
    ratios = [h["tuned_seconds"] / h["untuned_seconds"] for h in headlines]
    lines.append(_line("time, tuned over untuned", ratios))
    return lines


def _line(name: str, values: list[float]) -> str:
    mean = statistics.mean(values)
    return f"| {name} | {mean:.4f} | {min(values):.4f} to {max(values):.4f} |"


if __name__ == "__main__":
    main()
