"""JacNet: time of a training step, of inverses and of Kronecker solves, beside torchdiffeq."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.clock import interleaved, seconds
from benchmarks.options import Options
from benchmarks.report import Page, Table, Target
from bestresponse import jacnet

BATCHES = (5, 1000, 10_000)
_OURS = "PathIntegral, 8 nodes"
_PEER = "dopri5, 1e-5"
_TEXT = (
    "One forward and backward pass of f(x) = ∫ j² + 10⁻⁴ with 64 tanh units on [−2, 2], trained "
    "for 200 steps on eˣ; process CPU time, one thread, float64, all rows interleaved in one "
    "process, medians of the rounds in units of `PathIntegral` with 8 Gauss-Legendre nodes. The "
    "error is the largest difference from 200 nodes."
)


@dataclass(frozen=True)
class Step:
    """One way to integrate at one batch size; ratios one a round."""

    name: str
    library: str
    batch: int
    ratios: tuple[float, ...]
    unit_ms: float
    error: float

    @property
    def ms(self) -> float:
        """The middle of the rounds, in milliseconds."""
        return statistics.median(self.ratios) * self.unit_ms


@dataclass(frozen=True)
class Results:
    """All parts."""

    steps: list[Step]
    inverse_ms: float
    cells_ms: float
    inverse_error: float
    kronecker: float


def measure(options: Options) -> Results:
    """The three parts."""
    batches = BATCHES[: 2 if options.trial else 3]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        steps = [s for batch in batches for s in _steps(batch, options)]
        options.say("inverses")
        (ours, error), (cells, other) = _inverse(jacnet.Knots()), _inverse(jacnet.Cells())
        return Results(steps, ours, cells, max(error, other), _kronecker(options.rounds))
    finally:
        torch.set_default_dtype(before)


def page(results: Results) -> Page:
    """A table, and what was asked for."""
    names = dict.fromkeys((s.name, s.library) for s in results.steps)
    batches = sorted({s.batch for s in results.steps})
    rows = []
    for name, library in names:
        own = [s for s in results.steps if s.name == name]
        cells = [f"{s.ms:.2f} ms ({statistics.median(s.ratios):.2f} ×)" for s in own]
        error = "exact" if name == "Monotone1d" else f"{max(s.error for s in own):.0e}"
        rows.append([name, library, *cells, error])
    header = ["integral", "library", *(f"batch {b:,}" for b in batches), "largest error"]
    text = (
        f"The inverse of `Monotone1d` takes {results.inverse_ms:.1f} ms for 1,000 points, with "
        f"`Cells` instead of its table of slopes {results.cells_ms:.1f} ms; the largest error of "
        f"both is {results.inverse_error:.0e}. A Kronecker solve of dimension "
        f"64, batch 256, is {results.kronecker:.0f} times as fast as a dense one."
    )
    return Page("JacNet", _TEXT, [Table("A training step", header, rows, text)], _targets(results))


def _targets(results: Results) -> list[Target]:
    def step(name: str, batch: int) -> Step | None:
        return next((s for s in results.steps if (s.name, s.batch) == (name, batch)), None)

    targets = []
    for batch, times in ((5, 4), (1000, 5)):
        ours, theirs = step(_OURS, batch), step(_PEER, batch)
        if ours and theirs:
            what = f"dopri5's time over ours, batch {batch}"
            targets.append(Target(what, theirs.ms / ours.ms, times, True))
            targets.append(Target(f"our error over dopri5's, batch {batch}",
                                  ours.error / theirs.error, 1))  # fmt: skip
    small = step(_OURS, 5)
    if small:
        targets.append(Target("a step at batch 5, ms", small.ms, 1))
    targets.append(Target("inverse, ms for 1,000 points", results.inverse_ms, 10))
    targets.append(Target("inverse with Cells, ms for 1,000 points", results.cells_ms, 10))
    targets.append(Target("inverse, largest error", results.inverse_error, 1e-12))
    targets.append(Target("dense solve's time over Kronecker's", results.kronecker, 8, True))
    return targets


def _steps(batch: int, options: Options) -> list[Step]:
    options.say(f"JacNet, batch {batch}")
    model = _trained()
    x = 4 * torch.rand(batch, 1, generator=torch.Generator().manual_seed(1)) - 2
    with torch.no_grad():
        exact = model.integral(x, jacnet.GaussLegendre(200)).value
    spline = jacnet.Monotone1d(slope=jacnet.Square(1e-4))
    ways: dict[str, tuple[str, nn.Module, Callable[[Tensor], Tensor]]] = {
        _OURS: ("bestresponse", model, lambda x: model.integral(x, jacnet.GaussLegendre(8)).value),
        "PathIntegral, 16 nodes": (
            "bestresponse", model, lambda x: model.integral(x, jacnet.GaussLegendre(16)).value,
        ),
        "PathIntegral, Gauss-Kronrod 1e-6": (
            "bestresponse", model, lambda x: model.integral(x, jacnet.GaussKronrod(1e-6)).value,
        ),
        "Monotone1d": ("bestresponse", spline, spline),
    }  # fmt: skip
    try:
        ways[_PEER] = ("torchdiffeq", model, _solved_by_torchdiffeq(model))
    except ImportError as error:
        options.notice(f"torchdiffeq is not available ({error})")
    runs, errors = [], []
    for _, module, evaluate in ways.values():
        runs.append(_step(module, evaluate, x))
        with torch.no_grad():
            off = evaluate(x) - (exact if module is model else evaluate(x))
        errors.append(float(off.abs().max()))
    ratios, unit = interleaved(runs[0], runs, options.rounds)
    return [
        Step(name, library, batch, own, unit, error)
        for (name, (library, _, _)), own, error in zip(ways.items(), ratios, errors, strict=True)
    ]


def _step(module: nn.Module, evaluate: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    target = x.exp()

    def run() -> None:
        module.zero_grad()
        (evaluate(x) - target).abs().mean().backward()

    return run


def _trained() -> jacnet.PathIntegral:
    torch.manual_seed(0)
    model = jacnet.PathIntegral(1, 1, activation=jacnet.Gram(1e-4), value=torch.ones(1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x = torch.linspace(-1, 1, 20)[:, None]
    for _ in range(200):
        optimizer.zero_grad()
        (model(x) - x.exp()).abs().mean().backward()
        optimizer.step()
    return model


def _solved_by_torchdiffeq(model: jacnet.PathIntegral) -> Callable[[Tensor], Tensor]:
    from torchdiffeq import odeint

    def evaluate(x: Tensor) -> Tensor:
        def rate(t: Tensor, y: Tensor) -> Tensor:
            return (model.field(t * x) @ x[..., None])[..., 0]

        ends = torch.tensor([0.0, 1.0])
        solved = odeint(rate, torch.zeros_like(x), ends, rtol=1e-5, atol=1e-5, method="dopri5")
        return model.value + solved[-1]

    return evaluate


def _inverse(table: jacnet.Table) -> tuple[float, float]:
    torch.manual_seed(0)
    f = jacnet.Monotone1d(slope=jacnet.Softplus(0.1), table=table)
    x = torch.linspace(-4, 4, 1000)[:, None]
    with torch.no_grad():
        y = f(x)
        f.inverse(y)
        spent = statistics.median(seconds(lambda: f.inverse(y), 5) for _ in range(5))
        return 1e3 * spent, float((f.inverse(y).value - x).abs().max())


def _kronecker(rounds: int) -> float:
    """A dense solve with the same matrix, per sample as a general Jacobian would need it."""
    torch.manual_seed(0)
    f = jacnet.KroneckerLinear(8, 8)
    y = torch.randn(256, 64)
    with torch.no_grad():
        dense = f.jacobian(y).contiguous()
        runs = [lambda: f.inverse(y), lambda: torch.linalg.solve(dense, y[..., None])]
        ratios, _ = interleaved(runs[0], runs, rounds)
    return statistics.median(ratios[1])
