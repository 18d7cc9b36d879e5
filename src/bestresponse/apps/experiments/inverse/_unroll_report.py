"""Figure and table of `unroll-versus-implicit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bestresponse.apps import _figures, _html
from bestresponse.apps._figures import BLUE, GREEN, GREY, ORANGE, RED


@dataclass(frozen=True)
class Row:
    """Relative errors at one number of steps.

    Attributes:
        steps: T.
        unrolled: of T unrolled steps from the optimum.
        series: of the Neumann series with T − 1 products.
        predicted: what the eigenvalues say of both.
        slowest: (1 − lr·μ)^T for the smallest eigenvalue that takes part.
        difference: of the two hypergradients, relative.
        from_zero: of T unrolled steps from zero weights.
        truncated: of the same steps, differentiated through the last ones only.
        implicit: of an exact implicit hypergradient at the weights that they reach.
        weights: the relative distance of those weights from the optimum.
    """

    steps: int
    unrolled: float
    series: float
    predicted: float
    slowest: float
    difference: float
    from_zero: float
    truncated: float
    implicit: float
    weights: float


def sections(rows: Sequence[Row], truncate: int) -> tuple[str, ...]:
    """The report's body."""
    return _from_optimum(rows), _from_zero(rows, truncate), _table(rows)


def _from_optimum(rows: Sequence[Row]) -> str:
    steps = [row.steps for row in rows]
    figure, (left, right) = _figures.panels(2)
    left.loglog(steps, [row.predicted for row in rows], color=GREY, linewidth=4, alpha=0.45,
                label="predicted by all eigenvalues")  # fmt: skip
    left.plot(steps, [row.slowest for row in rows], ":", color=RED,
              label="(1 − lr·μ)^T, μ the smallest of them")  # fmt: skip
    left.plot(steps, [row.series for row in rows], color=ORANGE, label="Neumann, T − 1 products")
    left.plot(steps, [row.unrolled for row in rows], "o", color=BLUE, markersize=4.5,
              label="T unrolled steps")  # fmt: skip
    _figures.finish(left, "Error of the hypergradient", "T", "relative error")
    right.loglog(steps, [max(row.difference, 1e-18) for row in rows], "o-", color=BLUE)
    right.set_ylim(1e-18, 1e-8)
    _figures.finish(right, "Unrolled minus Neumann", "T", "relative difference", legend=False)
    text = (
        "Left: starting where the inner loss is smallest, both ways make the same error. Each "
        "eigenvector's share of it shrinks by (1 − lr·μ) a step, and in the end the slowest one "
        "decides (inputs that are always zero take no part). Right: they differ by rounding."
    )
    picture = _html.picture(_figures.to_uri(figure), "errors from the optimum over T")
    return _html.section("From the optimum", text, picture)


def _from_zero(rows: Sequence[Row], truncate: int) -> str:
    steps = [row.steps for row in rows]
    figure, (axes,) = _figures.panels(1, height=3.6)
    lines = (
        ("from_zero", BLUE, "-", "unrolled, all T steps"),
        ("truncated", ORANGE, "-", f"unrolled, the last {truncate} steps differentiated"),
        ("implicit", GREEN, "-", "implicit, solved exactly at the weights reached"),
        ("weights", GREY, "--", "distance of these weights from the optimum"),
    )
    for name, color, style, label in lines:
        axes.loglog(steps, [getattr(row, name) for row in rows], style, color=color, label=label)
    _figures.finish(axes, "Error of the hypergradient", "training steps T", "relative error")
    text = (
        "Training starts from zero weights. Unrolling differentiates what training did, the "
        "implicit theorem what it should have led to; where training has converged, they agree. "
        "A truncated unroll keeps the error of its short horizon."
    )
    picture = _html.picture(_figures.to_uri(figure), "errors from zero weights over T")
    return _html.section("From zero weights", text, picture)


def _table(rows: Sequence[Row]) -> str:
    headings = ["T", "unrolled", "Neumann", "predicted", "difference", "from zero", "truncated",
                "implicit there"]  # fmt: skip
    cells = [
        [f"{row.steps:,}"]
        + [
            f"{value:.2e}"
            for value in (
                row.unrolled, row.series, row.predicted, row.difference, row.from_zero,
                row.truncated, row.implicit,
            )
        ]
        for row in rows
    ]  # fmt: skip
    text = "All errors are relative to the exact hypergradient."
    return _html.section("The numbers", text, _html.table(headings, cells))
