"""What tuning costs: time and peak memory beside the same training without it."""

from __future__ import annotations

import statistics
from time import process_time
from typing import Any

from bestresponse.apps._fresh_process import in_fresh_process
from bestresponse.apps.experiments._threads import one_thread
from bestresponse.apps.experiments.overfit._peak import peak_of
from bestresponse.apps.experiments.overfit._run import RECIPES, Pace, Roles, plain, tuned

_TELLING = 4 << 20  # bytes; a smaller peak is a few pages, and its ratio chance


def cost(model: str, roles: Roles, pace: Pace, rounds: int) -> dict[str, Any]:
    """Time and memory of tuned training over those of plain training.

    Returns:
        Ready for JSON: `time` and `memory` as ratios, `seconds` and `bytes` of (plain, tuned).
        Memory is None where the system does not tell, and for small networks.
    """
    with one_thread():
        seconds = _seconds(model, roles, pace, rounds)
        plain_peak, tuned_peak = (_peak(model, kind, roles) for kind in ("plain", "tuned"))
    return {
        "time": seconds[1] / seconds[0],
        "memory": tuned_peak / plain_peak
        if plain_peak and tuned_peak and plain_peak >= _TELLING
        else None,
        "seconds": seconds,
        "bytes": [plain_peak, tuned_peak],
    }


def _seconds(model: str, roles: Roles, pace: Pace, rounds: int) -> list[float]:
    """Process CPU time from one hyperparameter step to the next; the two take turns."""
    trainings = [
        plain(RECIPES[model], roles, 0),
        tuned(RECIPES[model], roles, pace, 0)[0],
    ]
    taken: list[list[float]] = [[], []]
    for training in trainings:  # to the first hyperparameter step, which warms everything up
        training.step = RECIPES[model].warmup
        training.advance(training.step + pace.interval, lambda: True)
    for _ in range(rounds):
        for training, own in zip(trainings, taken, strict=True):
            start = process_time()
            training.advance(training.step + pace.interval, lambda: True)
            own.append(process_time() - start)
    return [statistics.median(own) for own in taken]


def _peak(model: str, kind: str, roles: Roles) -> int | None:
    """Peak memory, elsewhere."""
    asked = model, kind, roles.shape, roles.classes, len(roles.train)
    peak: int | None = in_fresh_process(peak_of, *asked)
    return peak
