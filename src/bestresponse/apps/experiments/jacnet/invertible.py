"""`bestresponse experiment jacnet-invertible`: invertible structures in more than one dimension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from bestresponse import jacnet
from bestresponse.apps import _figures, _html
from bestresponse.apps.experiments._experiment import Findings, Pulse
from bestresponse.apps.experiments.jacnet._maps import (
    HEADINGS,
    Contender,
    Outcome,
    best,
    cells,
    gram,
    perceptron,
    rotated,
    train,
)
from bestresponse.apps.experiments.jacnet._settings import OfSeveralDimensions
from bestresponse.apps.experiments.jacnet._targets import transport, twist

SKEWED = Contender(
    "convex gradients + skew, rotated",
    lambda d: rotated(lambda: jacnet.ConvexGradient(d, skew=True), 2 if d < 4 else 4, d), 0.025,
)  # fmt: skip
INPUT_CONVEX = Contender(
    "input-convex gradient",
    lambda d: jacnet.ConvexGradient(d, potential=jacnet.InputConvex(d, 64)), 0.05,
)  # fmt: skip
LOG_SUM_EXP = Contender(
    "log-sum-exp gradient",
    lambda d: jacnet.ConvexGradient(d, potential=jacnet.LogSumExp(d, 128)), 0.05,
)  # fmt: skip
_CONTENDERS = (
    Contender("ridge gradient", lambda d: jacnet.ConvexGradient(d), 0.05),
    LOG_SUM_EXP,
    INPUT_CONVEX,
    Contender("triangular", lambda d: jacnet.Triangular(d), 0.025, iterations=0.3),
    Contender("3 × triangular, rotated",
              lambda d: rotated(lambda: jacnet.Triangular(d), 3, d), 0.025, iterations=0.3),
    Contender("ridge gradients, rotated",
              lambda d: rotated(lambda: jacnet.ConvexGradient(d), 4, d), 0.025),
    SKEWED,
    Contender("6 × bi-Lipschitz, rotated",
              lambda d: rotated(lambda: jacnet.BiLipschitz(d, scaled=True), 6, d), 0.025),
    Contender("paper: ∫ JJᵀ + εI", gram, 0.01, guaranteed=False, iterations=0.5),
    Contender("plain network", perceptron, 0.02, guaranteed=False),
)  # fmt: skip
TARGETS = {"transport": transport, "twist": twist}


@dataclass(frozen=True)
class JacNetInvertible(OfSeveralDimensions):
    """Which structures are invertible in more than one dimension, and what the guarantee costs.

    Two maps, a steep optimal transport map and a twist that is no gradient, learned from 1,024
    points: by structures whose guarantee is one of the function, by the paper's pointwise one, and
    by a plain network. Settings were chosen on a part of the training points.
    """

    verb: ClassVar[str] = "jacnet-invertible"
    title: ClassVar[str] = "JacNet: invertible maps of several dimensions"

    @property
    def steps(self) -> int:
        """Each contender on each target in each dimension."""
        return len(_CONTENDERS) * len(TARGETS) * len(self.dims)

    def measure(self, pulse: Pulse) -> Findings:
        """Train everything on everything."""
        found: dict[tuple[str, int], list[Outcome]] = {}
        for name, target in TARGETS.items():
            for dim in self.dims:
                found[name, dim] = []
                for contender in _CONTENDERS:
                    found[name, dim].append(train(contender, target(dim), dim, self.iterations))
                    pulse.step(f"{name} in {dim} dimensions, {contender.label}")
        headline: dict[str, float | None] = {
            f"{name}_{dim}_best_guaranteed": best(outcomes).error
            for (name, dim), outcomes in found.items()
        }
        folded = sum(
            o.least_determinant <= 0 for outcomes in found.values() for o in outcomes
            if not o.guaranteed
        )  # fmt: skip
        verdict = (
            "Best guaranteed structures: "
            + ", ".join(f"{name} in {dim} dimensions {best(outcomes).label} "
                        f"({best(outcomes).error:.3f})"
                        for (name, dim), outcomes in found.items())
            + f". Of the {2 * len(found)} runs without a guarantee of the function {folded} fold."
        )  # fmt: skip
        sections = [_section(name, dim, o) for (name, dim), o in found.items()]
        return Findings(verdict, headline, tuple(sections), _numbers(found))


def _section(name: str, dim: int, outcomes: list[Outcome]) -> str:
    figure, (axes,) = _figures.panels(1, height=3.2)
    colors = [_figures.BLUE if o.guaranteed else _figures.RED for o in outcomes]
    axes.barh([o.label for o in outcomes], [o.error for o in outcomes], color=colors, height=0.6)
    axes.invert_yaxis()
    _figures.finish(axes, "Test error (red: no guarantee of the function)", "", "", legend=False)
    table = _html.table(HEADINGS, [cells(o) for o in outcomes],
                        strong=outcomes.index(best(outcomes)))  # fmt: skip
    text = (
        "Errors are relative to the spread of the targets. Determinants are those of the true "
        "Jacobian at 64 test points; a negative one is a fold. The defect is the distance of the "
        "Jacobian that the network means from the true one, the path gap what two paths of "
        "integration disagree by."
    )
    picture = _html.picture(_figures.to_uri(figure), f"test errors of {name}")
    return _html.section(f"{name.capitalize()}, {dim} dimensions", text, picture, table)


def _numbers(found: dict[tuple[str, int], list[Outcome]]) -> dict[str, Any]:
    return {
        f"{name}_{dim}": {o.label: o.error for o in outcomes}
        for (name, dim), outcomes in found.items()
    }
