"""`bestresponse experiment hypernet-global`: a validation curve from one learned response."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from bestresponse import response
from bestresponse._errors import InputError
from bestresponse.apps import _options
from bestresponse.apps.experiments._experiment import Findings, Pulse
from bestresponse.apps.experiments._threads import one_thread
from bestresponse.apps.experiments.hypernet import _global_report as report
from bestresponse.apps.experiments.hypernet._data import Roles
from bestresponse.apps.experiments.hypernet._global_fit import learned
from bestresponse.apps.experiments.hypernet._settings import OfFewDecays, hypernetwork

PRESETS = {"code": response.CODE_GLOBAL, "paper": response.PAPER_GLOBAL}


@dataclass(frozen=True)
class HypernetGlobal(OfFewDecays):
    """One decay: the validation curve of a hypernetwork, beside that of cross-validation.

    A network with one hidden layer of 50 learns the weights of a linear model for every decay of
    a range at once (Lorraine and Duvenaud, 2018). Its validation losses are a curve that can be
    differentiated; cross-validation trains a model for each point of it.
    """

    iterations: int = 6000
    """Steps of Adam on the hypernetwork."""
    end: float = 0.01
    """Of its learning rate, the share that is left at the end; 1 keeps it, as paper and code do."""

    verb: ClassVar[str] = "hypernet-global"
    title: ClassVar[str] = "Hypernetworks: a predicted validation curve"

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        super().check(given)
        _options.check_positive(self, "iterations", "end")
        if self.end > 1:
            raise InputError(f"--end is {self.end}; give a share of at most 1.")

    @property
    def steps(self) -> int:
        """A grid and a hypernetwork for each seed."""
        return 2 * len(self.seeds)

    def measure(self, pulse: Pulse) -> Findings:
        """Seed by seed, on one thread."""
        roles, grid = self.roles(), self.values.tolist()
        grids, runs = list[dict[str, Any]](), list[dict[str, Any]]()
        with one_thread():
            for seed in self.seeds:
                work = partial(self.cross_validated, roles, seed)
                grids.append(pulse.once(f"seed {seed}, cross-validation", work))
                work = partial(self._run, roles, seed)
                runs.append(pulse.once(f"seed {seed}, hypernetwork", work))
        headline = report.headline(runs, grids)
        return Findings(
            report.verdict(headline),
            headline,
            report.sections(runs, grids, grid, self.seeds, self.objective),
            {"grid": grid, "cross_validated": grids, "hypernetworks": runs},
        )

    def _run(self, roles: Roles, seed: int) -> dict[str, Any]:
        problem, preset = self.problem(roles[0], "model", 0.0, seed), PRESETS[self.objective]
        net = hypernetwork(problem, seed, **preset.settings)
        pace = preset.lr, self.iterations, self.end
        return learned(problem, net, pace, self.values, self.retraining, roles)
