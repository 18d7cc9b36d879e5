"""`bestresponse experiment hypernet-local`: λ follows a response that is learned around it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from bestresponse.apps import _options
from bestresponse.apps.experiments._experiment import Findings, Pulse, check_distinct
from bestresponse.apps.experiments._threads import one_thread
from bestresponse.apps.experiments.hypernet import _local_report as report
from bestresponse.apps.experiments.hypernet._data import Roles
from bestresponse.apps.experiments.hypernet._local_fit import VARIANTS, Pace, followed
from bestresponse.apps.experiments.hypernet._settings import OfFewDecays, check_logarithms


@dataclass(frozen=True)
class HypernetLocal(OfFewDecays):
    """One decay: a linear hypernetwork learned around λ, which moves along with it.

    From both sides, with three spreads of the samples: the default, the paper's σ² = 10⁻⁵, and
    none, as in the released code. Cross-validation says where the optimum is. A response without
    spread learns no slope, and λ ends beside the optimum.
    """

    starts: tuple[float, ...] = (-3.5, 3.5)
    """Where λ starts."""
    iterations: int = 4000
    """Steps on the hypernetwork and on λ, in turns."""
    lr: float = 1e-3
    """Of Adam on the hypernetwork."""
    hyper_lr: float = 1e-2
    """Of Adam on λ."""
    batch: int = 500
    """Validation images in a step on λ."""

    verb: ClassVar[str] = "hypernet-local"
    title: ClassVar[str] = "Hypernetworks: a response learned along the way"

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        super().check(given)
        _options.check_positive(self, "iterations", "lr", "hyper_lr", "batch")
        check_distinct("--starts", self.starts, "value")
        check_logarithms("--starts", *self.starts)

    @property
    def steps(self) -> int:
        """For each seed a grid, and a run from each start with each spread."""
        return len(self.seeds) * (1 + len(self.starts) * len(VARIANTS))

    def measure(self, pulse: Pulse) -> Findings:
        """Seed by seed, on one thread."""
        roles = self.roles()
        grids, runs = list[dict[str, Any]](), list[dict[str, Any]]()
        with one_thread():
            for seed in self.seeds:
                work = partial(self.cross_validated, roles, seed)
                grids.append(pulse.once(f"seed {seed}, cross-validation", work))
                for variant in VARIANTS:
                    for start in self.starts:
                        where = {"seed": seed, "variant": variant, "start": start,
                                 "optimum": grids[-1]["best"]}  # fmt: skip
                        name = f"seed {seed}, {VARIANTS[variant].label}, from {start:g}"
                        run = partial(self._run, roles, seed, variant, start)
                        runs.append(where | pulse.once(name, run))
        headline = report.headline(runs, grids)
        return Findings(
            report.verdict(runs),
            headline,
            report.sections(runs, grids, self.values.tolist()),
            {"cross_validated": grids, "runs": runs},
        )

    def _run(self, roles: Roles, seed: int, variant: str, start: float) -> dict[str, Any]:
        problem = self.problem(roles[0], "model", start, seed)
        pace = Pace(self.iterations, self.lr, self.hyper_lr, self.batch)
        return followed(problem, VARIANTS[variant], pace, self.retraining, roles, seed)
