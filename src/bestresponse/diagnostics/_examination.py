"""One examination: what is computed in which order, and what it is evidence of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from time import perf_counter

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._problem import Problem
from bestresponse._tree import Layout, tree_norm
from bestresponse.diagnostics._differences import (
    Pair,
    acceptable_gradient,
    differences,
    through_retraining,
    through_steps,
)
from bestresponse.diagnostics._randomness import unpinned
from bestresponse.diagnostics._references import Answer, ExactSolves, answered, unrolled
from bestresponse.diagnostics._report import Cause, Check, Row, percent
from bestresponse.diagnostics._retrain import Clock, Minimum, points_of, retrained
from bestresponse.diagnostics._shrink import idle_hyper
from bestresponse.diagnostics._slopes import Directions, norm
from bestresponse.diagnostics._verdict import Evidence, Link, judged
from bestresponse.diagnostics._widen import widened
from bestresponse.methods import Curvature, FiniteDifference, Implicit, Method, Unroll

_FOR_THE_MINIMUM, _FOR_A_SOLVE, _FOR_UNROLLING = 0.3, 0.2, 0.2  # of the time that is left
_ZERO = 0.7  # digits of an inner gradient at a minimum, of those of its type


@dataclass(frozen=True)
class Settings:
    """Those of `check`."""

    settle: bool
    directions: int
    limit: int
    seconds: float
    tolerance: float
    seed: int


class Examination:
    """Of a method on one problem."""

    def __init__(self, method: Method, problem: Problem, settings: Settings) -> None:
        self.method, self.settings = method, settings
        self.clock = Clock(settings.seconds)
        self.point_at = points_of(method)
        self.drawn = unpinned(problem)  # the graphs are searched here, and not again
        self.live = replace(problem, checked=False)
        self.exact = replace(widened(self.live), memory={})

    def result(self) -> Check:
        """The table and the verdict."""
        if self.drawn:
            return self._refused()
        if isinstance(self.method, Unroll):
            evidence = self._unrolling(self.method)
        else:
            evidence = self._implicit()
        return judged(evidence, self.settings.tolerance)

    def _refused(self) -> Check:
        """Numbers that change from one evaluation to the next cannot be compared."""
        cause = Cause.randomness
        verdict = f"No check is possible because {cause.reason} ({self.drawn}); {cause.cure}."
        row = Row("chosen method", None, None, None, 0.0)
        return Check(self.words, (row,), {}, None, self.settings.tolerance, False, cause, verdict)

    def _implicit(self) -> Evidence:
        """From the chosen method to retraining, one change a link."""
        chosen, here, (damping, curvature) = self.chosen, self.here, _formula(self.method)
        damped = self._solved("solve", here, damping)
        same = damped
        if curvature is not None:
            same = self._solved("solve, same curvature", here, damping, curvature)
        undamped = self._solved("solve without damping", here) if damping else damped
        best = self._at_the_minimum() or undamped
        descent = self._descent()
        truth = self._retraining([chosen, best])
        links = [
            Link(Cause.solver, chosen, same),
            Link(Cause.curvature, same, damped),
            Link(Cause.damping, damped, undamped),
            Link(Cause.weights, undamped, best),
        ]
        if best is not undamped and (damped.indefinite or undamped.indefinite):
            # no solve has a meaning where the inner loss curves down
            links = [Link(Cause.weights, chosen, best)]
        return Evidence(
            self.words,
            _distinct(chosen, same, damped, undamped, best, descent, truth),
            [*(link for link in links if link.one is not link.other),
             Link(Cause.reference, best, truth)],
            truth,
            moving=any(answer.astray for answer in (chosen, damped, undamped)),
        )  # fmt: skip

    def _unrolling(self, method: Unroll) -> Evidence:
        """The steps themselves, and how far they are from the best response."""
        chosen = self.chosen
        if idle_hyper(self.exact):  # settings of the steps, of which a minimum knows nothing
            own, cut = self._own_steps(method, [chosen])
            name = "differences through its own steps"
            return Evidence(self.words, [chosen, own], cut, own, name)
        best = self._at_the_minimum() or self._solved("solve", self.here)
        own, cut = self._own_steps(method, [chosen, best])
        truth = self._retraining([chosen, best])
        links = [*cut, Link(Cause.horizon, own, truth), Link(Cause.reference, best, truth)]
        return Evidence(self.words, _distinct(chosen, own, best, truth), links, truth)

    def _own_steps(self, method: Unroll, telling: Sequence[Answer]) -> tuple[Answer, list[Link]]:
        """Differences through the very steps, and what truncation makes of them."""
        begin = perf_counter()
        pair = through_steps(self.here, method)
        own = self._differenced("its own steps, again", pair, telling, "", begin)
        return own, [Link(Cause.truncation, self.chosen, own)] if method.truncate else []

    @cached_property
    def words(self) -> str:
        """What is checked."""
        params, hyper = Layout.of(self.live.params).size, Layout.of(self.live.hyper).size
        dtype = str(Layout.of(self.exact.params).dtype).removeprefix("torch.")
        where = " at the minimum nearby" if self.settings.settle else ""
        return (
            f"{_described(self.method)}{where}: {params:,} weights, {hyper:,} hyperparameters, "
            f"references in {dtype}"
        )

    @cached_property
    def scale(self) -> float:
        """‖∂L_V/∂w‖: what an inner gradient is compared with."""
        return float(tree_norm(self.exact.outer_gradients(self.exact.params).params)) or 1.0

    @cached_property
    def target(self) -> float:
        """An inner gradient that is as good as zero."""
        eps: float = torch.finfo(Layout.of(self.exact.params).dtype).eps
        return eps**_ZERO * self.scale

    @cached_property
    def minimum(self) -> Minimum:
        """The minimum near the live weights."""
        clock = self.clock.share(_FOR_THE_MINIMUM)
        return retrained(self.exact, self.point_at, self.scale, self.target, clock)

    @cached_property
    def obstacle(self) -> str:
        """Why there is no minimum to retrain from; empty if there is one."""
        try:
            found = self.minimum
        except InputError as error:
            return f"retraining is impossible ({str(error).rstrip('.')})"
        if found.gradient_norm <= acceptable_gradient(found.problem, self.scale):
            return ""
        return (
            f"retraining stopped at an inner gradient of {found.gradient_norm:.1e} "
            f"(it began at {found.start_norm:.1e})"
        )

    @cached_property
    def here(self) -> Problem:
        """The exact problem at the weights that are checked."""
        return self.minimum.problem if self.settings.settle else self.exact

    @cached_property
    def chosen(self) -> Answer:
        """The chosen method, in the types that the user runs it in."""
        live = self.live
        if self.settings.settle:
            params = {
                name: leaf.to(live.params[name].dtype) for name, leaf in self.here.params.items()
            }
            live = replace(live, params=params, memory={})
        return answered("chosen method", self.method, live)

    def _solved(
        self,
        name: str,
        problem: Problem,
        damping: float = 0.0,
        curvature: Curvature | None = None,
    ) -> Answer:
        solves = ExactSolves(self.method, self.point_at, self.settings.limit)
        return solves.answer(name, problem, self.clock.share(_FOR_A_SOLVE), damping, curvature)

    def _at_the_minimum(self) -> Answer | None:
        """The exact answer where training would end; None if that is here, or nowhere."""
        if self.settings.settle or self.obstacle or not self.minimum.steps:
            return None
        return self._solved("solve at the minimum", self.minimum.problem)

    def _descent(self) -> Answer:
        answer = unrolled(self.here, self.point_at, self.clock.share(_FOR_UNROLLING))
        moves = not self.settings.settle and not self.obstacle and self.minimum.steps
        started = acceptable_gradient(self.exact, self.scale)
        if answer.gradient is None or not moves or self.minimum.start_norm <= started:
            return answer
        return replace(answer, note=f"{answer.note}; trains the weights meanwhile")

    def _retraining(self, telling: Sequence[Answer]) -> Answer:
        """The truth: the outer loss's slopes through solving the inner problem again."""
        begin, name = perf_counter(), "retraining"
        if self.obstacle:
            return Answer(name, None, 0.0, self.obstacle)
        found = self.minimum
        pair = through_retraining(found, self.point_at, self.scale, self.target)
        reached = f"inner gradient {found.start_norm:.1e} to {found.gradient_norm:.1e}, "
        return self._differenced(name, pair, telling, reached, begin)

    def _differenced(
        self, name: str, pair: Pair, telling: Sequence[Answer], note: str, begin: float
    ) -> Answer:
        """Slopes along the given hypergradients and along random directions."""
        known = [answer.gradient for answer in telling if isinstance(answer.gradient, Tensor)]
        if not known:
            return Answer(name, None, 0.0, "no direction to go along is known")
        directions = Directions.drawn(known, self.settings.directions, self.settings.seed)
        found = differences(pair, self.exact, directions, self.clock)
        seconds = perf_counter() - begin
        if found.slopes is None:
            return Answer(name, None, seconds, f"{name} did not end in the time given")
        length = norm(found.slopes)
        doubt = found.uncertainty / length if length else 0.0
        done = f"{len(found.slopes.values)} of {len(directions)} directions"
        note = f"{note}{done}, known to {percent(doubt)}"
        return Answer(name, found.slopes, seconds, note, uncertainty=doubt)


def _formula(method: Method) -> tuple[float, Curvature | None]:
    """The damping and the curvature of a method."""
    if isinstance(method, Implicit):
        return method.damping, method.curvature
    return (method.damping if isinstance(method, FiniteDifference) else 0.0), None


def _described(method: Method) -> str:
    """The method in a few words."""
    parts: list[object] = []
    if isinstance(method, Implicit | FiniteDifference):
        parts = [method.solver]
    if isinstance(method, Implicit) and method.curvature is not None:
        parts.append(method.curvature)
    words = ", ".join(type(part).__name__ for part in parts)
    if isinstance(method, Unroll):
        words = f"{type(method.optimizer).__name__}, {method.steps} steps"
    return f"{type(method).__name__}({words})"


def _distinct(*answers: Answer) -> list[Answer]:
    """Each answer once."""
    return list({id(answer): answer for answer in answers}.values())
