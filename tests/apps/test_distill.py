"""`bestresponse distill`, as a user types it, and the solves and derivatives under it."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.optimize import minimize
from torch import nn

import bestresponse as br
from bestresponse import cli
from bestresponse.apps._run import is_run
from bestresponse.apps._training import score
from bestresponse.apps.distill import _adam, _implicit
from bestresponse.apps.distill._files import ARRAYS, PICTURE, TABLE, files, read_back
from bestresponse.apps.distill._implicit import ImplicitDistiller, solve
from bestresponse.apps.distill._keeper import Stretch
from bestresponse.apps.distill._problem import as_bytes, in_eight_bits, make_problem
from bestresponse.apps.distill._trace import Trace
from bestresponse.apps.distill._unroll import UnrollDistiller
from bestresponse.data import Dataset, load
from bestresponse.hyper import Distilled


@pytest.fixture
def problem():
    return make_problem(load("digits"), 10, None, 0)


ROLES = {"train", "validation", "test"}


@pytest.fixture(autouse=True)
def _as_a_user_has_it(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def distill(*arguments):
    return cli.main(["distill", "--threads", "1", *arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with the defaults, on fewer steps."""
    torch.set_default_dtype(torch.float32)
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert distill("--steps", "25", "--out", str(out)) == 0
    return out


def result(out):
    return json.loads((out / "result.json").read_text())


def test_ten_images_teach_the_digits(made):
    head = result(made)["headline"]
    assert next(iter(head)) == "test_accuracy"
    assert head["test_accuracy"] > 0.93
    assert 0.93 < head["full_data_test_accuracy"] < 0.99
    assert head["first_images_test_accuracy"] < head["test_accuracy"] - 0.03
    assert head["read_back_test_accuracy"] == head["test_accuracy"]  # the very same pixels
    assert len(result(made)["seeds"]) == 3
    assert is_run(made)


def test_the_accuracy_is_that_of_anyones_logistic_regression_on_the_file(made):
    """Read by the public loader, fitted by SciPy, judged on the test role of seed 0."""
    few, digits = load(made / TABLE), load("digits")
    assert few.class_names == digits.class_names
    assert few.labels.tolist() == list(range(10))
    x, y = few.inputs.double().flatten(1) / few.max_value, few.labels

    def value_and_gradient(flat):
        weights = torch.from_numpy(flat.copy()).view(10, -1).requires_grad_()
        logits = x @ weights[:, :-1].T + weights[:, -1]
        loss = F.cross_entropy(logits, y) + 0.5 * 0.01 * weights.square().sum()
        loss.backward()
        return loss.item(), weights.grad.flatten().numpy()

    found = minimize(
        value_and_gradient, np.zeros(10 * 65), jac=True, options={"gtol": 1e-9, "maxiter": 2000}
    )
    weights = torch.from_numpy(found.x).view(10, -1)
    test = br_split(digits).test
    inputs, labels = test.batch()
    predicted = (inputs.double().flatten(1) @ weights[:, :-1].T + weights[:, -1]).argmax(1)
    accuracy = (predicted == labels).double().mean().item()
    assert accuracy == pytest.approx(result(made)["seeds"][0]["test_accuracies"][0], abs=1e-12)


def br_split(dataset):
    from bestresponse.data import split

    return split(dataset, validation=len(dataset) // 10, seed=0)


def test_all_files_hold_the_same_pixels(made):
    arrays = np.load(made / ARRAYS)
    assert set(arrays) == {"images", "labels", "weights", "class_names"}
    pixels = (arrays["images"] * 255).round().astype(np.uint8)
    np.testing.assert_allclose(arrays["images"], pixels / np.float32(255), atol=1e-7)
    np.testing.assert_array_equal(load(made / TABLE).inputs.numpy(), pixels)
    with Image.open(made / PICTURE) as image:
        grid = np.asarray(image)
    scale = 14
    assert grid.shape == (9 * scale, 90 * scale)
    np.testing.assert_array_equal(grid[::scale, ::scale][:8, 9:17], pixels[1, 0])
    page = (made / "report.html").read_text()
    assert page.count("<img") == 2
    for words in ("the ceiling", "read back from the Parquet file", "choose nothing", "Cost"):
        assert words in page


def test_the_roles_are_apart_and_the_test_set_is_the_same_whatever_is_learned():
    problem = make_problem(load("digits"), 10, None, 0)
    rows = {role: set(getattr(problem, role).split.indices.tolist()) for role in ROLES}
    assert sum(map(len, rows.values())) == 1797 == len(set.union(*rows.values()))


def exact(images=12, learn=frozenset(), decay=0.05, steps=5):
    return ImplicitDistiller(images, frozenset(learn), decay, steps)


def dense_answer(data, decay):
    """The optimum by another solver, and the loss there."""
    x, y = data.images.detach().double().flatten(1), data.labels.detach()

    def value_and_gradient(flat):
        weights = torch.from_numpy(flat.copy()).view(10, -1).requires_grad_()
        logits = x @ weights[:, :-1].T + weights[:, -1]
        losses = data.weights.detach().double() * F.cross_entropy(logits, y, reduction="none")
        loss = losses.mean() + 0.5 * decay * weights.square().sum()
        loss.backward()
        return loss.item(), weights.grad.flatten().numpy()

    options = {"gtol": 1e-12, "ftol": 1e-15, "maxiter": 5000, "maxfun": 9000}
    start = np.zeros(10 * (x.shape[1] + 1))
    return minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options).x


@pytest.mark.parametrize("learn", [(), ("labels", "weights")])
def test_the_inner_problem_is_solved(learn):
    problem = make_problem(load("digits"), 12, None, 0)
    distiller = exact(learn=learn)
    data = problem.start(12, distiller.learn, None, torch.float64)
    if learn:
        data.log_weights.data = torch.linspace(-1, 1, 12, dtype=torch.float64)
    net = distiller.train(data, problem, 0)
    weights = torch.cat([net[1].weight, net[1].bias[:, None]], dim=1).detach()
    reference = torch.from_numpy(dense_answer(data, 0.05)).view(10, -1)
    assert (weights - reference).norm() <= 1e-6 * reference.norm()


@pytest.mark.parametrize("learn", [(), ("labels", "weights")])
def test_the_outer_gradient_is_the_difference_through_solving_anew(learn, monkeypatch):
    """The function that L-BFGS is given, at its first point, along random directions."""
    caught = {}

    def catch(function, first, evaluations, bounds, tape, after):
        caught.update(function=function, first=first, bounds=bounds)
        function(first)

    monkeypatch.setattr(_implicit, "l_bfgs", catch)
    monkeypatch.setattr(_implicit, "INNER_TOLERANCE", 1e-12)  # ends must differ by more
    monkeypatch.setattr(_implicit, "in_type_of", lambda x, net: net(x.double()))
    problem = make_problem(load("digits"), 12, None, 0)
    exact(learn=learn).distill(problem, Stretch())
    function, first = caught["function"], caught["first"]
    assert len(first) == 12 * 64 + (12 * 10 + 12 if learn else 0) == len(caught["bounds"])
    assert caught["bounds"][: 12 * 64] == [(0.0, 1.0)] * (12 * 64)
    assert set(caught["bounds"][12 * 64 :]) <= {(None, None)}
    gradient = function(first)[1].numpy()
    random = np.random.default_rng(0)
    for part in (slice(0, 768), slice(768, 888), slice(888, 900))[: 3 if learn else 1]:
        direction = np.zeros_like(first)
        direction[part] = random.normal(size=direction[part].shape)
        step = 1e-5
        ends = [function(first + sign * step * direction)[0] for sign in (1, -1)]
        slope = (ends[0] - ends[1]) / (2 * step)
        assert abs(slope) > 1e-5
        assert gradient @ direction == pytest.approx(slope, rel=1e-5)


def test_newton_says_when_it_does_not_arrive(monkeypatch):
    monkeypatch.setattr(_implicit, "_NEWTON_STEPS", 1)
    net = nn.Linear(2, 1).double()
    with pytest.raises(br.SolveError, match="inner problem"):
        solve(net, lambda: sum(p.pow(4).sum() + p.square().sum() for p in net.parameters()))


def test_the_choice_is_the_best_validation_accuracy(problem):
    data = problem.start(10, frozenset(), None, torch.float32)
    trace = Trace(problem, data)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    for i, accuracy in enumerate([0.3, 0.7, 0.6]):
        data.images.data.fill_(i / 4)
        trace.add(1.0 - i, accuracy, net)
    again = Trace(problem, problem.start(10, frozenset(), None, torch.float32))
    again.load(trace.state())
    for found in (trace.found(), again.found()):
        assert found.chosen == 2
        assert found.data.images.unique().tolist() == [0.25]
        assert [p.test_accuracy for p in found.points] == [
            pytest.approx(score(net, problem.test).accuracy)
        ] * 3


def test_learned_labels_weights_and_rate_are_in_the_files():
    torch.manual_seed(0)
    data = Distilled(
        torch.rand(4, 3, 6, 5) * 1.4 - 0.2,
        torch.tensor([0, 1, 2, 0]),
        learn_labels=True,
        learn_weights=True,
        lr=0.25,
    )
    with torch.no_grad():
        for parameter in (data.label_logits, data.log_weights):
            parameter.add_(0.1 * torch.randn_like(parameter))
    data = in_eight_bits(data)
    assert 0 <= data.images.min()
    assert data.images.max() <= 1
    made = files(data, ("ant", "bee", "cat"))
    arrays = np.load(io.BytesIO(made[ARRAYS]))
    for name in ("labels", "weights", "lr", "images"):
        np.testing.assert_allclose(arrays[name], getattr(data, name).detach().numpy())
    again = in_eight_bits(read_back(made[TABLE], 0.25))
    assert torch.equal(as_bytes(again), as_bytes(data))
    assert again.labels.tolist() == [0, 1, 2, 0]
    assert again.lr.item() == pytest.approx(0.25)
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(made[TABLE]))
    np.testing.assert_allclose(
        np.stack(table["probabilities"].to_pylist()), arrays["labels"], rtol=1e-6
    )
    np.testing.assert_allclose(table["weight"].to_pylist(), arrays["weights"], rtol=1e-6)


def unroller(**changes):
    plain = UnrollDistiller(
        model="mlp", images=10, learn=frozenset({"lr"}), steps=4, inner_steps=3, inner_lr=0.1,
        hyper_lr=0.01, batch_size=64, full_epochs=1,
    )  # fmt: skip
    return replace(plain, **changes)


def test_training_on_the_set_is_gradient_descent_with_momentum():
    problem = make_problem(load("digits"), 10, None, 0)
    distiller = unroller()
    data = problem.start(10, distiller.learn, 0.2, torch.float32)
    net = distiller.fresh(problem, "evaluation 1")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(net(data.images.detach()), torch.arange(10)).backward()
        optimizer.step()
    found = distiller.train(data, problem, 1)
    for mine, expected in zip(found.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(mine, expected)


def test_every_outer_step_and_every_judgement_has_fresh_weights(monkeypatch):
    seeds = []
    build = _adam._models.build

    def noting(model, shape, classes, seed):
        seeds.append(seed)
        return build(model, shape, classes, seed)

    monkeypatch.setattr(_adam._models, "build", noting)
    problem = make_problem(load("digits"), 10, None, 0)
    distiller = unroller(steps=6)
    found = distiller.distill(problem, Stretch())
    distilling = set(seeds)
    assert len(distilling) == 6 + 2  # where the model is made, and the one that chooses
    seeds.clear()
    for number in range(5):
        distiller.train(found.data, problem, number)
    assert len(set(seeds)) == 5
    assert not distilling & set(seeds)


def test_unrolling_teaches_and_learns_its_rate(tmp_path):
    settings = ["--model", "mlp", "--steps", "60", "--inner-steps", "5", "--seeds", "0"]
    assert distill(*settings, "--out", "run") == 0
    found = result(tmp_path / "run")
    assert len(found["seeds"][0]["test_accuracies"]) == 5
    assert found["headline"]["test_accuracy"] > found["headline"]["first_images_test_accuracy"]
    assert found["headline"]["test_accuracy_deviation_over_trainings"] > 0
    assert np.load(tmp_path / "run" / ARRAYS)["lr"] != pytest.approx(0.03)
    assert "initialisation 5" in (tmp_path / "run" / "report.html").read_text()


def test_the_same_run_twice_is_the_same_set(tmp_path):
    for out in ("a", "b"):
        assert distill("--steps", "4", "--seeds", "3", "--out", out) == 0
    tables = [load(tmp_path / out / TABLE).inputs for out in ("a", "b")]
    assert torch.equal(*tables)
    assert distill("--steps", "4", "--seeds", "4", "--out", "a", "--overwrite") == 0
    assert not torch.equal(load(tmp_path / "a" / TABLE).inputs, tables[0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--images", "9"], "--images 9 is less than one for each of the 10 classes"),
        (["--images", "0"], "--images is 0"),
        (["--data", "nowhere"], "nowhere"),
        (["--model", "mlp", "--mode", "implicit", "--inner-lr", "1"], "no effect"),
        (["--model", "mlp", "--restart", "3"], "no effect with --mode unroll"),
        (["--model", "mlp", "--mode", "implicit", "--tolerance", "0"], "--tolerance is 0"),
        (["--model", "resnet", "--mode", "implicit"], "batch normalization"),
        (["--model", "vgg"], "--model vgg is unknown"),
        (["--learn", "lr"], "--learn lr is not understood with --mode implicit"),
        (["--learn", "pixels"], "labels, weights"),
        (["--inner-steps", "5"], "no effect with --mode implicit and --model linear"),
        (["--model", "mlp", "--decay", "0.01"], "no effect with --mode unroll"),
        (["--model", "resnet"], "batch normalization"),
        (["--decay", "0"], "--decay is 0"),
        (["--validation", "5"], "classes"),
        (["--seeds", "1", "1"], "--seeds"),
        (["--threads", "9999"], "too many"),
    ],
)
def test_refusals_come_before_any_training_and_leave_nothing(
    arguments, words, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        "bestresponse.apps.distill._session.measure", lambda *_: pytest.fail("training began")
    )
    assert cli.main(["distill", *arguments, "--out", "run"]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_table_is_no_images(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("a,b\n1,x\n2,y\n")
    assert distill("--data", "t.csv", "--out", "run") == 2
    assert not (tmp_path / "run").exists()
    rows = Dataset(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]), ("a", "b"), "toy", "typed")
    with pytest.raises(br.InputError, match="rows of numbers"):
        make_problem(rows, 2, None, 0)
