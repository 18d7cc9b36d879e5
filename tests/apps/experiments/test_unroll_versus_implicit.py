"""Unrolling beside the implicit theorem: equality, the predicted rate, and the common limit."""

import pytest

from bestresponse.apps.experiments.inverse.unroll_versus_implicit import UnrollVersusImplicit

QUICK = dict(rows=40, decay=0.3, longest=128, truncate=8)


@pytest.fixture(scope="module")
def done(run):
    return run(UnrollVersusImplicit, **QUICK)


def test_from_the_optimum_unrolled_steps_equal_the_series(done):
    findings, _, _ = done
    assert findings.headline["largest_difference"] < 1e-10
    curves = findings.curves
    assert curves["unrolled"] == pytest.approx(curves["series"], rel=1e-9)


def test_the_eigenvalues_predict_every_error(done):
    findings, _, _ = done
    assert findings.headline["largest_deviation_from_prediction"] < 1e-6
    rates = [findings.headline[name] for name in ("rate_measured", "slowest_rate_predicted")]
    assert rates[0] == pytest.approx(rates[1], abs=1e-2) and 0 < rates[0] < rates[1] < 1


def test_errors_shrink_with_the_length(done):
    curves = done[0].curves
    for name in ("unrolled", "from_zero", "implicit", "weights"):
        assert curves[name] == sorted(curves[name], reverse=True), name
        assert curves[name][-1] < 1e-2 < 0.1 < curves[name][0]


def test_a_truncated_unroll_keeps_its_error(done):
    curves = done[0].curves
    short = curves["steps"].index(QUICK["truncate"])
    assert curves["truncated"][: short + 1] == pytest.approx(curves["from_zero"][: short + 1])
    assert curves["truncated"][-1] == pytest.approx(curves["unrolled"][short], rel=1e-2)


def test_lengths_end_at_the_longest():
    assert UnrollVersusImplicit(longest=100).lengths == [2, 4, 7, 13, 25, 50, 100]
    assert UnrollVersusImplicit(longest=1).lengths == [1]


def test_headline_is_on_disk_and_in_the_terminal(done, headline_of):
    findings, out, printed = done
    assert headline_of(out) == findings.headline
    assert all(isinstance(value, float) for value in findings.headline.values())
    assert all(name in printed for name in findings.headline) and findings.verdict in printed
