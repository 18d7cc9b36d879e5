"""The estimators: what scikit-learn asks of them, what they guarantee, what they refuse."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.utils.estimator_checks import check_estimator

import bestresponse as br
from bestresponse.apps.estimators import (
    Calibrator,
    LipschitzRegressor,
    MonotoneRegressor,
    TransportMap,
)

RANDOM = np.random.default_rng(0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "estimator",
    [
        MonotoneRegressor(iterations=20),
        LipschitzRegressor(bound=100.0, iterations=20),
        Calibrator(iterations=20),
        TransportMap(iterations=10),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_scikit_learns_own_checks(estimator):
    outcomes = check_estimator(estimator, on_fail=None)
    failed = [each["check_name"] for each in outcomes if each["status"] == "failed"]
    assert len(outcomes) > 40
    assert failed == []


@pytest.mark.parametrize("seed", range(3))
def test_it_is_monotone_where_it_was_asked_to_be_whatever_the_data_say(seed):
    """Targets that are pure noise, and falling ones."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(60, 3))
    y = random.normal(size=60) - x[:, 0]
    model = MonotoneRegressor([1, -1, 0], iterations=40).fit(x, y)
    at = np.repeat(random.normal(size=(1, 3)), 500, axis=0)
    for feature, sign in ((0, 1), (1, -1)):
        line = at.copy()
        line[:, feature] = np.linspace(-6, 6, 500)
        assert (sign * np.diff(model.predict(line)) > 0).all()


def test_a_monotone_law_is_found_and_inverted():
    x = np.linspace(0.1, 5, 60)[:, None]
    model = MonotoneRegressor().fit(x, np.log(x[:, 0]))
    new = np.linspace(0.2, 4.9, 33)
    assert np.abs(model.predict(new[:, None]) - np.log(new)).mean() < 0.02
    assert np.abs(model.inverse_predict(model.predict(new[:, None])) - new).max() < 1e-12
    falling = MonotoneRegressor([-1]).fit(x, -np.log(x[:, 0]))
    assert np.abs(falling.inverse_predict(falling.predict(new[:, None])) - new).max() < 1e-12


def test_beyond_the_data_the_inverse_asks_first():
    x = np.linspace(0, 1, 20)[:, None]
    model = MonotoneRegressor(iterations=20).fit(x, 2 * x[:, 0])
    low, high = model.range_
    with pytest.raises(br.InputError, match=r"Value number 1, 9, lies outside of the range .* to"):
        model.inverse_predict([(low + high) / 2, 9.0])
    far = model.inverse_predict([9.0], extrapolate=True)
    assert abs(model.predict(far[:, None])[0] - 9) < 1e-9


@pytest.mark.parametrize("bound", [0.5, 2.0])
def test_the_gradient_stays_within_the_bound(bound):
    """Targets that are much steeper; in the units of the data."""
    x = RANDOM.normal(size=(80, 2)) * [1.0, 30.0]
    y = 50 * np.sin(x[:, 0]) + x[:, 1] ** 2
    model = LipschitzRegressor(bound, iterations=40).fit(x, y)
    one, other = RANDOM.normal(size=(2, 4000, 2)) * [1.0, 30.0]
    steep = np.abs(model.predict(one) - model.predict(other)) / np.linalg.norm(one - other, axis=1)
    assert steep.max() <= bound * (1 + 1e-9)
    assert steep.max() >= 0.4 * bound  # it makes use of it


def test_probabilities_rise_with_the_score_and_come_back():
    score = RANDOM.normal(size=(400, 1)) * 3
    y = (RANDOM.random(400) < 1 / (1 + np.exp(-2 * score[:, 0]))).astype(int)
    model = Calibrator().fit(score, y)
    grid = np.linspace(-8, 8, 300)
    p = model.predict_proba(grid[:, None])[:, 1]
    assert (np.diff(p) > 0).all()
    true = 1 / (1 + np.exp(-2 * grid))
    isotonic = IsotonicRegression(out_of_bounds="clip").fit(score[:, 0], y).predict(grid)
    assert np.abs(p - true).mean() < np.abs(isotonic - true).mean()
    inside = (p > max(model.range_[0], 1e-3)) & (p < min(model.range_[1], 1 - 1e-3))
    assert np.abs(model.inverse_predict(p[inside]) - grid[inside]).max() < 1e-9
    with pytest.raises(br.InputError, match="lies outside of the range"):
        model.inverse_predict([1.5])


def test_a_transport_map_moves_one_normal_sample_onto_another():
    """The optimal map between normal distributions is linear, and known."""
    x = RANDOM.normal(size=(1500, 2)) * [1.0, 2.0]
    target = RANDOM.normal(size=(1500, 2)) @ np.array([[1.0, 0.6], [0.0, 0.8]]) + [3.0, -1.0]
    model = TransportMap(target, iterations=300).fit(x)
    moved = model.transform(x)
    assert np.abs(moved.mean(0) - target.mean(0)).max() < 0.1
    assert np.abs(np.cov(moved.T) - np.cov(target.T)).max() < 0.15
    assert np.abs(model.inverse_transform(moved) - x).max() < 1e-10
    assert np.abs(model.inverse_predict(model.predict(x)) - x).max() < 1e-10


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda x, y: MonotoneRegressor([1]).fit(x, y), "must hold 1, -1 or 0 for each of the 2"),
        (lambda x, y: MonotoneRegressor([0, 0]).fit(x, y), "and not only zeros"),
        (lambda x, y: MonotoneRegressor(iterations=5).fit(x, y).inverse_predict(y),
         "has 2 features, so that a prediction does not determine them"),
        (lambda x, y: LipschitzRegressor(bound=-1).fit(x, y), "bound=-1 must be positive"),
        (lambda x, y: LipschitzRegressor(iterations=5).fit(x, y).inverse_predict(y),
         "need not be one to one"),
        (lambda x, y: TransportMap(np.ones((4, 3))).fit(x), "target has 3 columns and the sam"),
        (lambda x, y: TransportMap(potential="cubic").fit(x), "'cubic' is unknown; use ridge"),
        (lambda x, y: Calibrator(iterations=5).fit(x, y > 0).inverse_predict([0.5]),
         "does not determine several scores"),
    ],
)  # fmt: skip
def test_refusals(act, words):
    x = RANDOM.normal(size=(20, 2))
    with pytest.raises(br.InputError, match=words):
        act(x, RANDOM.normal(size=20))
