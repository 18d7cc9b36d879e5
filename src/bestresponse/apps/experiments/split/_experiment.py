"""`bestresponse experiment split`: how many examples tuning should get."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, ClassVar

from bestresponse._errors import InputError
from bestresponse.apps import _options
from bestresponse.apps._examples import stream_seed
from bestresponse.apps.experiments._experiment import (
    Experiment,
    Findings,
    Pulse,
    check_distinct,
    check_seeds,
)
from bestresponse.apps.experiments._threads import one_thread
from bestresponse.apps.experiments.split import _report as report
from bestresponse.apps.experiments.split._data import Pool
from bestresponse.apps.experiments.split._fit import LEAST, MOST, cell
from bestresponse.apps.experiments.split._report import PERS, Size


@dataclass(frozen=True)
class ValidationShare(Experiment):
    """Test error against the share of the examples that goes to validation.

    Logistic regression with one decay, one for each layer's tensor, or one for each weight, tuned
    on the validation part; then, with the decays as learned, trained again on all examples. Inner
    problems are convex and solved to the end.
    """

    data: str = "digits"
    """Labelled data: `digits` (bundled), or a file or folder as in `bestresponse tune`."""
    sizes: tuple[int, ...] = (100, 200)
    """Examples for training and validation together."""
    shares: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)
    """Of them for validation; with 0 nothing is tuned."""
    decay: float = 1e-3
    """Every decay, to begin with."""
    hypergradients: int = 20
    """For each tuning, by L-BFGS, at the most."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the draw of the examples; figures are means over them."""

    verb: ClassVar[str] = "split"
    title: ClassVar[str] = "How many examples for validation"

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        _options.check_positive(self, "hypergradients")
        check_seeds(self.seeds)
        if not self.sizes or len(set(self.sizes)) < len(self.sizes) or min(self.sizes) < 1:
            words = " ".join(map(str, self.sizes)) or "empty"
            raise InputError(f"--sizes is {words}; give one or more different positive numbers.")
        if not LEAST <= self.decay <= MOST:
            raise InputError(f"--decay is {self.decay}; give a number from {LEAST} to {MOST:g}.")
        check_distinct("--shares", self.shares, "share")
        for share in self.shares:
            if not 0 <= share < 1:
                raise InputError(f"--shares has {share}; give numbers from 0 to below 1.")
            for size in self.sizes:
                if round(share * size) == size or (share and not round(share * size)):
                    raise InputError(
                        f"--shares {share} of {size} examples leaves a part empty; give more "
                        "examples or another share."
                    )

    @property
    def steps(self) -> int:
        """A tuning for each size, seed, share and kind of decay."""
        return len(self.sizes) * len(self.seeds) * len(self.shares) * len(PERS)

    def measure(self, pulse: Pulse) -> Findings:
        """All tunings, on one thread."""
        pool = Pool.of(self.data, max(self.sizes))
        with one_thread():
            sizes = [
                Size(size, [c for seed in self.seeds for c in self._cells(pool, size, seed, pulse)])
                for size in self.sizes
            ]
        curves = {"cells": [c for size in sizes for c in size.cells]}
        sections = report.sections(sizes, self.shares, pool.name)
        headline = report.headline(sizes, self.shares)
        return Findings(report.verdict(sizes, self.shares), headline, sections, curves)

    def _cells(self, pool: Pool, size: int, seed: int, pulse: Pulse) -> list[dict[str, Any]]:
        """Of one size and seed."""
        budget = pool.budget(size, stream_seed(seed, "split"))
        cells = []
        for share, per in product(self.shares, PERS):
            tuning = partial(cell, budget, share, per, self.decay, self.hypergradients)
            name = f"{size} examples, seed {seed}, share {share:g}, {PERS[per]}"
            where = {"size": size, "seed": seed, "share": share, "per": per}
            cells.append(where | pulse.once(name, tuning))
        return cells
