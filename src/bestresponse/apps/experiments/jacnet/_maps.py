"""Structures trained on maps of several dimensions, and what becomes of their guarantees."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from time import process_time

import torch
from torch import Tensor, nn

from bestresponse import jacnet
from bestresponse.apps.experiments.jacnet._targets import Map, data, relative_error

_BATCH = 128
_JUDGED = 64  # test points at which Jacobians and inverses are looked at


@dataclass(frozen=True)
class Contender:
    """A structure for a dimension.

    Attributes:
        label: its name.
        make: an untrained one, for a dimension.
        lr: of Adam, at the start of a falling rate.
        guaranteed: whether it is surely invertible.
        curl: weight of a penalty on the curl of a `PathIntegral`.
        iterations: of Adam, relative to the experiment's.
    """

    label: str
    make: Callable[[int], nn.Module]
    lr: float
    guaranteed: bool = True
    curl: float = 0.0
    iterations: float = 1.0


@dataclass(frozen=True)
class Outcome:
    """A trained structure.

    Attributes:
        label: its name.
        error: relative to the spread of the targets, on test points.
        least_determinant: of the true Jacobian times the sign of the target's, at test points.
        round_trip: the largest |f⁻¹(f(x)) − x|; infinite where an inverse was not found.
        defect: how far the Jacobian it means is from the true one, the median.
        path_gap: what two paths disagree by, the median; None for a plain network.
        ms: of an iteration, processor time.
        guaranteed: whether it is surely invertible.
    """

    label: str
    error: float
    least_determinant: float
    round_trip: float
    defect: float | None
    path_gap: float | None
    ms: float
    guaranteed: bool


def perceptron(dim: int) -> nn.Module:
    """No structure at all."""
    return nn.Sequential(
        nn.Linear(dim, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, dim)
    )


def train(contender: Contender, target: Map, dim: int, iterations: int, seed: int = 0) -> Outcome:
    """Mean squared error by Adam at a falling rate, in float64, and a look at the result."""
    x, y, x_test, y_test = data(target, dim)
    torch.manual_seed(seed)
    model = contender.make(dim).double()
    steps = max(1, round(contender.iterations * iterations))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], contender.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator, start = torch.Generator().manual_seed(seed), process_time()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "PathIntegral in")  # what it warns of is shown
        for _ in range(steps):
            rows = torch.randint(len(x), (_BATCH,), generator=generator)
            loss = (model(x[rows]) - y[rows]).square().mean()
            if contender.curl:
                assert isinstance(model, jacnet.PathIntegral)
                loss = loss + contender.curl * model.curl_penalty(x[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        ms = 1e3 * (process_time() - start) / steps
        return _judged(contender, model, x_test, y_test, ms)


def _judged(
    contender: Contender, model: nn.Module, x_test: Tensor, y_test: Tensor, ms: float
) -> Outcome:
    with torch.no_grad():
        error = relative_error(model(x_test), y_test)
    x = x_test[:_JUDGED]
    jacobian = _jacobian(model, x)
    defect = gap = None
    round_trip = math.inf
    if isinstance(model, jacnet.Structure):
        defect = model.conservativity(x).defect
        gap = float(model.path_gap(x).median())
        with torch.no_grad():
            round_trip = _round_trip(model, x)
    least = float(torch.linalg.det(jacobian).min())
    return Outcome(contender.label, error, least, round_trip, defect, gap, ms, contender.guaranteed)


def _jacobian(model: nn.Module, x: Tensor) -> Tensor:
    if isinstance(model, jacnet.Structure):
        return model.jacobian(x).detach()
    return torch.func.vmap(torch.func.jacrev(lambda z: model(z)))(x).detach()


def _round_trip(model: jacnet.Structure, x: Tensor) -> float:
    if isinstance(model, jacnet.PathIntegral) and not model.activation.invertible:
        return math.inf
    if isinstance(model, jacnet.Potential):
        return math.inf
    found = model.inverse(model(x), throw=False)
    assert found.converged is not None
    error = float((found.value - x).abs().nan_to_num(math.inf).max())
    return error if bool(found.converged.all()) else math.inf


def gram(dim: int) -> nn.Module:
    """The paper's structure, from its mean value."""
    return jacnet.PathIntegral(dim, dim, activation=jacnet.Gram(0.01), rule=jacnet.GaussLegendre(8))


def free(dim: int) -> nn.Module:
    """The same without a structure."""
    return jacnet.PathIntegral(dim, dim, activation=jacnet.Free(), rule=jacnet.GaussLegendre(8))


def rotated(make: Callable[[], jacnet.Structure], layers: int, dim: int) -> jacnet.Compose:
    """Layers of one kind with rotations before, between and after them."""
    stack: list[jacnet.Structure] = [jacnet.Rotation(dim, seed=99)]
    for i in range(layers):
        stack += [make(), jacnet.Rotation(dim, seed=i)]
    return jacnet.Compose(stack)


def cells(outcome: Outcome) -> list[str]:
    """One row of a table."""
    return [
        outcome.label,
        f"{outcome.error:.3f}",
        f"{outcome.least_determinant:.2g}",
        "not found" if math.isinf(outcome.round_trip) else f"{outcome.round_trip:.0e}",
        "—" if outcome.defect is None else f"{outcome.defect:.2g}",
        "—" if outcome.path_gap is None else f"{outcome.path_gap:.1g}",
        f"{outcome.ms:.1f}",
    ]


HEADINGS = (
    "structure", "test error", "least determinant", "inverse, largest error", "defect", "path gap",
    "ms an iteration",
)  # fmt: skip


def best(outcomes: list[Outcome]) -> Outcome:
    """The guaranteed one with the lowest error."""
    return min((o for o in outcomes if o.guaranteed), key=lambda o: o.error)
