"""What `jacnet fit` found: figures for one column, judgement for any number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression
from torch import Tensor

from bestresponse.apps import _figures, _html
from bestresponse.apps._figures import BLUE, GREEN, GREY, ORANGE
from bestresponse.apps.jacnet._tabular import TableModel

_CURVE = 400


@dataclass(frozen=True)
class Fitted:
    """A trained model with the data that it was trained and judged on.

    Attributes:
        model: y = f(x).
        xs: names of the columns x.
        ys: names of the columns y.
        train: rows (n, p + m) that it was trained on.
        test: rows that it was not.
        losses: of the training, in units of the targets' variance.
        decreasing: whether a monotone f falls.
    """

    model: TableModel
    xs: list[str]
    ys: list[str]
    train: Tensor
    test: Tensor
    losses: list[float]
    decreasing: bool

    def halves(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """X and y of rows."""
        return rows[:, : len(self.xs)], rows[:, len(self.xs) :]

    def rmse(self, rows: Tensor) -> float | None:
        """Root mean squared error, over that of the mean of the training targets."""
        if not len(rows):
            return None
        x, y = self.halves(rows)
        with torch.no_grad():
            return self._relative(self.model(x), y)

    def _relative(self, predicted: Tensor, y: Tensor) -> float:
        mean = self.halves(self.train)[1].mean(0)
        error, scale = (predicted - y).square().mean().sqrt(), (y - mean).square().mean().sqrt()
        return float(error / scale) if scale > 0 else float(error)

    @cached_property
    def round_trip(self) -> float | None:
        """The largest |f⁻¹(f(x)) − x| over the data, in units of the largest |x|."""
        if not self.model.is_invertible:
            return None
        x, _ = self.halves(torch.cat([self.train, self.test]))
        with torch.no_grad():
            back = self.model.inverse(self.model(x)).value
        return float((back - x).abs().max() / x.abs().max().clamp(min=1e-300))

    @cached_property
    def baselines(self) -> dict[str, tuple[float | None, float | None]]:
        """What a sensible person would do instead: relative errors on both parts."""
        x, y = (half.numpy() for half in self.halves(self.train))
        found = {"linear regression": LinearRegression().fit(x, y).predict}
        if self.model.shape.structure == "monotone" and len(self.xs) == 1:
            isotonic = IsotonicRegression(increasing=not self.decreasing, out_of_bounds="clip")
            isotonic.fit(x[:, 0], y[:, 0])
            found["isotonic regression"] = lambda z: isotonic.predict(z[:, 0])[:, None]
        errors: dict[str, tuple[float | None, float | None]] = {}
        for name, predict in found.items():
            both = []
            for rows in (self.train, self.test):
                z, target = self.halves(rows)
                both.append(
                    self._relative(torch.tensor(predict(z.numpy())), target) if len(rows) else None
                )
            errors[name] = (both[0], both[1])
        return errors

    @property
    def verdict(self) -> str:
        """One sentence."""
        test = self.rmse(self.test)
        judged = "" if test is None else f", {test:.3g} on held-out rows"
        return (
            f"{self.model.shape.structure}: root mean squared error {self.rmse(self.train):.3g} of "
            f"the spread on the training rows{judged}; {self.model.structure.certificate()}."
        )

    def headline(self) -> dict[str, float | None]:
        """The figures to know."""
        return {
            "test_error": self.rmse(self.test),
            "train_error": self.rmse(self.train),
            "round_trip_error": self.round_trip,
        }

    def lines(self) -> list[str]:
        """What the terminal says."""
        lines = [self.verdict]
        for name, (_, test) in self.baselines.items():
            if test is not None:
                lines.append(f"{name}: {test:.3g} on held-out rows.")
        if self.round_trip is not None:
            lines.append(f"Inverse: f⁻¹(f(x)) is x up to {self.round_trip:.1g}.")
        return lines


def report(fitted: Fitted, data: str, settings: dict[str, Any]) -> str:
    """The page."""
    sections = [_html.verdict(fitted.verdict)]
    if len(fitted.xs) == len(fitted.ys) == 1:
        sections.append(_curves(fitted))
    sections += [_residuals(fitted), _numbers(fitted), _guarantee(fitted)]
    sections.append(_html.settings(settings))
    subtitle = f"{', '.join(fitted.ys)} from {', '.join(fitted.xs)} of {data}"
    return _html.page("A function with a known structure", subtitle, sections)


def _curves(fitted: Fitted) -> str:
    """The function, its slope, its inverse, for one column each."""
    x, y = fitted.halves(fitted.train)
    low, high = float(x.min()), float(x.max())
    margin = 0.1 * (high - low)
    grid = torch.linspace(low - margin, high + margin, _CURVE, dtype=torch.float64)[:, None]
    with torch.enable_grad():
        leaf = grid.clone().requires_grad_()
        value = fitted.model(leaf)
        (slope,) = torch.autograd.grad(value.sum(), leaf)
    curve, at = value.detach()[:, 0].numpy(), grid[:, 0].numpy()
    invertible = fitted.model.is_invertible
    figure, axes = _figures.panels(3 if invertible else 2, height=3.4)
    for rows, color, label in ((fitted.train, GREY, "training"), (fitted.test, ORANGE, "held out")):
        if len(rows):
            one, other = (half[:, 0].numpy() for half in fitted.halves(rows))
            axes[0].plot(one, other, "o", color=color, markersize=3, alpha=0.6, label=label)
    axes[0].plot(at, curve, color=BLUE, label="f")
    _figures.finish(axes[0], "The function", fitted.xs[0], fitted.ys[0])
    axes[1].plot(at, slope[:, 0].numpy(), color=GREEN)
    _figures.finish(axes[1], "Its slope", fitted.xs[0], "", legend=False)
    if invertible:
        values = np.linspace(curve.min(), curve.max(), _CURVE)
        with torch.no_grad():
            back = fitted.model.inverse(torch.tensor(values)[:, None]).value[:, 0].numpy()
        axes[2].plot(y[:, 0].numpy(), x[:, 0].numpy(), "o", color=GREY, markersize=3, alpha=0.6)
        axes[2].plot(values, back, color=BLUE)
        _figures.finish(axes[2], "Its inverse", fitted.ys[0], fitted.xs[0], legend=False)
    picture = _html.picture(_figures.to_uri(figure), "the function, its slope and its inverse")
    return _html.section("What was learned", "", picture)


def _residuals(fitted: Fitted) -> str:
    figure, axes = _figures.panels(3, height=3.2)
    for rows, color, label in ((fitted.train, GREY, "training"), (fitted.test, ORANGE, "held out")):
        if not len(rows):
            continue
        x, y = fitted.halves(rows)
        with torch.no_grad():
            predicted = fitted.model(x)
        residual = (y - predicted).flatten().numpy()
        axes[0].plot(predicted.flatten().numpy(), y.flatten().numpy(), "o", color=color,
                     markersize=3, alpha=0.6, label=label)  # fmt: skip
        axes[1].plot(predicted.flatten().numpy(), residual, "o", color=color, markersize=3,
                     alpha=0.6)  # fmt: skip
    _, every = fitted.halves(fitted.train)
    ends = [float(every.min()), float(every.max())]
    axes[0].plot(ends, ends, color=BLUE, linewidth=1)
    axes[1].axhline(0, color=BLUE, linewidth=1)
    axes[2].semilogy(fitted.losses, color=BLUE)
    _figures.finish(axes[0], "Observed over predicted", "predicted", "observed")
    _figures.finish(axes[1], "Residuals", "predicted", "observed − predicted", legend=False)
    _figures.finish(axes[2], "Training", "evaluation", "loss", legend=False)
    picture = _html.picture(_figures.to_uri(figure), "residuals and training")
    return _html.section("How it fits", "", picture)


def _numbers(fitted: Fitted) -> str:
    own = (fitted.rmse(fitted.train), fitted.rmse(fitted.test))
    rows = {fitted.model.shape.structure: own, **fitted.baselines}
    cells = [[name, *map(_figure, errors)] for name, errors in rows.items()]
    headings = ["", f"{len(fitted.train)} training rows", f"{len(fitted.test)} held-out rows"]
    text = (
        "Root mean squared errors as a share of that of the mean of the training targets: 0 is "
        "perfect, 1 is no better than that mean. The held-out rows chose nothing."
    )
    return _html.section("The numbers", text, _html.table(headings, cells, strong=0))


def _guarantee(fitted: Fitted) -> str:
    lines: Sequence[str] = [f"{fitted.model.structure.certificate()} (in scaled units)."]
    if fitted.round_trip is not None:
        lines = [*lines, f"f⁻¹(f(x)) is x up to {fitted.round_trip:.1g} of the largest |x|."]
    return _html.section("What is guaranteed", "", _html.sentences(lines))


def _figure(value: float | None) -> str:
    return "—" if value is None else f"{value:.4f}"
