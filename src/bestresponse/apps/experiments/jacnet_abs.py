"""`bestresponse experiment jacnet-abs`: a Lipschitz function from five points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from bestresponse import jacnet
from bestresponse.apps import _options
from bestresponse.apps.experiments import _jacnet_paper as paper
from bestresponse.apps.experiments import _jacnet_report as report
from bestresponse.apps.experiments._experiment import Experiment, Findings, Pulse
from bestresponse.apps.experiments._jacnet_paper import Contender, Trained

PAPER = Contender(
    "paper", "paper: ∫ tanh j",
    lambda: jacnet.PathIntegral(1, 1, activation=jacnet.Tanh(1.0)), annealed=True,
)  # fmt: skip
CONTENDERS = (
    PAPER,
    Contender("default", "Lipschitz1d()", lambda: jacnet.Lipschitz1d()),
    Contender("free", "unconstrained Jacobian",
              lambda: jacnet.PathIntegral(1, 1, activation=jacnet.Free())),
    Contender("direct", "plain network", paper.perceptron),
)  # fmt: skip
_HEADINGS = ("function", "training risk", "test risk, [−2, 2]", "largest slope, any seed")


@dataclass(frozen=True)
class JacNetAbs(Experiment):
    """The paper's second experiment: |x| learned from five points by a Jacobian within [−1, 1].

    Exactly its setting, on 20 seeds, beside an unconstrained Jacobian and a plain network; and the
    same with this library's structure.
    """

    seeds: int = 20
    """Of the points and of the initial weights: 0, 1, ..."""
    iterations: int = 50
    """Of Adam."""

    verb: ClassVar[str] = "jacnet-abs"
    title: ClassVar[str] = "JacNet: a Lipschitz function"

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        _options.check_positive(self, "seeds", "iterations")

    @property
    def steps(self) -> int:
        """Each contender on each seed."""
        return self.seeds * len(CONTENDERS)

    def measure(self, pulse: Pulse) -> Findings:
        """Train everything."""
        runs: dict[str, list[Trained]] = {contender.key: [] for contender in CONTENDERS}
        for contender in CONTENDERS:
            for seed in range(self.seeds):
                runs[contender.key].append(paper.train(contender, torch.abs, seed, self.iterations))
                pulse.step(f"{contender.label}, seed {seed}")
        medians = {key: paper.median([one.test_risk for one in some]) for key, some in runs.items()}
        headline: dict[str, float | None] = {
            "median_train_risk": paper.median([one.train_risk for one in runs["paper"]]),
            "median_test_risk": medians["paper"],
            "default_median_test_risk": medians["default"],
            "max_inverse_error": None,  # |x| has none
        }
        failed = sum(one.test_risk > 0.5 for one in runs["paper"])
        verdict = (
            f"Over {self.seeds} seeds the Lipschitz structure has a median test risk of "
            f"{medians['paper']:.3g}, the unconstrained Jacobian {medians['free']:.3g}; on "
            f"{failed} seeds the structure misses one of the two sides."
        )
        sections = (
            report.functions(runs, CONTENDERS, torch.abs, 0, inverse=False),
            report.risks(runs, CONTENDERS, "paper"),
            report.failures(runs, PAPER, torch.abs, worst=min(4, self.seeds)),
            report.table(_rows(runs), _HEADINGS, "Medians [10 %, 90 %] over the seeds."),
        )
        return Findings(verdict, headline, sections, report.numbers(runs))


def _rows(runs: report.Runs) -> list[list[str]]:
    return [
        [
            contender.label,
            report.quantiles([one.train_risk for one in runs[contender.key]]),
            report.quantiles([one.test_risk for one in runs[contender.key]]),
            f"{max(max(map(abs, one.slopes())) for one in runs[contender.key]):.3g}",
        ]
        for contender in CONTENDERS
    ]
