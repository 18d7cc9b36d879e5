"""`bestresponse jacnet fit` and `predict`, as a user types them."""

import csv
import json
import math

import numpy as np
import pytest
import torch

from bestresponse import cli
from bestresponse.apps.jacnet import load_run


@pytest.fixture(autouse=True)
def _table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    random = np.random.default_rng(0)
    ppm = random.uniform(0, 8, 80)
    rows = {
        "site": [f"s{i}" for i in range(80)],
        "ppm": ppm,
        "volt": np.log1p(ppm),
        "other": random.normal(size=80),
        "image": ppm**2,
    }
    with (tmp_path / "gas.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(rows)
        writer.writerows(zip(*rows.values(), strict=True))


def fit(*arguments):
    return cli.main(["jacnet", "fit", "gas.csv", "--iterations", "60", *arguments])


def read(path):
    with path.open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_a_sensor_is_fitted_reported_loaded_and_read_backwards(tmp_path, capsys):
    assert fit("--x", "ppm", "--y", "volt", "--out", "run") == 0
    said = capsys.readouterr().out
    assert "proved: increasing, one to one and onto" in said
    assert "isotonic regression: " in said
    assert "Report: run/report.html" in said
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<img") == 2
    assert "the function, its slope and its inverse" in page
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["headline"]["test_error"] < 0.05
    assert result["headline"]["round_trip_error"] < 1e-12
    (tmp_path / "v.csv").write_text("volt\n0.5\n1.5\n")
    assert cli.main(["jacnet", "predict", "run", "v.csv", "--inverse", "--out", "back.csv"]) == 0
    for row in read(tmp_path / "back.csv"):
        assert row["ppm"] == pytest.approx(math.expm1(row["volt"]), abs=0.15)
    model, xs, ys = load_run(tmp_path / "run")
    assert (xs, ys) == (["ppm"], ["volt"])
    x = torch.linspace(0, 8, 9)[:, None]
    capsys.readouterr()
    (tmp_path / "x.csv").write_text("ppm\n" + "\n".join(str(float(v)) for v in x[:, 0]))
    assert cli.main(["jacnet", "predict", "run", "x.csv"]) == 0
    printed = [line.split(",") for line in capsys.readouterr().out.split()[1:]]
    assert [float(v) for _, v in printed] == pytest.approx(model(x)[:, 0].tolist(), rel=1e-7)


@pytest.mark.parametrize(
    "structure", ["convex-gradient", "triangular", "bilipschitz", "potential", "lipschitz"]
)
def test_every_structure_makes_a_run_that_loads_as_it_was(structure, tmp_path):
    many = structure != "lipschitz"
    arguments = ["--x", "ppm,other", "--y", "volt,image" if many else "volt"]
    assert fit(*arguments, "--structure", structure, "--out", "run", "--iterations", "10") == 0
    model, _, _ = load_run(tmp_path / "run")
    assert next(model.parameters()).dtype == torch.float64
    x = torch.randn(5, 2)
    y = model(x).detach()
    invertible = structure in ("convex-gradient", "triangular", "bilipschitz")
    assert model.is_invertible == invertible
    if invertible:
        assert (model.inverse(y).value - x).abs().max() < 1e-8
    other, _, _ = load_run(tmp_path / "run")
    assert torch.equal(other(x), y)


def test_decreasing(tmp_path):
    (tmp_path / "gas.csv").write_text(
        "a,b\n" + "\n".join(f"{i / 9},{math.exp(-i / 9)}" for i in range(40))
    )
    assert fit("--x", "a", "--y", "b", "--decreasing", "--out", "run") == 0
    model, _, _ = load_run(tmp_path / "run")
    x = torch.linspace(-3, 9, 400)[:, None]
    y = model(x).detach()
    assert bool((y.diff(dim=0) < 0).all())
    assert (model.inverse(y).value - x).abs().max() < 1e-10


REFUSED = [
    (["--x", "ppm", "--y", "nope"], "no column 'nope': choose from site, ppm"),
    (["--x", "ppm", "--y", "site"], "Column 'site' holds 's0', no finite number in line 2"),
    (["--x", "ppm", "--y", "ppm"], "The column 'ppm' is in --x and in --y"),
    (["--x", "ppm,,other", "--y", "volt"], "must name columns, each once"),
    (
        ["--x", "ppm", "--y", "volt", "--structure", "cubic"],
        "--structure cubic is unknown; use mono",
    ),
    (["--x", "ppm,other", "--y", "volt", "--structure", "triangular"], "not 2 to 1; name as many"),
    (["--x", "ppm", "--y", "volt,image"], "monotone has one column --y, not 2"),
    (["--x", "ppm", "--y", "volt", "--bound", "2"], "--bound has an effect on --structure lipsch"),
    (["--x", "ppm", "--y", "volt", "--held-out", "1"], "--held-out is 1.0; give a share below 1"),
    (["--x", "ppm", "--y", "volt", "--iterations", "0"], "--iterations is 0; give a positive"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_bad_input_is_one_sentence_and_leaves_nothing(arguments, words, tmp_path, capsys):
    assert fit(*arguments, "--out", "run") == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_what_predict_refuses(tmp_path, capsys):
    assert fit("--x", "ppm,other", "--y", "volt", "--out", "run") == 0
    (tmp_path / "v.csv").write_text("volt\n0.5\n")
    for arguments, words in (
        (["nowhere", "v.csv"], "holds no run"),
        (["run", "v.csv"], "no column 'ppm'"),
        (["run", "v.csv", "--inverse"], "monotone from 2 to 1 columns has no inverse"),
    ):
        capsys.readouterr()
        assert cli.main(["jacnet", "predict", *arguments]) == 2
        assert words in capsys.readouterr().err
    (tmp_path / "run" / "model.safetensors").write_text("damaged")
    assert cli.main(["jacnet", "predict", "run", "gas.csv"]) == 2
    assert "the run is damaged" in capsys.readouterr().err
