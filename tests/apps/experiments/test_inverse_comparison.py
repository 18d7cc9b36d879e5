"""Accuracy against work: the regression in closed form, the yardsticks, and what is reported."""

import json
import math
from pathlib import Path

import pytest
import torch

import bestresponse as br
from bestresponse import cli
from bestresponse.apps.experiments._roles import roles
from bestresponse.apps.experiments._threads import one_thread
from bestresponse.apps.experiments.inverse._accuracy_problems import logistic
from bestresponse.apps.experiments.inverse._contenders import CONTENDERS, PLAIN_CG, RECOMMENDED
from bestresponse.apps.experiments.inverse._race import RACERS, grid, race
from bestresponse.apps.experiments.inverse._regression import regression
from bestresponse.apps.experiments.inverse._work import (
    Bench,
    Reading,
    apart,
    budgets,
    curve,
    reaching,
    trajectory,
    warm_reaching,
)
from bestresponse.apps.experiments.inverse.comparison import InverseComparison

UCI = Path(__file__).parents[4] / "shared" / "data" / "uci"
QUICK = dict(
    seeds=(0, 1), rows=60, cap=12, rounds=1, outer_steps=1, race_steps=2, race_rows=40
)  # fmt: skip


def no_say(words):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as UCI's are."""
    path = tmp_path_factory.mktemp("uci") / "table"
    path.mkdir()
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 4, generator=generator, dtype=torch.float64) * 3 + 1
    targets = features @ torch.tensor([1.0, -2.0, 0.0, 0.5]).double() + 5
    targets += torch.randn(60, generator=generator, dtype=torch.float64)
    rows = torch.cat([features, targets[:, None]], 1).tolist()
    write = lambda name, lines: (path / name).write_text("\n".join(map(str, lines)))  # noqa: E731
    write("data.txt", [" ".join(map(str, row)) for row in rows])
    write("index_features.txt", range(4))
    write("index_target.txt", [4])
    write("index_train_0.txt", range(50))
    return path


@pytest.fixture(scope="module")
def problem():
    torch.set_default_dtype(torch.float32)
    return logistic("digits", 0, 80, 40)


@pytest.fixture(scope="module")
def done(run, folder):
    return run(InverseComparison, uci=folder, **QUICK)


# --- the regression


def exact_by(method, problem):
    problem.decay.zero_grad()
    problem.nested(method)(problem.inner_batch, problem.outer_batch)[0].backward()
    return problem.gradient()


def test_closed_form_is_the_dense_solve(folder):
    problem = regression(folder)
    found = exact_by(br.Implicit(br.Dense()), problem)
    assert apart(found, problem.reference)[1] < 1e-8


def test_targets_are_one_number_a_row(folder):
    problem = regression(folder)
    outputs = problem.predict(*problem.inner_batch)
    assert outputs.shape == (45, 1) and problem.inner_batch[1].shape == (45,)
    expected = ((outputs[:, 0] - problem.inner_batch[1]) ** 2).mean()
    assert torch.equal(problem.outer(*problem.inner_batch), expected)


def test_inner_rows_are_standardised(folder):
    features, targets = regression(folder).inner_batch
    for column in (*features.T, targets):
        assert float(column.mean()) == pytest.approx(0, abs=1e-9)
        assert float(column.std()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["bostonHousing", "yacht", "wine-quality-red"])
def test_closed_form_on_real_tables(name):
    if not (UCI / name).is_dir():
        pytest.skip(f"the data in {UCI} is not here")
    problem = regression(UCI / name)
    assert apart(exact_by(br.Implicit(br.Dense()), problem), problem.reference)[1] < 1e-8


# --- accuracy and work


def test_budgets_grow_to_the_cap():
    assert budgets(1) == [1]
    assert budgets(12) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12]
    assert budgets(80)[-1] == 80 and len(budgets(80)) == len(set(budgets(80)))


def test_a_hypergradient_of_nothing_is_far():
    exact = torch.ones(3)
    assert apart(torch.zeros(3), exact) == (0.0, 1.0)
    assert apart(torch.full((3,), math.nan), exact) == (0.0, 1.0)
    assert apart(-exact, exact) == pytest.approx((-1.0, 2.0))


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.key)
def test_every_contender_gets_nearer_with_steps(problem, contender):
    bench = Bench(problem, contender)
    near, far = (bench.read(steps, problem.point.reference) for steps in (12, 1))
    assert near.work > 0 and math.isfinite(near.distance)
    if contender.budget:
        assert 0 < far.cosine < near.cosine <= 1 + 1e-6 and near.products > far.products
    else:
        assert near.cosine == pytest.approx(far.cosine) and near.products == far.products


def test_single_calls_know_of_no_other(problem):
    """Where a contender has a memory, a reading after others is the same."""
    bench = Bench(problem, RECOMMENDED)
    first = bench.read(2, problem.point.reference)
    bench.read(9, problem.point.reference)
    again = bench.read(2, problem.point.reference)
    assert (again.cosine, again.products) == (first.cosine, first.products)


def test_the_smallest_number_of_steps_is_found(problem):
    exact, bench = problem.point.reference, Bench(problem, PLAIN_CG)
    readings = curve(bench, [1, 8, 40], exact)
    found = reaching(bench, readings, 0.9, exact, 1)
    assert found.cosine >= 0.9 > bench.read(found.steps - 1, exact).cosine
    assert reaching(bench, readings[:1], 0.999, exact, 1) is None


def test_the_trajectory_is_one_of_best_responses(problem):
    points = trajectory(problem, 2, no_say)
    moved = [float((p.log_decays - points[0].log_decays).abs().max()) for p in points]
    assert moved == pytest.approx([0, 0.05, 0.1], abs=1e-3)
    for point in points[1:]:
        gradient = problem.objective(point.log_decays).gradient(point.weights)
        assert float(gradient.abs().max()) <= 1e-8


def test_a_memory_saves_steps_along_the_way(problem):
    points = trajectory(problem, 3, no_say)
    by_key = {contender.key: contender for contender in CONTENDERS}
    steps = {
        key: warm_reaching(Bench(problem, by_key[key], warm=True), problem, points, 0.99, 60, 1)[0]
        for key in ("plain_cg", "warm_cg")
    }
    assert steps["warm_cg"] < steps["plain_cg"]
    short = Bench(problem, PLAIN_CG, warm=True)
    assert warm_reaching(short, problem, points, 0.9999, 2, 1) is None


# --- the race


def test_racers_start_alike_and_lower_the_validation_loss(problem):
    (_, _, test), _ = roles("digits", 80, 40, 80)
    laps = [race(racer, problem, test, 5, no_say) for racer in RACERS]
    laps.append(grid(problem, test, no_say))
    assert len({round(lap.losses[0], 6) for lap in laps[:-1]}) == 1
    for lap in laps:
        assert lap.losses == sorted(lap.losses, reverse=True), lap.key
        assert lap.seconds == sorted(lap.seconds) and 0 <= lap.test_accuracy <= 1


# --- what is reported


def test_headline_has_the_promised_figures(done, headline_of):
    findings, out, printed = done
    headline = headline_of(out)
    assert headline == findings.headline
    promised = [
        f"{who}_{what}"
        for who in ("recommended", "plain_cg")
        for what in ("work_cosine_0.98", "work_cosine_0.997", "warm_work_cosine_0.99")
    ]
    assert set(promised) <= set(headline) and all(name in printed for name in promised)
    assert all(headline[name] is None or headline[name] > 0 for name in promised)
    assert headline["recommended_work_cosine_0.98"] > 0
    assert headline["plain_cg_work_cosine_0.997"] is None  # not within 12 products
    assert headline["uci_plain_cg_smallest_distance"] < 1e-6


def test_headline_is_the_mean_of_the_seeds(done):
    findings, out, _ = done
    curves = json.loads((out / "result.json").read_text())["curves"]
    reached = [seed[0]["work"] for seed in curves["accuracy"]["recommended"]["reached"]]
    assert len(reached) == 2
    expected = pytest.approx(sum(reached) / 2)
    assert findings.headline["recommended_work_cosine_0.98"] == expected


def test_readings_are_numbers_for_every_contender(done):
    curves = done[0].curves["accuracy"]
    assert set(curves) == {contender.key for contender in CONTENDERS}
    for track in curves.values():
        for readings in track["readings"]:
            assert all(Reading(**reading).work > 0 for reading in readings)


def test_threads_are_as_they_were():
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


# --- refusals


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--seeds"], "--seeds is empty"),
        (["--seeds", "1", "1"], "--seeds is 1 1"),
        (["--cap=0"], "--cap is 0"),
        (["--rounds=-1"], "--rounds is -1"),
        (["--race-rows=2"], "--race-rows is 2"),
        (["--race-rows=1000"], "1000 + 500 + 1000 are asked for"),
        (["--uci=nowhere"], "--uci nowhere has no data.txt"),
    ],
)
def test_bad_flags_are_a_sentence(capsys, flags, says):
    assert cli.main(["experiment", "inverse-comparison", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line and line.endswith(".")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("data.txt", "1 2 three\n", "is no table of numbers"),
        ("index_train_0.txt", "999\n", "reach beyond"),
    ],
)
def test_a_damaged_table_is_a_sentence(folder, tmp_path, name, text, says):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_text(text)
    with pytest.raises(br.InputError, match=says):
        regression(tmp_path)
