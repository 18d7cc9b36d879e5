"""Figures, tables and sentences of `hypernet-large` and `hypernet-depth`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes

from bestresponse.apps import _figures, _html
from bestresponse.apps.experiments.hypernet._many_fit import WAYS

Runs = Sequence[dict[str, Any]]
Found = Mapping[str, Runs]


def headline(found: Found, ways: Sequence[str]) -> dict[str, float | None]:
    """Of the deepest network: losses, the gap from validation to test, and what it costs."""
    network = found["grids"][-1]["network"]
    grids = _of(found["grids"], network=network)
    best, test = (_mean(grids, name) for name in ("best_validation", "best_test"))
    own = _of(found["runs"], network=network, way="hypernetwork")
    figures: dict[str, float | None] = {
        "hyperparameters": own[0]["hyperparameters"],
        "hypernetwork_weights": own[0]["phi"],
        "test_loss": _mean(own, "test"),
        "best_grid_test_loss": test,
        "best_grid_validation_loss": best,
        "time_ratio": _mean(own, "seconds") / _mean(grids, "seconds"),
    }
    for way in ways:
        runs = _of(found["runs"], network=network, way=way)
        for name in ("validation", "test", "retrained", "retrained_test"):
            figures[f"{way}_{name}"] = _mean(runs, name)
        figures[f"{way}_gap"] = _mean(runs, "test") - _mean(runs, "validation")
    return figures


def verdict(found: Found, ways: Sequence[str]) -> str:
    """The sentence."""
    parts = []
    for network in _networks(found):
        grids = _of(found["grids"], network=network)
        losses = [
            f"{_mean(_of(found['runs'], network=network, way=way), 'test'):.4f} ({WAYS[way].label})"
            for way in ways
        ]
        test = _mean(grids, "best_test")
        parts.append(f"{network}: {', '.join(losses)} and {test:.4f} (best of one decay)")
    return f"Test losses in the same time, {'; '.join(parts)}."


def sections(
    found: Found, networks: Iterable[str], published: Mapping[str, str]
) -> tuple[str, ...]:
    """The report's body."""
    return *(_curves(found, network) for network in networks), _table(found, published)


def _curves(found: Found, network: str) -> str:
    figure, (as_is, again) = _figures.panels(2, height=3.6)
    for axes, names in ((as_is, ("validation", "test")), (again, ("retrained", "retrained_test"))):
        for run in _of(found["runs"], network=network):
            first = run["seed"] == found["runs"][0]["seed"]
            for name, style in zip(names, ("-", "--"), strict=True):
                label = WAYS[run["way"]].label if first and style == "-" else None
                axes.plot(run["seconds"], run[name], style, color=WAYS[run["way"]].color,
                          linewidth=1.3, label=label)  # fmt: skip
        for grid in _of(found["grids"], network=network):
            axes.axhline(grid["best_validation"], color=_figures.GREY, linewidth=0.9)
            axes.axhline(grid["best_test"], color=_figures.GREY, linewidth=0.9, linestyle="--")
        _near(axes, found, network)
        _figures.log_counts(axes)
    _figures.finish(as_is, "weights of the run", "CPU seconds", "loss")
    _figures.finish(again, "weights trained from scratch", "CPU seconds", "loss", legend=False)
    run = _of(found["runs"], network=network)[0]
    text = (
        f"{run['hyperparameters']:,} decays, a hypernetwork of {run['phi']:,} weights. Validation "
        "losses are solid, test losses dashed, grey those of the best single decay, without its "
        "time. On the right the decays found so far, with weights trained from scratch."
    )
    picture = _html.picture(_figures.to_uri(figure), f"losses over time, {network}")
    return _html.section(network.capitalize(), text, picture)


def _near(axes: Axes, found: Found, network: str) -> None:
    """A range that shows what is near to the best single decay; lines may leave it above."""
    runs = _of(found["runs"], network=network)
    lowest = min(min(run[name]) for run in runs for name in ("validation", "retrained"))
    grids = _of(found["grids"], network=network)
    level = max(max(grid["best_validation"], grid["best_test"]) for grid in grids)
    room = abs(level - lowest) + 0.02 * abs(level)
    axes.set_ylim(lowest - 0.2 * room, level + room)


def _table(found: Found, published: Mapping[str, str]) -> str:
    headings = [
        "network", "way", "decays", "validation", "test", "gap", "retrained: validation", "test",
        "λ, mean ± deviation", "steps", "time ×", "published, validation",
    ]  # fmt: skip
    rows = []
    for network in _networks(found):
        grids = _of(found["grids"], network=network)
        plain = _mean(grids, "seconds")
        for way in dict.fromkeys(run["way"] for run in found["runs"]):
            rows.append(_row(network, _of(found["runs"], network=network, way=way), plain))
        validation, test = (_mean(grids, name) for name in ("best_validation", "best_test"))
        rows.append(
            [
                network, "one decay, best of the grid", "1", "–", "–", f"{test - validation:.4f}",
                f"{validation:.4f}", f"{test:.4f}", f"{_mean(grids, 'best'):.2f}", "–",
                f"{len(grids[0]['validation'])}", published.get(network, "–"),
            ]
        )  # fmt: skip
    text = (
        "Means over the seeds. The gap is test less validation loss, of the weights of the run; of "
        "the single decay, of weights trained there. Time is in trainings at one decay. "
        "With as many decays as weights a rank of ten sees next to nothing of the response, and a "
        "hypernetwork ends near where it started; hypergradients that know the training loss do "
        "not. This is the sub-optimality that Lorraine and Duvenaud report."
    )
    if published:
        text += (
            " Published: Lorraine and Duvenaud, one decay tuned by hand, in a comment of their "
            "LaTeX source only; neither loss nor data are given there."
        )
    return _html.section("All ways", text, _html.table(headings, rows))


def _row(network: str, runs: Runs, plain: float) -> list[str]:
    validation, test, retrained, retrained_test, mean, deviation, steps, seconds = (
        _mean(runs, name)
        for name in ("validation", "test", "retrained", "retrained_test", "mean", "deviation",
                     "steps", "seconds")
    )  # fmt: skip
    return [
        network, WAYS[runs[0]["way"]].label, f"{runs[0]['hyperparameters']:,}",
        f"{validation:.4f}", f"{test:.4f}", f"{test - validation:.4f}", f"{retrained:.4f}",
        f"{retrained_test:.4f}", f"{mean:.2f} ± {deviation:.2f}", f"{steps:.0f}",
        f"{seconds / plain:.0f}", "–",
    ]  # fmt: skip


def _networks(found: Found) -> list[str]:
    return list(dict.fromkeys(grid["network"] for grid in found["grids"]))


def _of(runs: Runs, **where: Any) -> list[dict[str, Any]]:
    return [run for run in runs if all(run[key] == value for key, value in where.items())]


def _mean(runs: Runs, name: str) -> float:
    """Over the seeds; of what was kept along the way, the last."""
    return fmean(run[name][-1] if isinstance(run[name], list) else run[name] for run in runs)
