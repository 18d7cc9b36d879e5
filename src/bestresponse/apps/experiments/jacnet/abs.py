"""`bestresponse experiment jacnet-abs`: a Lipschitz function from five points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bestresponse import jacnet
from bestresponse.apps.experiments._experiment import Findings, Pulse
from bestresponse.apps.experiments.jacnet import _paper as paper
from bestresponse.apps.experiments.jacnet import _report as report
from bestresponse.apps.experiments.jacnet._paper import Contender
from bestresponse.apps.experiments.jacnet._settings import OfThePaper

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
class JacNetAbs(OfThePaper):
    """The paper's second experiment: |x| learned from five points by a Jacobian within [−1, 1].

    Exactly its setting, on 20 seeds, beside an unconstrained Jacobian and a plain network; and the
    same with this library's structure.
    """

    verb: ClassVar[str] = "jacnet-abs"
    title: ClassVar[str] = "JacNet: a Lipschitz function"

    contenders = CONTENDERS

    @staticmethod
    def target(x: Tensor) -> Tensor:
        """The function that is learned."""
        return x.abs()

    def measure(self, pulse: Pulse) -> Findings:
        """Train everything."""
        runs = self.trained(pulse)
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
            report.functions(runs, CONTENDERS, self.target, 0, inverse=False),
            report.risks(runs, CONTENDERS, "paper"),
            report.failures(runs, PAPER, self.target, worst=min(4, self.seeds)),
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
