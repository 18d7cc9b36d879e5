"""Pictures and table of `hessian-picture`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from bestresponse.apps import _figures, _html
from bestresponse.apps._figures import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY

_CLIPPED = 0.98  # of the entries are drawn as they are, the larger ones as the largest of these


@dataclass(frozen=True)
class Picture:
    """A matrix that stands for the inverse.

    Attributes:
        name: what it is.
        image: magnitudes, down-sampled.
        response: vᵀMv for each eigenvector v of the Hessian.
        distance: ‖M − A⁻¹‖ / ‖A⁻¹‖, of Frobenius.
        cosine: ⟨M, A⁻¹⟩ / (‖M‖‖A⁻¹‖).
        hypergradient_cosine: of the hypergradient that M gives with the exact one.
    """

    name: str
    image: Tensor
    response: Tensor
    distance: float
    cosine: float
    hypergradient_cosine: float


def sections(hessian: Tensor, values: Tensor, pictures: Sequence[Picture]) -> tuple[str, ...]:
    """The report's body; the first picture is the inverse itself."""
    return _gallery(hessian, pictures), _table(pictures), _responses(values, pictures)


def _gallery(hessian: Tensor, pictures: Sequence[Picture]) -> str:
    shown = [("Hessian", hessian), *((picture.name, picture.image) for picture in pictures)]
    columns = 3
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(9.4, 3.25 * rows), layout="constrained")
    for i, (name, image) in enumerate(shown):
        _draw(figure.add_subplot(rows, columns, i + 1), name, image.numpy())
    text = (
        "Entries by magnitude, blue for small and red for large, the largest of each square of "
        "entries, clipped; each picture has its own scale. Rows and columns are the weights of "
        "class 0, of class 1, and so on, then the biases."
    )
    picture = _html.picture(_figures.to_uri(figure), "the Hessian and the matrices")
    return _html.section("The matrices", text, picture)


def _draw(axes: Axes, name: str, image: np.ndarray) -> None:
    high = float(np.quantile(image, _CLIPPED))
    axes.imshow(image, cmap="coolwarm", vmin=0, vmax=high or 1.0, interpolation="nearest")
    axes.set_title(name, fontsize=9, loc="left")
    axes.set_xticks([])
    axes.set_yticks([])


def _table(pictures: Sequence[Picture]) -> str:
    headings = ["Stands for the inverse", "Relative distance", "Cosine", "Cosine of hypergradient"]
    cells = [
        [
            picture.name,
            f"{picture.distance:.4f}",
            f"{picture.cosine:.4f}",
            f"{picture.hypergradient_cosine:.4f}",
        ]
        for picture in pictures[1:]
    ]
    strong = int(np.argmin([picture.distance for picture in pictures[1:]]))
    text = (
        "Distance and cosine are Frobenius's, between whole matrices. A hypergradient only needs "
        "the inverse on one vector; the last column says how well it gets that."
    )
    return _html.section("How far they are", text, _html.table(headings, cells, strong))


def _responses(values: Tensor, pictures: Sequence[Picture]) -> str:
    figure, (axes,) = _figures.panels(1, height=3.8)
    colors = [ORANGE, PINK, GREEN, SKY, BLUE, RED]
    axes.loglog(values, pictures[0].response, color=GREY, linewidth=4, alpha=0.5, label="1/μ")
    for picture, color in zip(pictures[1:], colors, strict=False):
        mark, size = (".", 2) if picture.name.startswith("KFAC") else ("-", None)
        axes.loglog(values, picture.response, mark, color=color, markersize=size,
                    label=picture.name)  # fmt: skip
    _figures.finish(axes, "Along each eigenvector", "eigenvalue μ of the Hessian", "vᵀMv")
    text = (
        "A truncated series stops short where the curvature is small, and few products leave most "
        "of the inverse out."
    )
    drawn = _html.picture(_figures.to_uri(figure), "response along each eigenvector")
    return _html.section("Along each eigenvector", text, drawn)
