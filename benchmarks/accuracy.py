"""Accuracy per work: how near the true hypergradient, for how many plain gradients."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import bestresponse as br
from benchmarks import contenders, references
from benchmarks.contenders import Contender
from benchmarks.judge import Judged, Reading, Track, judge
from benchmarks.options import Options
from benchmarks.problems import Case, case_of
from benchmarks.report import Page, Table, Target
from benchmarks.warm import Walk, walk

LEVELS = (0.98, 0.997, 0.9998)
_COLD_LIMITS = (11, 18, 27)  # plain gradients for these levels
_SHOWN = {"logistic": (2, 5, 10, 20), "mlp": (2, 5, 10, 20)}
_MLP_LIMITS = dict(zip((2, 5, 10, 20), (0.80, 0.91, 0.965, 0.99), strict=True))
_MLP_BEST = "CG + Woodbury 512"

_TEXT = (
    "Cosine of the hypergradient with a float64 reference (explicit formulas, none of the "
    "library's code), beside the work it took: everything from nothing to λ's gradient, in units "
    "of one plain training gradient with respect to the weights, decay included. Process CPU time, "
    "one thread, all rows interleaved; medians of the rounds, on the first seed. One decay for "
    "each weight and bias; cosines are means over the seeds."
)


@dataclass(frozen=True)
class Results:
    """Cold calls on both problems and calls along outer steps."""

    seeds: int
    logistic: Judged
    mlp: Judged
    walks: list[Walk]
    mlp_walks: list[Walk]


def measure(options: Options) -> Results:
    """Logistic regression beside the peers, the network alone, then both along outer steps."""
    seeds = range(1 if options.trial else 3)
    names = ("logistic", "mlp")
    options.say("references (minutes, the first time)")
    walked = {"logistic": seeds, "mlp": range(1)}
    references.prepare(
        [(name, seed) for name in reversed(names) for seed in seeds],
        [(name, seed) for name in reversed(names) for seed in walked[name]],
    )
    rounds = 1 if options.trial else max(3, options.rounds // 2)

    def beside_peers(case: Case) -> Iterator[Contender]:
        yield from contenders.logistic(case)
        lr = _step_size(case)
        for peer in options.peers.values():
            yield from peer.contenders(case, lr)

    judged = {
        name: _judged(name, seeds, of, levels, rounds, options.say)
        for name, of, levels in (("logistic", beside_peers, LEVELS), ("mlp", contenders.mlp, ()))
    }
    return Results(
        len(seeds),
        judged["logistic"],
        judged["mlp"],
        list(_logistic_walks(walked["logistic"], rounds, options.say)),
        list(_mlp_walks(walked["mlp"], options.say)),
    )


def page(results: Results) -> Page:
    """What each level of accuracy costs, cold and along outer steps."""
    tables = [
        _levels(results.logistic),
        _shown("Logistic regression", results.logistic, _SHOWN["logistic"]),
        _walked("Logistic regression along 10 outer steps", results.walks),
        _shown("MLP 784-512-512-10", results.mlp, _SHOWN["mlp"]),
        _walked("MLP along 10 outer steps", results.mlp_walks),
    ]
    return Page("Accuracy per work", _TEXT, tables, list(_targets(results)))


def _judged(
    name: str,
    seeds: Iterable[int],
    of: Callable[[Case], Iterable[Contender]],
    levels: Sequence[float],
    rounds: int,
    say: Callable[[str], None],
) -> Judged:
    problems = [references.problem(name, seed) for seed in seeds]
    true = [problem.in_model_order(problem.point.reference) for problem in problems]
    return judge([*map(case_of, problems)], true, of, levels, _SHOWN[name], rounds, say)


def _step_size(case: Case) -> float:
    """One over the largest curvature: what a careful user would set."""
    _, report = case.nested(br.Implicit(br.CG(20)))(case.batch, case.outer_batch)
    assert report.stats is not None and report.stats.largest_curvature is not None
    return 1 / report.stats.largest_curvature


def _logistic_walks(
    seeds: Iterable[int], rounds: int, say: Callable[[str], None]
) -> Iterator[Walk]:
    for seed in seeds:
        problem, points = references.problem("logistic", seed), references.walk("logistic", seed)
        for steps in (1, 2):
            say(f"logistic along outer steps, {steps} products more, seed {seed}")
            solver = br.CG(steps, preconditioner=br.KFAC(refresh=20), warm_start=True, recycle=10)
            yield walk(problem, points, f"{steps} steps", solver, 5, rounds, seed)


def _mlp_walks(seeds: Iterable[int], say: Callable[[str], None]) -> Iterator[Walk]:
    for seed in seeds:
        problem, points = references.problem("mlp", seed), references.walk("mlp", seed)
        for steps in (3, 5, 7):
            say(f"mlp along outer steps, {steps} steps, seed {seed}")
            solver = br.CG(steps, preconditioner=br.Woodbury(512), warm_start=True)
            yield walk(problem, points, f"{steps} steps", solver, 8, 1, seed)


def _levels(judged: Judged) -> Table:
    header = ["library", "solver", *(f"work for cosine ≥ {level}" for level in LEVELS), "best"]
    rows = []
    for track in judged.tracks:
        cells = [_cost(track.reaching(level)) for level in LEVELS]
        best = track.best
        rows.append(
            [track.library, track.name, *cells, f"{best.cosine:.4f} at {best.work:.0f} gradients"]
        )
    text = (
        "MNIST, 7,850 decays, 10,000 inner and 5,000 outer examples, converged to 1e-8. Smallest "
        "work in plain gradients, products in brackets; — where it was not reached within 200 "
        f"products. A plain gradient takes {judged.unit_ms:.1f} ms."
    )
    return Table("Logistic regression: work for an accuracy", header, rows, text)


def _cost(reading: Reading | None) -> str:
    return "—" if reading is None else f"{reading.work:.1f} ({reading.products:g})"


def _shown(title: str, judged: Judged, budgets: Sequence[int]) -> Table:
    rows = []
    partial = any(reading.partial for track in judged.tracks for reading in track.readings)
    for track in judged.tracks:
        cells = [_reading(track.at(budget), partial) for budget in budgets]
        rows.append([track.library, track.name, *cells])
    header = ["library", "solver", *(f"{budget} steps" for budget in budgets)]
    text = "Cosine (work in plain gradients)."
    if partial:
        text = (
            "MNIST, 669,706 decays, 2,000 inner and 1,000 outer examples, Gauss-Newton curvature. "
            "Cosine (work in plain gradients; + what the preconditioner did on a part of the rows, "
            "in products with all of them: applications times that part). A plain gradient takes "
            f"{judged.unit_ms:.1f} ms."
        )
    return Table(f"{title}: accuracy after some steps", header, rows, text)


def _reading(reading: Reading | None, partial: bool) -> str:
    if reading is None:
        return "—"
    further = f" + {reading.partial:.1f}" if partial else ""
    return f"{reading.cosine:.5f} ({reading.work:.1f}{further})"


def _walked(title: str, walks: Sequence[Walk]) -> Table:
    header = [
        "seed", "solver", "products a step", "on a part of the rows", "work a step",
        "with the cold step", "mean cosine", "smallest",
    ]  # fmt: skip
    rows = [
        [
            str(w.seed),
            w.name,
            f"{_mean(step.products for step in w.warm):.1f}",
            f"{_mean(step.partial for step in w.warm):.2f}",
            f"{_mean(step.work for step in w.warm):.1f}",
            f"{_mean(step.work for step in w.steps):.1f}",
            f"{_mean(step.cosine for step in w.warm):.4f}",
            f"{min(step.cosine for step in w.warm):.4f}",
        ]
        for w in walks
    ]
    text = (
        "Adam(0.05) on λ by the true hypergradient, the weights re-fitted after each step. Each "
        "call starts from the last one's answer, which costs a product; work in plain gradients."
    )
    return Table(title, header, rows, text)


def _mean(values: Iterable[float]) -> float:
    return statistics.mean(values)


def _targets(results: Results) -> Iterator[Target]:
    recommended = results.logistic.find(contenders.RECOMMENDED)
    for level, limit in zip(LEVELS, _COLD_LIMITS, strict=True):
        reading = recommended.reaching(level)
        work = reading.work if reading else None
        yield Target(f"logistic, cosine {level}, work", work, limit)
    walks = [w for w in results.walks if w.name == "1 steps"]
    warm = _mean(step.work for w in walks for step in w.warm)
    yield Target("logistic, warm, work a step", warm, 5)
    yield Target(
        "logistic, warm, mean cosine", _mean(s.cosine for w in walks for s in w.warm), 0.99, True
    )
    yield from _mlp_targets(results)
    yield from _lead(results.logistic, warm)


def _mlp_targets(results: Results) -> Iterator[Target]:
    best = results.mlp.find(_MLP_BEST)
    for budget, limit in _MLP_LIMITS.items():
        reading = best.at(budget)
        cosine = reading.cosine if reading else None
        yield Target(f"mlp, cosine after {budget} products", cosine, limit, True)
    for w in results.mlp_walks:
        mean = _mean(step.cosine for step in w.warm)
        products = int(max(step.products for step in w.warm))
        if products <= 8:
            yield Target(f"mlp, warm, mean cosine with {products} products", mean, 0.99, True)


def _lead(judged: Judged, warm: float) -> Iterator[Target]:
    """How many times as much work the quickest peer needs for the lowest level."""
    ours = judged.find(contenders.RECOMMENDED).reaching(LEVELS[0])
    for library in dict.fromkeys(track.library for track in judged.tracks):
        if library == "bestresponse" or ours is None:
            continue
        work = _quickest([track for track in judged.tracks if track.library == library])
        if work is not None:
            yield Target(f"{library}'s work over ours, cold", work / ours.work, 2, True)
            yield Target(f"{library}'s work over ours, warm", work / warm, 5, True)


def _quickest(tracks: Sequence[Track]) -> float | None:
    reached = [reading for track in tracks if (reading := track.reaching(LEVELS[0]))]
    return min((reading.work for reading in reached), default=None)
