"""Bad input to the command: one sentence that says what to do, exit code 2, nothing written."""

import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bestresponse import Result, cli
from bestresponse.apps._run import RunFolder
from bestresponse.apps.tune import Tune

TINY = (
    "--steps=4", "--evaluations=2", "--interval=2", "--warmup=0", "--validation=60", "--train=200",
    "--model=linear",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _as_a_user_has_it(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def tree(folder):
    """Everything below a folder, hidden or not, with its content."""
    return {
        path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def refused(tmp_path, capfd):
    """Run `tune` and require: this exit code, one sentence, and every file as it was."""

    def run(*flags, says, code=2):
        before = tree(tmp_path)
        capfd.readouterr()
        assert cli.main(["tune", *flags]) == code
        printed = capfd.readouterr()
        (line,) = printed.err.splitlines()
        assert line.startswith("bestresponse: ") and line.endswith(".")
        assert not re.search(r"\w{2}\. [A-Z]", line), "more than one sentence"
        assert re.search(says, line), line
        assert printed.out == ""
        assert tree(tmp_path) == before

    return run


# --- flags and values

VALUES = {
    "--corrupt=1.2": "--corrupt is 1.2",
    "--corrupt=1": "--corrupt is 1",
    "--corrupt=-0.1": "--corrupt is -0.1",
    "--corrupt=nan": "--corrupt is nan",
    "--validation=0": "--validation is 0",
    "--train=0": "--train is 0",
    "--steps=-1": "--steps is -1",
    "--steps=0": "--steps is 0",
    "--batch-size=0": "--batch-size is 0",
    "--inner-batch=-3": "--inner-batch is -3",
    "--outer-batch=0": "--outer-batch is 0",
    "--warmup=-1": "--warmup is -1",
    "--interval=0": "--interval is 0",
    "--evaluations=0": "--evaluations is 0",
    "--patience=-1": "--patience is -1",
    "--threads=0": "--threads is 0",
    "--seed=-1": "--seed is -1",
    "--seed=99999999999": "seed=99999999999",
    "--lr=0": "--lr is 0",
    "--lr=nan": "--lr is nan",
    "--hyper-lr=-1": "--hyper-lr is -1",
    "--decay=0": "--decay is 0",
    "--decay=inf": "inf",
    "--checkpoint-seconds=0": "--checkpoint-seconds is 0",
    "--sigma=0": "--sigma is 0",
    "--sigma=nan": "--sigma is nan",
    "--entropy=-1": "--entropy is -1",
    "--train-steps=0": "--train-steps is 0",
    "--valid-steps=0": "--valid-steps is 0",
    "--grid=-1": "--grid is -1",
    "--method=self-tuning": "self-tuning cannot tune weights",
    "--tune=foo": "--tune foo .*weights, reweight-net, decay",
    "--tune=weights,weights": "--tune weights,weights",
    "--tune=": "--tune .*weights, reweight-net, decay",
    "--device=foo": "--device foo",
    "--device=mps": "--device mps",
    "--device=meta": "--device meta",
    "--device=cuda:x": "--device cuda:x",
    "--model=foo": "--model foo is unknown; use linear, mlp, cnn, resnet",
    "--model=foo.py": "FILE.py:FACTORY",
    "--model=gone.py:make": "'gone.py', which does not exist",
    "--target=x": "digits.*no CSV",
    "--method=foo": "method.*see bestresponse tune --help",
    "--solver=foo": "solver.*see bestresponse tune --help",
    "--decay-per=foo": "decay-per.*see bestresponse tune --help",
    "--steps=x": "steps.*see bestresponse tune --help",
    "--steps=1.5": "steps.*see bestresponse tune --help",
    "--lr=x": "lr.*see bestresponse tune --help",
    "--nonsense=3": "--nonsense.*see bestresponse tune --help",
    "--step=3": "--step.*see bestresponse tune --help",
}


@pytest.mark.parametrize("flag", VALUES)
def test_a_bad_value(refused, flag):
    refused(*TINY, flag, says=VALUES[flag])


@pytest.mark.parametrize("flag", ["lr", "hyper-lr", "decay", "checkpoint-seconds"])
def test_an_infinite_setting(refused, flag):
    refused(*TINY, f"--{flag}=inf", says=f"{flag}.*inf")


@pytest.mark.parametrize("share", ["0.001", "0.999"])
def test_a_share_that_flips_no_label_or_all(refused, share):
    refused(*TINY, f"--corrupt={share}", says="--corrupt")


@pytest.mark.parametrize("threads", ["100000", "99999999999"])
def test_more_threads_than_a_machine_has(tmp_path, threads):
    """In a process of its own, which PyTorch may bring down."""
    command = [sys.executable, "-m", "bestresponse.cli", "tune", *TINY, f"--threads={threads}"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert ended.returncode == 2 and "--threads" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert set(tree(tmp_path)) == {tmp_path / "here"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_no_gpu(refused, device):
    refused(*TINY, f"--device={device}", says="sees no GPU; use --device cpu")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--validation=5"], "validation.*5.*10 classes"),
        (["--validation=99999"], "1797 rows"),
        (["--train=3"], "train.*3.*10 classes"),
        (["--train=1500"], "1797 rows"),
    ],
)
def test_roles_smaller_than_the_classes_or_larger_than_the_data(refused, flags, says):
    refused("--steps=4", *flags, says=says)


NETWORKS = {
    "--augment-depth=5": "8×8 pixels cannot be halved 4 times",
    "--augment-depth=40": "2\\^42 channels",
    "--augment-width=40": "2\\^41 channels",
    "--augment-width=-1": "--augment-width is -1",
    "--augment-regularizer=nan": "--augment-regularizer is nan",
}


@pytest.mark.parametrize("flag", NETWORKS)
def test_a_network_that_cannot_change_the_images(refused, flag):
    refused(*TINY, "--tune=augment", "--augmentation=network", flag, says=NETWORKS[flag])


SELF_TUNING = ("--method=self-tuning", "--tune=decay")
UNUSED = [
    (["--decay-per=model"], "--decay-per"),
    (["--tune=weights", "--decay-per=weight"], "--decay-per"),
    (["--dropout-per=unit"], "--dropout-per"),
    (["--reweight-hidden=8"], "--reweight-hidden"),
    (["--augmentation=network"], "--augmentation"),
    (["--tune=augment", "--augment-depth=2"], "--augment-depth"),
    (["--tune=augment", "--augment-width=2"], "--augment-width"),
    (["--tune=augment", "--augment-regularizer=2"], "--augment-regularizer"),
    (["--solver-steps=5"], "--solver-steps"),
    (["--damping=0.1"], "--damping"),
    (["--unroll-steps=5"], "--unroll-steps"),
    (["--method=finite-difference", "--unroll-steps=2"], "--unroll-steps"),
    (["--method=finite-difference", "--damping=1"], "--damping"),
    (["--solver=dense", "--solver-steps=2"], "--solver-steps"),
    (["--solver=dense", "--solver-lr=2"], "--solver-lr"),
    (["--solver=cg", "--solver-lr=1"], "--solver-lr"),
    (["--method=unroll", "--solver=cg"], "--solver"),
    (["--method=unroll", "--solver-steps=2"], "--solver-steps"),
    (["--method=unroll", "--solver-lr=2"], "--solver-lr"),
    (["--method=unroll", "--damping=1"], "--damping"),
    (["--sigma=0.5"], "--sigma"),
    (["--method=unroll", "--entropy=1"], "--entropy"),
    (["--centred"], "--centred"),
    (["--train-steps=3"], "--train-steps"),
    (["--valid-steps=3"], "--valid-steps"),
    (["--grid=3"], "--grid"),
    (["--tune=augment", "--augment=hue"], "--augment"),
    ([*SELF_TUNING, "--interval=1"], "--interval"),
    ([*SELF_TUNING, "--inner-batch=9"], "--inner-batch"),
    ([*SELF_TUNING, "--patience=9"], "--patience"),
    ([*SELF_TUNING, "--solver=cg"], "--solver"),
    ([*SELF_TUNING, "--damping=1"], "--damping"),
    ([*SELF_TUNING, "--unroll-steps=2"], "--unroll-steps"),
    ([*SELF_TUNING, "--decay-per=model"], "--decay-per"),
]


@pytest.mark.parametrize(("flags", "name"), UNUSED, ids=lambda v: " ".join(v) if v else None)
def test_an_unused_flag_even_at_its_default(refused, flags, name):
    tiny = [flag for flag in TINY if flag != "--interval=2" or SELF_TUNING[0] not in flags]
    refused(*tiny, *flags, says=f"{name} has no effect: .*; leave it out")


@pytest.mark.parametrize("flags", [["--solver_steps", "5"], ["--solver-steps", "5"]])
def test_an_unused_flag_however_it_is_spelt(refused, flags):
    refused(*TINY, *flags, says="--solver-steps has no effect")


def test_every_rule_of_unused_is_tried():
    tried = {name.lstrip("-").replace("-", "_") for _, name in UNUSED}
    rules = set()
    for method in ("implicit", "unroll", "finite-difference", "self-tuning"):
        for solver in ("scale", "neumann", "cg", "dense"):
            rules |= set(Tune(method=method, solver=solver).unused())
    assert rules - {"overwrite"} <= tried


def test_overwrite_without_out(refused):
    refused(*TINY, "--overwrite", says="--overwrite")


@pytest.mark.parametrize("flag", ["--interval=5", "--warmup=4"])
def test_a_schedule_that_never_tunes(refused, flag):
    refused(*TINY, flag, says=flag.split("=")[0])


# --- data


def png(level=0, size=(8, 8), mode="L"):
    file = io.BytesIO()
    Image.new(mode, size, level).save(file, "PNG")
    return file.getvalue()


def parquet(path, images, labels, names=None, kind=None):
    table = pa.table(
        {
            "image": pa.array(
                [{"bytes": data, "path": None} for data in images],
                pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            ),
            "label": pa.array(labels, kind or pa.int64()),
        }
    )
    if names:
        features = {"info": {"features": {"label": {"names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path)


def csv(rows, header="x,y,kind"):
    return header + "\n" + "".join(row + "\n" for row in rows)


GOOD_ROWS = [f"{i},{-i},{'ab'[i % 2]}" for i in range(100)]
BAD_CSV = {
    "not a number": (csv([*GOOD_ROWS, "1,NaN,a"]), "'y'.*line 102"),
    "infinite": (csv([*GOOD_ROWS, "inf,1,a"]), "'x'.*line 102"),
    "word": (csv([*GOOD_ROWS, "one,1,a"]), "'x' holds 'one'"),
    "short line": (csv([*GOOD_ROWS, "1,a"]), "Line 102.*2 cells"),
    "empty cell": (csv([*GOOD_ROWS, "1,,a"]), "'y' is empty in line 102"),
    "no label": (csv([*GOOD_ROWS, "1,1,"]), "'kind' is empty in line 102"),
    "regression": (csv([f"{i},{i},{i / 7}" for i in range(1, 99)]), "a measure and no class"),
    "one class": (csv([f"{i},{i},a" for i in range(100)]), "1 class"),
    "no column": (csv(GOOD_ROWS, "x,y,color"), "no column 'kind'"),
    "no rows": (csv([]), "no rows"),
    "nothing": ("", "is empty"),
    "three rows": (csv(GOOD_ROWS[:3]), "rows|test"),
    "class too rare": (csv([*GOOD_ROWS, "1,1,rare"]), "Class 'rare' has no example in test"),
    "binary": ("\0\xff", "'t.csv'"),
}
ROLES = ("--train=20", "--validation=20", *TINY[:4], "--model=linear")


@pytest.mark.parametrize("name", BAD_CSV)
def test_a_bad_table(refused, tmp_path, name):
    text, says = BAD_CSV[name]
    (tmp_path / "t.csv").write_text(text, encoding="latin-1")
    refused("--data", str(tmp_path / "t.csv"), "--target", "kind", *ROLES, says=says)


def test_a_table_without_target_names_the_flag(refused, tmp_path):
    (tmp_path / "t.csv").write_text(csv(GOOD_ROWS))
    refused("--data", str(tmp_path / "t.csv"), *ROLES, says="--target")


def test_a_model_of_images_for_a_table(refused, tmp_path):
    (tmp_path / "t.csv").write_text(csv(GOOD_ROWS))
    flags = ["--data", str(tmp_path / "t.csv"), "--target=kind", *ROLES[:-1], "--model=cnn"]
    refused(*flags, says="--model cnn needs images.*use --model mlp or linear")


TEN = [png()] * 10
BAD_PARQUET = {
    "label out of range": ((TEN, [0, 1] * 4 + [0, 7], ["a", "b"]), "Row 9.*label 7"),
    "negative label": ((TEN, [0, 1] * 4 + [0, -1], ["a", "b"]), "Row 9.*label -1"),
    "empty class": ((TEN, [0, 1] * 5, ["a", "b", "never"]), "no example of class 'never'"),
    "no label": ((TEN, [0, 1] * 4 + [0, None], ["a", "b"]), "Row 9.*no label"),
    "labels are floats": ((TEN, [0.0, 1.0] * 5, None, pa.float64()), "integer label column"),
    "no image bytes": (([*TEN[:9], None], [0, 1] * 5), "Row 9.*no image bytes"),
    "not an image": (([*TEN[:9], b"hello"], [0, 1] * 5), "Row 9.*not a whole PNG"),
    "half an image": (([*TEN[:9], png()[:40]], [0, 1] * 5), "Row 9.*not a whole PNG"),
    "other size": (([*TEN[:9], png(size=(9, 8))], [0, 1] * 5), r"Row 9.*\(1, 8, 9\)"),
    "other kind": (([*TEN[:9], png(mode="RGB")], [0, 1] * 5), r"Row 9.*\(3, 8, 8\)"),
    "transparent": (([*TEN[:9], png(mode="RGBA")], [0, 1] * 5), "RGBA"),
}


@pytest.mark.parametrize("name", BAD_PARQUET)
def test_a_bad_parquet_file(refused, tmp_path, name):
    content, says = BAD_PARQUET[name]
    parquet(tmp_path / "d.parquet", *content)
    refused("--data", str(tmp_path / "d.parquet"), *TINY, says=says)


def test_a_corrupt_parquet_file(refused, tmp_path):
    file = tmp_path / "d.parquet"
    parquet(file, TEN, [0, 1] * 5)
    whole = file.read_bytes()
    for broken in (b"", b"PAR1", whole[:-9], whole[: len(whole) // 2], whole[20:]):
        file.write_bytes(broken)
        refused("--data", str(file), *TINY, says="'d.parquet' cannot be read as Parquet")


def test_a_missing_shard(refused, tmp_path):
    parquet(tmp_path / "train-00000-of-00002.parquet", TEN, [0, 1] * 5)
    refused("--data", str(tmp_path), *TINY, says="not one complete set of 2")


def test_a_folder_with_a_file_that_is_no_image(refused, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "1.png").write_bytes(png())
    (tmp_path / "set" / "dog" / "notes.txt").write_text("good dog")
    refused("--data", str(tmp_path / "set"), *TINY, says="'dog/notes.txt' is not a whole PNG")


def test_a_folder_with_an_empty_class(refused, tmp_path):
    for name in ("cat", "dog", "none"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for i in range(20):
        (tmp_path / "set" / ("cat", "dog")[i % 2] / f"{i}.png").write_bytes(png())
    refused("--data", str(tmp_path / "set"), *TINY, says="'none'")


def idx(array, code=8):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, code, array.ndim]) + sizes + array.tobytes()


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (idx(np.zeros((10, 4, 4), np.uint8)), idx(np.zeros(9, np.uint8)), "10|9"),
        (idx(np.zeros((10, 4, 4), np.uint8), code=13), idx(np.zeros(10, np.uint8)), "ubyte"),
        (idx(np.zeros((10, 4, 4), np.uint8))[:-1], idx(np.zeros(10, np.uint8)), "fetch"),
        (b"", idx(np.zeros(10, np.uint8)), "ubyte"),
    ],
    ids=["mismatched", "wrong dtype", "short", "empty"],
)
def test_bad_idx_files(refused, tmp_path, images, labels, says):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(images)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    refused("--data", str(tmp_path / "train-images-idx3-ubyte"), *TINY, says=says)


def test_a_broken_gzip_file(refused, tmp_path):
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(idx(np.zeros((10, 4, 4), np.uint8)))[:-6])
    refused("--data", str(file), *TINY, says="broken gzip|labels")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("gone.parquet", "no file or folder .*gone.parquet"),
        ("gone", "no file or folder .*gone"),
        ("note.txt", "'note.txt' is of no known kind"),
        ("empty", "'empty' holds no data"),
        ("locked.parquet", "cannot be read"),
    ],
)
def test_data_that_is_not_there_or_of_no_known_kind(refused, tmp_path, data, says):
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "locked.parquet").mkdir()  # a folder where a file is expected
    says = says if data != "locked.parquet" else "holds no data"
    refused("--data", str(tmp_path / data), *TINY, says=says)


# --- models

HEAD = "import torch\nfrom torch import nn\n"
LINEAR = "nn.Sequential(nn.Flatten(), nn.Linear(64, classes))"
MAKE = "def make(shape, classes):\n    "


def module(forward, extra="", decorator=""):
    """A file with a module of one linear layer `a` and this forward."""
    return (
        f"class Net(nn.Module):\n    def __init__(self, classes):\n        super().__init__()\n"
        f"        self.a = nn.Linear(64, classes)\n        {extra}\n    {decorator}\n"
        f"    def forward(self, x):\n        y = self.a(x.flatten(1))\n        {forward}\n"
        f"{MAKE}return Net(classes)\n"
    )


FACTORIES = {
    "fails": (MAKE + "raise ValueError('no luck.\\nmore')", "ValueError: no luck"),
    "takes nothing": ("def make(): pass", "TypeError"),
    "gives None": (MAKE + "return None", "NoneType, not a torch.nn.Module"),
    "gives a function": (MAKE + "return lambda x: x", "function, not a torch.nn.Module"),
    "gives a class": (MAKE + "return nn.Linear", "type, not a torch.nn.Module"),
    "compiled": (MAKE + f"return torch.compile({LINEAR})", "compiled.*return it uncompiled"),
    "no parameters": (MAKE + "return nn.Flatten()", "without trainable parameters"),
    "frozen": (MAKE + f"return {LINEAR}.requires_grad_(False)", "without trainable parameters"),
    "wrong shape": (
        MAKE + "return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))",
        r"\(2, 3\); it must give \(2, 10\)",
    ),
    "fails on the data": (MAKE + "return nn.Linear(3, classes)", r"fails on a batch of shape"),
    "double": (MAKE + f"return {LINEAR}.double()", "dtype"),
    "tuple": (module("return y, y"), "to tuple; it must give"),
    "integers": (module("return y.long()"), "must be float|dtype|integer|int64|Long"),
    "tuple while training": (module("return (y, y) if self.training else y"), "--model.*tuple"),
    "sparse gradients": (
        MAKE + "return Net(classes)\nclass Net(nn.Module):\n    def __init__(self, classes):\n"
        "        super().__init__()\n        self.a = nn.Embedding(17, classes, sparse=True)\n"
        "    def forward(self, x):\n        return self.a((x * 16).long().flatten(1)).sum(1)\n",
        "--model.*sparse",
    ),
    "detached": (module("return y.detach()"), "detached|does not require grad"),
    "under no_grad": (
        module("return y", decorator="@torch.no_grad()"),
        "detached|does not require grad",
    ),
    "unused parameter": (
        module("return y", "self.spare = nn.Linear(2, 2)"),
        "does not use the parameter 'spare.(bias|weight)'",
    ),
    "syntax": ("def make(:", "fails when it is imported: SyntaxError"),
    "import fails": ("1 / 0", "fails when it is imported: ZeroDivisionError"),
    "import exits": ("raise SystemExit(3)", "fails when it is imported: SystemExit"),
    "factory exits": (MAKE + "raise SystemExit(3)", "SystemExit"),
    "no factory": ("x = 1", "no function 'make'"),
    "not callable": ("make = 3", "no function 'make'"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch, from torch.compile
@pytest.mark.parametrize("name", FACTORIES)
def test_a_bad_model_factory(refused, tmp_path, monkeypatch, name):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    body, says = FACTORIES[name]
    (tmp_path / "mine.py").write_text(HEAD + body + "\n")
    refused(*TINY, f"--model={tmp_path}/mine.py:make", "--out=run", says=says)


def test_a_factory_that_always_gives_the_same_module(tmp_path):
    """Refused, or each row trains a copy of its own: never one model under five names."""
    (tmp_path / "mine.py").write_text(
        HEAD + f"classes = 10\nONE = {LINEAR}\ndef make(shape, classes):\n    return ONE\n"
    )
    if cli.main(["tune", *TINY, f"--model={tmp_path}/mine.py:make", "--out=run"]) == 0:
        rows = json.loads((tmp_path / "here" / "run" / "result.json").read_text())["rows"]
        assert len({row["test_loss"] for row in rows}) >= 4


# --- the run folder


def finished(path, *flags):
    assert cli.main(["tune", *TINY, *flags, "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def run_to_copy(tmp_path_factory):
    torch.set_default_dtype(torch.float32)
    return finished(tmp_path_factory.mktemp("once") / "run")


@pytest.fixture
def run(run_to_copy, tmp_path):
    """A finished run of one's own."""
    return shutil.copytree(run_to_copy, tmp_path / "run")


@pytest.fixture
def unfinished(run):
    """A run that lacks only its result."""
    (run / "result.json").unlink()
    return run


def test_out_holds_another_run(refused, run):
    refused(*TINY, f"--out={run}", says="already holds a run; .*--resume .*--overwrite")


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["", "overwrite"])
@pytest.mark.parametrize("name", ["thesis.txt", ".hidden", "settings.json"])
def test_out_holds_a_foreign_file(refused, tmp_path, name, overwrite):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text('{"precious": 1}')
    says = "is no run folder.*; choose another --out"
    refused(*TINY, f"--out={tmp_path}/mine", *overwrite, says=says)


def test_overwrite_spares_a_run_with_foreign_files_in_it(refused, run):
    (run / "thesis.txt").write_text("precious")
    refused(*TINY, f"--out={run}", "--overwrite", says="thesis.txt|no run folder")


@pytest.mark.parametrize(
    "out",
    ["../file", "../file/below", "../dangling", "/proc/nowhere/run", "x" * 300],
    ids=["a file", "below a file", "dangling link", "unwritable", "name too long"],
)
def test_out_cannot_be_a_folder(refused, tmp_path, out):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    refused(*TINY, f"--out={out}", says="--out|folder")


def test_a_failure_while_the_folder_is_made_leaves_nothing(tmp_path):
    with pytest.raises((TypeError, ValueError)):
        RunFolder.create(
            tmp_path / "new" / "deep" / "run", {"settings.json": {"lr": float("inf")}},
            overwrite=False,
        )  # fmt: skip
    assert not (tmp_path / "new" / "deep" / "run").exists()
    assert not list(tmp_path.rglob(".*"))


# --- resume


@pytest.mark.parametrize("name", ["gone", "empty", "file"])
def test_resume_of_no_run(refused, tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    refused(f"--resume={tmp_path / name}", says="holds no run to resume")


@pytest.mark.parametrize("flag", ["--seed=1", "--steps=9", "--out=other", "--overwrite"])
def test_resume_with_other_flags(refused, unfinished, flag):
    says = "--resume continues with the run's own settings; leave .* out"
    refused(f"--resume={unfinished}", flag, says=says)


@pytest.mark.parametrize("flag", ["--seed=0", "--lr=0.003", "--solver-steps=3", "--model=mlp"])
def test_resume_with_flags_that_would_be_ignored(refused, unfinished, flag):
    says = "--resume .*; leave .* out"
    refused(f"--resume={unfinished}", flag, says=says)


def test_resume_of_a_finished_run_changes_nothing(run, capsys):
    before = tree(run)
    assert cli.main(["tune", f"--resume={run}"]) == 0
    assert "finished" in capsys.readouterr().out
    assert tree(run) == before


def test_resume_where_the_data_is_gone_or_another(refused, tmp_path):
    (tmp_path / "t.csv").write_text(csv(GOOD_ROWS))
    flags = ("--data", str(tmp_path / "t.csv"), "--target=kind", "--train=20", "--validation=20")
    path = finished(tmp_path / "run", *flags)
    (path / "result.json").unlink()
    (tmp_path / "t.csv").write_text(csv(GOOD_ROWS[10:] * 2))
    refused(f"--resume={path}", says="data is not what the run was started with")
    (tmp_path / "t.csv").unlink()
    refused(f"--resume={path}", says="no file or folder .*t.csv")


def test_resume_where_only_the_features_changed(refused, tmp_path):
    (tmp_path / "t.csv").write_text(csv(GOOD_ROWS))
    flags = ("--data", str(tmp_path / "t.csv"), "--target=kind", "--train=20", "--validation=20")
    path = finished(tmp_path / "run", *flags)
    (path / "result.json").unlink()
    (tmp_path / "t.csv").write_text(csv(["9" + row for row in GOOD_ROWS]))
    refused(f"--resume={path}", says="data is not what the run was started with")


@pytest.fixture
def own_model(tmp_path, monkeypatch):
    """An unfinished run whose model is `mine.py:make`, and that file."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "mine.py"
    file.write_text(HEAD + f"open({str(tmp_path / 'ran')!r}, 'a').close()\n{MAKE}return {LINEAR}\n")
    path = finished(tmp_path / "run", f"--model={file}:make")
    (path / "result.json").unlink()
    (tmp_path / "ran").unlink()
    return path, file


@pytest.mark.parametrize("flags", [[], ["--model=mlp"]], ids=["not named", "another"])
def test_resume_runs_no_code_that_was_not_named_again(refused, own_model, flags):
    path, file = own_model
    says = re.escape(f"--model {file}:make")
    refused(f"--resume={path}", *flags, says=says if not flags else "--model")
    assert not (file.parent / "ran").exists()


def test_resume_with_the_model_named_again(own_model):
    path, file = own_model
    assert cli.main(["tune", f"--resume={path}", f"--model={file}:make"]) == 0
    assert (path / "result.json").exists()


def test_resume_with_a_relative_model_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(HEAD + f"{MAKE}return {LINEAR}\n")
    path = finished(tmp_path / "run", "--model=mine.py:make")
    (path / "result.json").unlink()
    monkeypatch.chdir(tmp_path / "here")
    assert cli.main(["tune", f"--resume={path}", f"--model={tmp_path}/mine.py:make"]) == 0


def test_resume_with_a_model_that_changed(refused, own_model):
    path, file = own_model
    wider = "nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Linear(5, classes))"
    file.write_text(HEAD + f"{MAKE}return {wider}\n")
    refused(f"--resume={path}", f"--model={file}:make", says="model|checkpoint")


def damage(name, content):
    def apply(path):
        if content is None:
            (path / name).unlink()
        elif isinstance(content, bytes):
            (path / name).write_bytes(content)
        else:
            torch.save(content, path / name)

    return apply


def setting(**values):
    def apply(path):
        content = json.loads((path / "settings.json").read_text())
        content["settings"] |= values
        (path / "settings.json").write_text(json.dumps(content))

    return apply


DAMAGE = {
    "settings cut off": damage("settings.json", b'{"settings": {"da'),
    "settings are bytes": damage("settings.json", b"\xff\xfe\x00"),
    "settings are a list": damage("settings.json", b"[]"),
    "settings are empty": damage("settings.json", b"{}"),
    "settings of another program": damage("settings.json", b'{"editor.fontSize": 12}'),
    "settings are a number": damage("settings.json", b'{"settings": 3}'),
    "settings lack fields": damage("settings.json", b'{"settings": {"data": "digits"}}'),
    "a setting is unknown": setting(colour="red"),
    "steps are a word": setting(steps="many"),
    "lr is a word": setting(lr="high"),
    "lr is negative": setting(lr=-1.0),
    "data is a number": setting(data=3),
    "tune is a number": setting(tune=3),
    "threads are missing": setting(threads=None),
    "another model": setting(model="mlp"),
    "another tune": setting(tune="decay"),
    "another split": setting(seed=1),
    "splits cut off": damage("splits.json", b'{"record": '),
    "splits without record": damage("splits.json", b"{}"),
    "splits missing": damage("splits.json", None),
    "metrics missing": damage("metrics.jsonl", None),
    "metrics cut short": damage("metrics.jsonl", b""),
    "checkpoint is empty": damage("checkpoint.pt", b""),
    "checkpoint is text": damage("checkpoint.pt", b"hello"),
    "checkpoint is a list": damage("checkpoint.pt", [1]),
    "checkpoint of something else": damage("checkpoint.pt", {"metrics_bytes": 0, "state": {}}),
    "checkpoint without length": damage("checkpoint.pt", {"state": {}}),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_resume_of_a_damaged_run(refused, unfinished, name):
    DAMAGE[name](unfinished)
    refused(f"--resume={unfinished}", says="run|settings|data|--lr|checkpoint")


def test_resume_of_a_checkpoint_that_was_cut_off(refused, unfinished):
    whole = (unfinished / "checkpoint.pt").read_bytes()
    for length in (100, len(whole) // 2, len(whole) - 1):
        (unfinished / "checkpoint.pt").write_bytes(whole[:length])
        refused(f"--resume={unfinished}", says="checkpoint.pt' cannot be read")


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"rows": [1]}'])
def test_resume_of_a_finished_run_with_a_damaged_result(run, capsys, content):
    (run / "result.json").write_text(content)
    assert cli.main(["tune", f"--resume={run}"]) == 2
    assert re.fullmatch("bestresponse: .*result.json.*damaged.*\n", capsys.readouterr().err)


# --- numbers that stop being finite

BLOWN_UP = {
    "loss": ["--lr=1e30"],
    "hypergradient": ["--tune=decay", "--solver=cg", "--hyper-lr=70"],
}


@pytest.mark.parametrize("name", BLOWN_UP)
def test_a_nonfinite_number_ends_with_its_result_and_resume_says_it_again(capsys, tmp_path, name):
    out = tmp_path / "run"
    flags = [*TINY, *BLOWN_UP[name], "--steps=40", "--checkpoint-seconds=1e-9"]
    assert cli.main(["tune", *flags, f"--out={out}"]) == 1
    first = capsys.readouterr().err
    (line,) = first.splitlines()
    result = Result[re.match(r"bestresponse: (\w+): ", line)[1]]
    assert result.is_error and result.value in line
    assert not (out / "result.json").exists()
    assert "trainings" in RunFolder.open(out).load_checkpoint()
    before = (out / "checkpoint.pt").read_bytes()
    assert cli.main(["tune", f"--resume={out}"]) == 1
    assert capsys.readouterr().err == first
    assert (out / "checkpoint.pt").read_bytes() == before


def test_a_number_that_dies_in_the_last_step(capsys, tmp_path):
    flags = [*TINY, "--steps=1", "--interval=1", "--lr=1e30", f"--out={tmp_path / 'run'}"]
    assert cli.main(["tune", *flags]) == 1
    assert "nonfinite" in capsys.readouterr().err


def test_a_model_that_starts_nonfinite_writes_nothing(capsys, tmp_path):
    body = f"net = {LINEAR}\n    nn.init.constant_(net[1].weight, float('nan'))\n    return net\n"
    (tmp_path / "mine.py").write_text(HEAD + MAKE + body)
    assert cli.main(["tune", *TINY, f"--model={tmp_path}/mine.py:make", "--out=run"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bestresponse: nonfinite: ") and "Stats(" not in line
    assert os.listdir() == []


def test_an_interrupt_before_there_is_a_run(tmp_path, monkeypatch, capsys):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Tune, "load_splits", interrupted)
    try:
        code = cli.main(["tune", *TINY])
    except KeyboardInterrupt:
        pytest.fail("the interrupt reaches the user as a traceback")
    assert code == 130
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert os.listdir() == []


# --- once in a process of its own


def test_as_a_user_sees_it(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "bestresponse.cli", "tune", "--corrupt=2"],
        capture_output=True, text=True, cwd=tmp_path / "here", timeout=120,
    )  # fmt: skip
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr == "bestresponse: --corrupt is 2.0; give a share from 0 to below 1.\n"
    assert not list((tmp_path / "here").iterdir())
