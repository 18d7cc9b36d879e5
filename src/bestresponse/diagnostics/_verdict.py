"""From answers to a verdict: how wrong the chosen method is, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bestresponse.diagnostics._references import Answer
from bestresponse.diagnostics._report import Cause, Check, Row, percent
from bestresponse.diagnostics._slopes import cosine, distance, norm


@dataclass(frozen=True)
class Link:
    """Two answers that differ for one reason only."""

    cause: Cause
    one: Answer
    other: Answer

    def size(self, scale: float) -> float | None:
        """How far they are apart, relative to the truth; None if one is unknown."""
        if self.one.gradient is None or self.other.gradient is None:
            return None
        return _ratio(distance(self.one.gradient, self.other.gradient), scale)


@dataclass(frozen=True)
class Evidence:
    """What the verdict is made from.

    Attributes:
        problem: what was checked, in words.
        answers: the chosen method first, then its references.
        links: what lies between the chosen method and the truth.
        truth: the answer that the chosen method is to agree with; where it has no gradient, its
            note says why.
        truth_name: what the truth is called in a sentence.
        moving: the weights are far from a minimum, whatever else is known.
    """

    problem: str
    answers: Sequence[Answer]
    links: Sequence[Link]
    truth: Answer
    truth_name: str = "retraining"
    moving: bool = False


def judged(evidence: Evidence, tolerance: float) -> Check:
    """The check's result."""
    chosen = evidence.answers[0]
    rows = tuple(_row(chosen, answer) for answer in evidence.answers)
    scale = _scale(evidence)
    sizes = [(link.cause, link.size(scale)) for link in evidence.links]
    sources = {cause: size for cause, size in sizes if size is not None}
    error = Link(Cause.reference, chosen, evidence.truth).size(scale)
    cause, verdict = _sentence(evidence, sources, error, tolerance)
    return Check(evidence.problem, rows, sources, error, tolerance, cause is None, cause, verdict)


def _row(chosen: Answer, answer: Answer) -> Row:
    if answer.gradient is None:
        return Row(answer.name, None, None, None, answer.seconds, answer.note)
    length = norm(answer.gradient)
    if answer is chosen or chosen.gradient is None:
        return Row(answer.name, None, None, length, answer.seconds, answer.note)
    error = _ratio(distance(chosen.gradient, answer.gradient), length)
    angle = cosine(chosen.gradient, answer.gradient)
    return Row(answer.name, error, angle, length, answer.seconds, answer.note)


def _scale(evidence: Evidence) -> float:
    """The length of the best answer there is."""
    best_first = [evidence.truth, *reversed(evidence.answers)]
    return next((norm(answer.gradient) for answer in best_first if answer.gradient is not None), 1)


def _ratio(size: float, scale: float) -> float:
    return size / scale if scale else (math.inf if size else 0.0)


def _sentence(
    evidence: Evidence, sources: Mapping[Cause, float], error: float | None, tolerance: float
) -> tuple[Cause | None, str]:
    """The cause of a failure, None without one, and the verdict."""
    chosen, truth, name = evidence.answers[0], evidence.truth, evidence.truth_name
    if chosen.gradient is None and chosen.report is not None:
        return Cause.solver, f"The chosen method fails: {chosen.report.result.value}"
    guilty = sorted((c for c in sources if sources[c] > tolerance), key=lambda c: -sources[c])
    if error is None:
        return _undecided(evidence, sources, guilty)
    if truth.uncertainty > max(tolerance, error):
        known = f"{name} is known to {percent(truth.uncertainty)} only"
        return Cause.reference, f"Undecided: {known}; {Cause.reference.cure}."
    if error <= tolerance:
        return None, f"The chosen method agrees with {name} to {percent(error)}."
    guilty = guilty or [max(sources, key=lambda c: sources[c], default=Cause.reference)]
    differs = f"The chosen method differs from {name} by {percent(error)}"
    return guilty[0], f"{differs} because {_reasons(guilty, sources)}; {guilty[0].cure}."


def _undecided(
    evidence: Evidence, sources: Mapping[Cause, float], guilty: list[Cause]
) -> tuple[Cause, str]:
    """There is no truth to compare with; what is wrong on the way to it can be said even so."""
    obstacle = evidence.truth.note
    if evidence.moving and Cause.weights not in guilty:
        guilty = [*guilty, Cause.weights]
    if not guilty:
        return Cause.reference, f"Undecided: {obstacle}; {Cause.reference.cure}."
    return guilty[0], (
        f"The chosen method is not to be trusted because {_reasons(guilty, sources)}, though "
        f"nothing is certain: {obstacle}; {guilty[0].cure}."
    )


def _reasons(guilty: Sequence[Cause], sources: Mapping[Cause, float]) -> str:
    return " and ".join(
        f"{cause.reason} ({percent(sources[cause])})" if cause in sources else cause.reason
        for cause in guilty
    )
