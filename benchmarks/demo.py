"""`python -m benchmarks.demo`: any `bestresponse tune` over several seeds, as one table.

Without flags it is the README's demo. All flags of `bestresponse tune` are understood, but for
those of a single run (`--seed`, `--out`, `--overwrite`, `--resume`).
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from bestresponse._errors import InputError
from bestresponse.apps.tune import Tune
from bestresponse.apps.tune._outcome import Outcome
from bestresponse.apps.tune._rows import LABELS

DEMO = ("--tune", "weights", "--corrupt", "0.4", "--validation", "100")
_OF_ONE_RUN = {"seed", "out", "overwrite", "resume"}
_FIGURES = {
    # name in the headline: what it is called in the table
    "auroc": "AUROC of flipped labels",
    "relative_seconds": "time, tuned over untuned",
    "relative_peak_memory": "peak memory, tuned over untuned",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every seed and print means with their spread."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.demo", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--write", type=Path, help="write the figures as JSON")
    own, flags = parser.parse_known_args(arguments)
    flags = flags or list(DEMO)
    try:
        settings = tune_settings(flags)
        headlines = [_run(settings, seed).headline for seed in own.seeds]
    except InputError as error:
        parser.error(str(error))
    for line in table(headlines):
        print(line)
    if own.write:
        content = {"command": shlex.join(["bestresponse", "tune", *flags]), "seeds": own.seeds,
                   "means": means(headlines), "headlines": headlines}  # fmt: skip
        own.write.write_text(json.dumps(content, indent=1) + "\n")


def tune_settings(flags: Sequence[str]) -> Tune:
    """The settings of all runs, from flags of `bestresponse tune`."""
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    settings = tyro.cli(Tune, args=list(flags), prog="python -m benchmarks.demo", config=config)
    settings.check()
    for field in fields(settings):
        if field.name in _OF_ONE_RUN and getattr(settings, field.name) != field.default:
            raise InputError(
                f"--{field.name} is of a single run; leave it out, --seeds and --write say the "
                "same of all runs."
            )
    return settings


def _run(settings: Tune, seed: int) -> Outcome:
    """One run, whose folder nobody needs."""
    with tempfile.TemporaryDirectory() as folder:
        one = replace(settings, seed=seed, out=Path(folder) / "run")
        result = one.run(Console(quiet=True))
    print(f"seed {seed}: {result.verdict}", file=sys.stderr)
    return result


def table(headlines: Sequence[dict[str, Any]]) -> list[str]:
    """Test accuracies of the rows there are, then the figures there are, in Markdown."""
    lines = ["| | mean | deviation | least to most |", "|---|---|---|---|"]
    names = {f"{row}_test_accuracy": f"test accuracy, {said}" for row, said in LABELS.items()}
    for key, said in (names | _FIGURES).items():
        values = [headline[key] for headline in headlines if key in headline]
        if values:
            lines.append(
                f"| {said} | {statistics.mean(values):.4f} | {_deviation(values):.4f} | "
                f"{min(values):.4f} to {max(values):.4f} |"
            )
    return lines


def means(headlines: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Mean and deviation of every figure."""
    values = {key: [float(each[key]) for each in headlines] for key in headlines[0]}
    return {key: [statistics.mean(each), _deviation(each)] for key, each in values.items()}


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
