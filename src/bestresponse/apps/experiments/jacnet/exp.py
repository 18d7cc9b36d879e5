"""`bestresponse experiment jacnet-exp`: an invertible function from five points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bestresponse import jacnet
from bestresponse.apps.experiments._experiment import Findings, Pulse
from bestresponse.apps.experiments.jacnet import _paper as paper
from bestresponse.apps.experiments.jacnet import _report as report
from bestresponse.apps.experiments.jacnet._paper import Contender, Trained
from bestresponse.apps.experiments.jacnet._settings import OfThePaper

_ONE = torch.ones(1, 1)
PAPER = Contender(
    "paper", "paper: ∫ j² + 10⁻⁴",
    lambda: jacnet.PathIntegral(1, 1, activation=jacnet.Gram(1e-4), value=_ONE), annealed=True,
)  # fmt: skip
DEFAULT = Contender(
    "default", "Monotone1d(Exp())", lambda: jacnet.Monotone1d(slope=jacnet.Exp(), value=1.0)
)
CONTENDERS = (
    PAPER,
    DEFAULT,
    Contender("softplus", "Monotone1d()", lambda: jacnet.Monotone1d(value=1.0)),
    Contender("free", "unconstrained Jacobian",
              lambda: jacnet.PathIntegral(1, 1, activation=jacnet.Free(), value=_ONE)),
    Contender("direct", "plain network", paper.perceptron),
)  # fmt: skip


@dataclass(frozen=True)
class JacNetExp(OfThePaper):
    """The paper's first experiment: eˣ learned from five points by a positive Jacobian, inverted.

    Exactly its setting, on 20 seeds, beside an unconstrained Jacobian and a plain network; and the
    same with this library's structures.
    """

    verb: ClassVar[str] = "jacnet-exp"
    title: ClassVar[str] = "JacNet: an invertible function"

    contenders = CONTENDERS

    @staticmethod
    def target(x: Tensor) -> Tensor:
        """The function that is learned."""
        return x.exp()

    def measure(self, pulse: Pulse) -> Findings:
        """Train everything, and invert what can be inverted."""
        runs = self.trained(pulse)
        inverse_error = max(paper.inverse_error(one.model) for one in runs["paper"])
        headline = _headline(runs, inverse_error)
        invertible = sum(one.slopes()[0] <= 0 for one in runs["free"])
        verdict = (
            f"Over {self.seeds} seeds the paper's structure has a median test risk of "
            f"{headline['median_test_risk']:.3g}, Monotone1d with an exponential slope "
            f"{headline['default_median_test_risk']:.3g}, and is inverted to "
            f"{headline['max_inverse_error']:.1g}; the unconstrained Jacobian turns back on "
            f"{invertible} seeds."
        )
        sections = (
            report.functions(runs, CONTENDERS, self.target, 0, inverse=True),
            report.risks(runs, CONTENDERS[:4], "paper"),
            report.failures(runs, PAPER, self.target, worst=min(4, self.seeds)),
            report.table(_rows(runs, inverse_error), _HEADINGS, _TEXT),
        )
        return Findings(verdict, headline, sections, report.numbers(runs))


_HEADINGS = (
    "function", "training risk", "test risk, [−2, 2]", "smallest slope", "inverse, largest error"
)  # fmt: skip
_TEXT = (
    "Medians [10 %, 90 %] over the seeds; slopes are between neighbours on a grid of 401 points, "
    "the smallest of any seed. The inverse is that of the values at these points, the largest "
    "error of any seed. The paper's equation for it, as printed, takes the Jacobian at a point "
    "between two outputs and is not the inverse; as an ordinary differential equation for x it is."
)


def _headline(runs: report.Runs, inverse_error: float) -> dict[str, float | None]:
    return {
        "median_train_risk": paper.median([one.train_risk for one in runs["paper"]]),
        "median_test_risk": paper.median([one.test_risk for one in runs["paper"]]),
        "default_median_test_risk": paper.median([one.test_risk for one in runs["default"]]),
        "max_inverse_error": inverse_error,
    }


def _rows(runs: report.Runs, inverse_error: float) -> list[list[str]]:
    rows = []
    for contender in CONTENDERS:
        some = runs[contender.key]
        rows.append(
            [
                contender.label,
                report.quantiles([one.train_risk for one in some]),
                report.quantiles([one.test_risk for one in some]),
                f"{min(one.slopes()[0] for one in some):.3g}",
                "; ".join(_inverses(contender, some, inverse_error)) or "—",
            ]
        )
    return rows


def _inverses(contender: Contender, some: Sequence[Trained], polished: float) -> list[str]:
    """How well each way back does, the worst seed; `polished` is that of the paper's models."""
    models = [one.model for one in some]
    if contender.key == "paper":
        ways = {
            "as printed": max(paper.printed_inverse_error(m) for m in models),
            "differential equation": max(paper.inverse_error(m, polish=False) for m in models),
            "and Newton": polished,
        }
        return [f"{way} {error:.1g}" for way, error in ways.items()]
    if isinstance(models[0], jacnet.Monotone1d):
        return [f"{max(paper.inverse_error(m) for m in models):.1g}"]
    return []
