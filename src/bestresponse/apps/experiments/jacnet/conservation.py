"""`bestresponse experiment jacnet-conservation`: fields that are Jacobians, and some that are not.

The paper leaves open what becomes of it in more than one dimension, where a field of matrices need
not be the Jacobian of anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bestresponse import jacnet
from bestresponse.apps import _figures, _html
from bestresponse.apps.experiments._experiment import Findings, Pulse
from bestresponse.apps.experiments.jacnet._maps import (
    HEADINGS,
    Contender,
    Outcome,
    cells,
    free,
    gram,
    train,
)
from bestresponse.apps.experiments.jacnet._settings import OfSeveralDimensions
from bestresponse.apps.experiments.jacnet._targets import transport

_CONTENDERS = (
    Contender("∫ free J", free, 0.01, guaranteed=False),
    Contender("∫ JJᵀ + εI", gram, 0.01, guaranteed=False),
    Contender("the same, curl penalty 1", gram, 0.01, guaranteed=False, curl=1.0, iterations=0.5),
    Contender("the same, curl penalty 10", gram, 0.01, guaranteed=False, curl=10.0, iterations=0.5),
    Contender("gradient of any potential", lambda d: jacnet.Potential(d), 0.01),
    Contender("gradient of a ridge function", lambda d: jacnet.ConvexGradient(d), 0.05),
    Contender("gradient, input-convex",
              lambda d: jacnet.ConvexGradient(d, potential=jacnet.InputConvex(d, 64)), 0.05),
)  # fmt: skip


@dataclass(frozen=True)
class JacNetConservation(OfSeveralDimensions):
    """Conservation in more dimensions: how far a learned field is from a Jacobian.

    A gradient map learned from 1,024 points by integrated fields, without and with a penalty on
    their curl, and by structures that are gradients whatever their weights.
    """

    dims: tuple[int, ...] = (2, 4)
    """Dimensions, even numbers."""
    iterations: int = 800
    """Of Adam; penalized fields get half."""

    verb: ClassVar[str] = "jacnet-conservation"
    title: ClassVar[str] = "JacNet: conservative fields"

    @property
    def steps(self) -> int:
        """Each contender in each dimension."""
        return len(_CONTENDERS) * len(self.dims)

    def measure(self, pulse: Pulse) -> Findings:
        """Train everything, and look at defects and path gaps."""
        found: dict[int, list[Outcome]] = {}
        for dim in self.dims:
            found[dim] = []
            for contender in _CONTENDERS:
                found[dim].append(train(contender, transport(dim), dim, self.iterations))
                pulse.step(f"{dim} dimensions, {contender.label}")
        headline: dict[str, float | None] = {}
        for dim, outcomes in found.items():
            by_name = {o.label: o for o in outcomes}
            headline[f"gram_defect_{dim}"] = by_name["∫ JJᵀ + εI"].defect
            headline[f"penalized_defect_{dim}"] = by_name["the same, curl penalty 10"].defect
            headline[f"gradient_path_gap_{dim}"] = by_name["gradient, input-convex"].path_gap
        first = self.dims[0]
        verdict = (
            f"In {first} dimensions the integrated JJᵀ field misses its function's Jacobian by "
            f"{headline[f'gram_defect_{first}']:.2g} of its length, with a curl penalty by "
            f"{headline[f'penalized_defect_{first}']:.2g}; gradients of potentials by nothing, and "
            f"two paths differ by {headline[f'gradient_path_gap_{first}']:.0e}."
        )
        curves = {
            str(dim): {o.label: [o.error, o.defect, o.path_gap] for o in outcomes}
            for dim, outcomes in found.items()
        }
        sections = tuple(_section(dim, outcomes) for dim, outcomes in found.items())
        return Findings(verdict, headline, sections, curves)


def _section(dim: int, outcomes: list[Outcome]) -> str:
    figure, (axes,) = _figures.panels(1, height=3.4)
    for outcome in outcomes:
        defect = max(outcome.path_gap or 0.0, 1e-17)
        color = _figures.BLUE if outcome.guaranteed else _figures.RED
        axes.loglog(outcome.error, defect, "o", color=color)
        axes.annotate(outcome.label, (outcome.error, defect), fontsize=8,
                      textcoords="offset points", xytext=(6, 3))  # fmt: skip
    _figures.finish(axes, "What two paths disagree by, over the fit", "test error", "path gap",
                    legend=False)  # fmt: skip
    text = (
        "A penalty on the curl trades the fit for a smaller defect and proves nothing; a gradient "
        "of a potential has none, at any weights."
    )
    picture = _html.picture(_figures.to_uri(figure), "path gaps over test errors")
    table = _html.table(HEADINGS, [cells(o) for o in outcomes])
    return _html.section(f"{dim} dimensions", text, picture, table)
