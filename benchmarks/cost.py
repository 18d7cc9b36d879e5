"""The cost of a hypergradient, counted in plain training gradients."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from benchmarks.clock import interleaved
from benchmarks.entrants import Entrant, ours
from benchmarks.options import Options
from benchmarks.problems import DECAYS, HYPERS, PROBLEMS, make_case
from benchmarks.report import Page, Table, Target

_TEXT = (
    "In units of one plain training gradient on the same batch with respect to the weights only, "
    "decay included. A hypergradient is one call and its `backward()`: the graph, the products, "
    "the mixed product and the outer gradient. Median of the rounds, [least–most]; process CPU "
    "time, one thread, all rows interleaved in one process."
)


@dataclass(frozen=True)
class Cost:
    """Cost of one entrant over the rounds, in plain gradients.

    Attributes:
        library: whose it is.
        method: the row of ours that it belongs to.
        note: how it differs, in a few words.
        ratios: one a round; empty if it failed.
        difference: relative distance of its hypergradient from ours of the same method.
        failure: why there is no number, in a few words.
    """

    library: str
    method: str
    note: str
    ratios: tuple[float, ...] = ()
    difference: float | None = None
    failure: str = ""

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.ratios)


@dataclass(frozen=True)
class Measurement:
    """All entrants on one problem with one kind of hyperparameter; the unit in milliseconds."""

    hyper: str
    problem: str
    unit_ms: float
    costs: tuple[Cost, ...]

    def find(self, method: str, library: str = "bestresponse", note: str = "") -> Cost:
        """One row."""
        wanted = (method, library, note)
        return next(c for c in self.costs if (c.method, c.library, c.note) == wanted)


def measure(options: Options) -> list[Measurement]:
    """Every problem with both kinds of hyperparameters; the first one alone in a trial."""
    pairs = [(kind, name) for kind in HYPERS for name in PROBLEMS]
    return [_measured(kind, name, options) for kind, name in pairs[: 1 if options.trial else None]]


def page(results: Sequence[Measurement]) -> Page:
    """One table a kind of hyperparameter."""
    kinds = dict.fromkeys(m.hyper for m in results)
    tables = [_table([m for m in results if m.hyper == kind], kind) for kind in kinds]
    return Page("Cost of one hypergradient", _TEXT, tables, list(_targets(results)))


def _measured(kind: str, name: str, options: Options) -> Measurement:
    options.say(f"{name}, λ = {HYPERS[kind]}")
    case = make_case(PROBLEMS[name], kind, options.notice)
    theirs = (entrant for peer in options.peers.values() for entrant in peer.entrants(case))
    tried = _tried([*ours(case), *theirs])
    running = [(entrant, seconds) for entrant, cost, seconds in tried if not cost.failure]
    ratios, unit = interleaved(
        case.plain_gradient(),
        [entrant.run for entrant, _ in running],
        options.rounds,
        [seconds for _, seconds in running],
    )
    by_entrant = {id(entrant): own for (entrant, _), own in zip(running, ratios, strict=True)}
    costs = [
        Cost(c.library, c.method, c.note, by_entrant.get(id(e), ()), c.difference, c.failure)
        for e, c, _ in tried
    ]
    return Measurement(kind, name, unit, tuple(costs))


def _tried(entrants: Iterable[Entrant]) -> list[tuple[Entrant, Cost, float]]:
    """Each entrant run once: whether it works, how near its result is to ours, its seconds."""
    exact: dict[str, list[Tensor]] = {}
    tried = []
    for entrant in entrants:
        identity = (entrant.library, entrant.method, entrant.note)
        start = time.process_time()
        try:
            result = [leaf.clone() for leaf in entrant.run()]
        except Exception as error:  # a peer may fail in any way; the table says how
            if entrant.method not in exact:
                raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            tried.append((entrant, Cost(*identity, failure=reason[:60]), 0.0))
            continue
        seconds = time.process_time() - start
        reference = exact.setdefault(entrant.method, result)
        cost = Cost(*identity, difference=_distance(result, reference))
        tried.append((entrant, cost, seconds))
    gc.collect()
    gc.freeze()  # what is alive now stays; later collections are quick
    return tried


def _distance(result: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    squares = [
        ((a - b).square().sum(), b.square().sum()) for a, b in zip(result, reference, strict=True)
    ]
    apart, length = (sum(float(s) for s in column) for column in zip(*squares, strict=True))
    return (apart / length) ** 0.5


def _table(measurements: Sequence[Measurement], kind: str) -> Table:
    """The unit, then each method with ours first."""
    header = ["method", "library", *(PROBLEMS[m.problem].title for m in measurements)]
    rows = [["plain gradient", "PyTorch", *(f"1 = {m.unit_ms:.1f} ms" for m in measurements)]]
    identities = [(cost.method, cost.library, cost.note) for cost in measurements[0].costs]
    order = list(dict.fromkeys(method for method, _, _ in identities))
    for method, library, note in sorted(identities, key=lambda identity: order.index(identity[0])):
        cells = [_cell(m.find(method, library, note)) for m in measurements]
        rows.append([method, f"{library} ({note})" if note else library, *cells])
    return Table(f"λ = {HYPERS[kind]}", header, rows)


def _cell(cost: Cost) -> str:
    if cost.failure:
        return f"fails: {cost.failure}"
    return f"{cost.median:.2f} [{min(cost.ratios):.2f}–{max(cost.ratios):.2f}]"


def _targets(results: Sequence[Measurement]) -> Iterator[Target]:
    """Ours against the targets of the issue, which are for decays."""
    for measured in results:
        if measured.hyper == DECAYS:
            for method, limit in PROBLEMS[measured.problem].targets.items():
                median = measured.find(method).median
                yield Target(f"{measured.problem}, {method}", median, limit)
