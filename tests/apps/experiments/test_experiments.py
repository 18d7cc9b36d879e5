"""What all experiments share: flags, refusals, the run folder, the list."""

import dataclasses
import json
import re

import pytest

from bestresponse import cli
from bestresponse.apps._run import is_run
from bestresponse.apps.experiments import EXPERIMENTS

QUICK = {
    "unroll-versus-implicit": ["--rows=40", "--decay=0.2", "--longest=8"],
    "inverse-comparison": [
        "--rows=60", "--cap=4", "--rounds=1", "--outer-steps=1", "--race-steps=2",
        "--race-rows=40", "--seeds", "0",
    ],
    "hessian-picture": ["--rows=60", "--decay=0.1", "--products", "1"],
    "cleaning": [
        "--rows=60", "--validation=40", "--noise", "0.5", "--seconds=0.05", "--seeds", "0",
    ],
    "overfit": [
        "--models", "linear", "--images=20", "--test=100", "--seeds", "0", "--most-steps=30",
        "--rounds=1",
    ],
    "split": [
        "--sizes", "40", "--shares", "0", "0.5", "--hypergradients=2", "--seeds", "0",
    ],
    "jacnet-exp": ["--seeds=1", "--iterations=3"],
    "jacnet-abs": ["--seeds=1", "--iterations=3"],
    "jacnet-invertible": ["--dims", "2", "--iterations=2"],
    "jacnet-conservation": ["--dims", "2", "--iterations=2"],
    "jacnet-kronecker": ["--iterations=2", "--rounds=1"],
    "language": [
        "--tokens=400", "--held-out=100", "--width=8", "--batch=4", "--window=10", "--epochs=2",
        "--warmup=0", "--interval=4", "--seeds", "0",
    ],
    "stn-regression": ["--rounds=3", "--timed-rounds=2", "--seeds", "0"],
    "stn-mlp": [
        "--train=60", "--validation=30", "--width=8", "--grid=0.1", "--seeds", "0",
        "--epochs=2", "--batch=20", "--interval=2",
    ],
    "stn-language": [
        "--tokens=160", "--held-out=60", "--width=6", "--batch=4", "--window=20", "--epochs=1",
        "--warmup=0", "--grid=0.3", "--seeds", "0",
    ],
    "stn-cnn": [
        "--train=60", "--validation=30", "--width=2", "--seeds", "0", "--epochs=1", "--warmup=0",
        "--batch=20",
    ],
    "hypernet-global": ["--grid=3", "--retraining-steps=3", "--iterations=3"],
    "hypernet-local": ["--grid=3", "--retraining-steps=3", "--iterations=3", "--starts", "1"],
    "hypernet-large": ["--seconds=0.01", "--retraining-steps=3", "--grid", "0"],
    "hypernet-depth": [
        "--seconds=0.01", "--retraining-steps=3", "--grid", "-4", "--images=20", "--batch=20",
    ],
    "hypernet-classes": ["--seconds=0.05", "--retraining-steps=3", "--grid=3"],
    "hypernet-predict": [
        "--evaluations", "4", "--pairs=5", "--iterations=3", "--retraining-steps=3", "--grid=3",
    ],
}  # fmt: skip
VERBS = [each.verb for each in EXPERIMENTS]
JACNETS = [verb for verb in VERBS if verb.startswith("jacnet")]
OF_TEXT = ["language", "stn-language"]
OF_IMAGES = ["stn-mlp", "stn-cnn"]
DRAWN = ["stn-regression"]
OF_DATA = [verb for verb in VERBS if verb not in JACNETS + OF_TEXT + DRAWN]
HYPERNETS = [verb for verb in VERBS if verb.startswith("hypernet")]
FEW_DECAYS = ["hypernet-global", "hypernet-local", "hypernet-classes", "hypernet-predict"]
MANY_DECAYS = ["hypernet-large", "hypernet-depth"]
OF_ROWS = [verb for verb in OF_DATA if verb not in ("overfit", "split", *OF_IMAGES, *HYPERNETS)]


def refused(capsys, *arguments):
    """The one line that a refusal says."""
    capsys.readouterr()
    assert cli.main(["experiment", *arguments]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert printed.out == "" and line.startswith("bestresponse: ") and line.endswith(".")
    return line


def listed(capsys):
    capsys.readouterr()
    assert cli.main(["list"]) == 0
    return capsys.readouterr().out


def test_every_experiment_has_a_quick_setting():
    assert set(QUICK) == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_a_run_is_complete_refused_and_replaced(verb, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert cli.main(["experiment", verb, *QUICK[verb]]) == 0
    out = tmp_path / "runs" / verb
    names = {path.name for path in out.iterdir()}
    assert names == {"settings.json", "result.json", "report.html"} and is_run(out)
    assert f"runs/{verb}/report.html" in capsys.readouterr().out
    html, result = (out / "report.html").read_text(), (out / "result.json").read_text()
    assert 'src="data:image/png;base64,' in html and "<table>" in html
    assert not re.search(r'(src|href)="(?!data:)', html)
    settings = json.loads((out / "settings.json").read_text())
    assert settings["command"] == f"experiment {verb}" and settings["settings"]["out"] == str(out)
    assert json.loads(result)["verdict"]
    line = next(line for line in listed(capsys).splitlines() if f"experiment {verb}" in line)
    assert "finished" in line and ("digits" in line) == (verb in OF_DATA)
    says = refused(capsys, verb, *QUICK[verb])
    assert "already holds a run" in says and "--resume" not in says
    assert (out / "result.json").read_text() == result
    assert cli.main(["experiment", verb, *QUICK[verb], "--overwrite"]) == 0
    assert (out / "result.json").read_text() != result  # the seconds
    assert {path.name for path in out.iterdir()} == names


WRONG = [
    (OF_ROWS, "--rows=0", "--rows is 0"),
    (OF_ROWS, "--rows=3000", "'digits' has 1797 training examples"),
    (OF_DATA, "--data=nowhere", "nowhere"),
    (VERBS, "--nonsense=1", "nonsense.*see bestresponse experiment [a-z-]+ --help"),
    (OF_ROWS, "--rows=many", "--rows"),
    (JACNETS, "--iterations=0", "--iterations is 0"),
    (JACNETS, "--iterations=many", "--iterations"),
    (DRAWN, "--rounds=0", "--rounds is 0"),
    (DRAWN, "--starts=1.5", "--starts has 1.5; give rates between 0 and 0.9"),
    (OF_IMAGES, "--train=1500", "'digits' has 1797 rows but the roles need"),
    (["stn-mlp"], "--grid=0.95", "--grid has 0.95; give rates between 0 and 0.9"),
    (["stn-mlp"], "--starts=0", "--starts has 0; give rates between 0 and 0.9"),
    (OF_IMAGES, "--epochs=0", "--epochs is 0"),
    (OF_IMAGES, "--sigma=0", "--sigma is 0"),
    (["stn-language"], "--grid=1", "--grid has a rate out of range"),
    (["stn-language"], "--start=0", "--start has a rate out of range"),
    (HYPERNETS, "--images=0", "--images is 0"),
    (HYPERNETS, "--validation=9000", "'digits' has 1797 training examples but [12]0 .* 9000"),
    (HYPERNETS, "--objective=mine", "--objective"),
    (FEW_DECAYS, "--low=9", "--low 9.0 and --high [346].0 are no range of logarithms"),
    (FEW_DECAYS, "--grid=1", "--grid is 1; give 2 or more"),
    (FEW_DECAYS, "--retraining-lr=-1", "--retraining-lr is -1"),
    (["hypernet-local"], "--batch=0", "--batch is 0"),
    (["hypernet-classes"], "--start=30", "--start has 30.0; give logarithms from -20 to 20"),
    (["hypernet-classes"], "--seconds=0", "--seconds is 0"),
    (["hypernet-predict"], "--pairs=0", "--pairs is 0"),
    (MANY_DECAYS, "--seconds=0", "--seconds is 0"),
    (MANY_DECAYS, "--start=30", "--start has 30.0; give logarithms from -20 to 20"),
    (MANY_DECAYS, "--rank=0", "--rank is 0"),
    (OF_TEXT, "--data=nowhere", "nowhere"),
    (OF_TEXT, "--tokens=0", "--tokens is 0"),
    (OF_TEXT, "--tokens=7", "--tokens 7 is less than two words in each of --batch 4 columns"),
    (OF_TEXT, "--tokens=9000000", "'pydoc' has [0-9]+ words, fewer than the 9000000"),
    (OF_TEXT, "--held-out=7", "--held-out is 7; give at least 8"),
    (
        ["language"],
        "--vocabulary=50",
        "more than the model's 50; raise --vocabulary, or",
    ),
    (OF_TEXT, "--warmup=-1", "--warmup is -1"),
    (["language"], "--decay=layer", "--decay"),
]


@pytest.mark.parametrize(
    ("verb", "flags", "says"),
    [(verb, [flag], says) for verbs, flag, says in WRONG for verb in verbs],
    ids=lambda value: value[0] if isinstance(value, list) else str(value)[:20],
)
def test_bad_flags_are_a_sentence_and_write_nothing(verb, flags, says, tmp_path, capsys):
    quick = [flag for flag in QUICK[verb] if flag.split("=")[0] != flags[0].split("=")[0]]
    assert re.search(says, refused(capsys, verb, *quick, *flags))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_of_something_else_is_left_alone(verb, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    says = refused(capsys, verb, *QUICK[verb], "--out=mine", "--overwrite")
    assert "no run folder" in says and (tmp_path / "mine" / "thesis.tex").exists()


def test_an_unknown_experiment_is_named(capsys):
    assert "see bestresponse experiment --help" in refused(capsys, "nothing")
    assert all(verb in refused(capsys) for verb in VERBS)


def test_the_list_names_all(capsys):
    text = listed(capsys)
    assert all(each.verb in text and each.title in text for each in EXPERIMENTS)


@pytest.mark.parametrize("each", EXPERIMENTS, ids=lambda each: each.verb)
def test_help_has_every_flag_with_a_sentence(each, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        cli.main(["experiment", each.verb, "--help"])
    text = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert each.summary() in text and "None" not in text
    for name in (field.name for field in dataclasses.fields(each)):
        entry = re.search(rf" --{name.replace('_', '-')} (?P<words>.*?)(?= --[a-z]| ╰|$)", text)
        assert entry and len(entry["words"].split()) >= 3, name
