"""Invertible, conservative and Kronecker structures in several dimensions."""

import math

import pytest
import torch

from bestresponse.apps.experiments.jacnet import _maps as maps
from bestresponse.apps.experiments.jacnet import conservation as jacnet_conservation
from bestresponse.apps.experiments.jacnet import invertible as jacnet_invertible
from bestresponse.apps.experiments.jacnet import kronecker as jacnet_kronecker
from bestresponse.apps.experiments.jacnet._targets import transport, twist

ACCEPTED = [
    (transport, 2, jacnet_invertible.INPUT_CONVEX, 1500, 0.02),
    (transport, 8, jacnet_invertible.LOG_SUM_EXP, 1000, 0.12),
    (transport, 16, jacnet_invertible.LOG_SUM_EXP, 800, 0.28),
    (twist, 2, jacnet_invertible.SKEWED, 1000, 0.10),
    (twist, 8, jacnet_invertible.SKEWED, 800, 0.17),
]


@pytest.mark.parametrize(
    ("target", "dim", "contender", "iterations", "limit"),
    ACCEPTED,
    ids=[f"{target.__name__}-{dim}" for target, dim, *_ in ACCEPTED],
)
def test_the_best_guaranteed_structures_reach_what_was_asked(
    target, dim, contender, iterations, limit
):
    found = maps.train(contender, target(dim), dim, iterations)
    assert found.guaranteed
    assert found.error <= limit
    assert found.least_determinant > 0
    assert found.round_trip <= 1e-9
    assert found.defect <= 1e-12
    assert found.path_gap <= 1e-10


def test_the_papers_structure_folds_and_inverts_wrongly():
    found = maps.train(maps.Contender("gram", maps.gram, 0.01), twist(2), 2, 400)
    assert found.defect > 0.1
    assert found.path_gap > 0.01
    assert found.least_determinant < 0 or found.round_trip > 1e-3


@pytest.mark.parametrize("dim", [2, 8])
def test_the_targets_are_what_they_are_said_to_be(dim):
    x = torch.randn(32, dim, dtype=torch.float64)
    slopes = {
        target.__name__: torch.func.vmap(torch.func.jacrev(target(dim)))(x)
        for target in (transport, twist)
    }
    gradient = slopes["transport"]
    assert (gradient - gradient.mT).abs().max() < 1e-12
    assert torch.linalg.eigvalsh(gradient).min() >= 0.3 - 1e-12
    turned = slopes["twist"]
    assert (torch.linalg.det(turned) - 1).abs().max() < 1e-10  # an angle that depends on a length
    assert torch.linalg.eigvals(turned).imag.abs().max() > 0.5
    assert torch.linalg.eigvalsh((turned + turned.mT) / 2).min() < 0


def test_the_experiments_write_their_reports(tmp_path):
    runs = (
        jacnet_invertible.JacNetInvertible(dims=(2,), iterations=3, out=tmp_path / "i"),
        jacnet_conservation.JacNetConservation(dims=(2,), iterations=3, out=tmp_path / "c"),
        jacnet_kronecker.JacNetKronecker(iterations=3, rounds=1, out=tmp_path / "k"),
    )
    for run in runs:
        findings = run.run()
        assert all(
            value is not None and math.isfinite(value) for value in findings.headline.values()
        )
        assert "<img" in (run.out / "report.html").read_text()
    assert findings.headline["field_path_gap"] > 0.01
