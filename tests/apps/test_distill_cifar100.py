"""`bestresponse distill` on CIFAR-100 as the hub has it: two label columns, a hundred classes."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bestresponse import cli
from bestresponse.data import load

FINE = [f"fine {i}" for i in range(100)]
COARSE = [f"coarse {i}" for i in range(20)]


@pytest.fixture(scope="module")
def cifar100(tmp_path_factory):
    """Columns and metadata of the hub's files; a class is a colour, with a little noise."""
    folder = tmp_path_factory.mktemp("data") / "cifar100"
    folder.mkdir()
    random = np.random.default_rng(0)
    colors = random.integers(40, 216, (100, 1, 1, 3))
    for role, each in (("train", 4), ("test", 1)):
        fine = np.tile(np.arange(100), each)
        pixels = (colors[fine] + random.integers(-20, 20, (len(fine), 32, 32, 3))).astype(np.uint8)
        cells = [{"bytes": png(image), "path": None} for image in pixels]
        table = pa.table(
            {
                "img": pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                "fine_label": pa.array(fine),
                "coarse_label": pa.array(fine // 5),
            }
        )
        features = {
            "img": {"_type": "Image"},
            "fine_label": {"names": FINE, "_type": "ClassLabel"},
            "coarse_label": {"names": COARSE, "_type": "ClassLabel"},
        }
        told = {"huggingface": json.dumps({"info": {"features": features}})}
        pq.write_table(
            table.replace_schema_metadata(told), folder / f"{role}-00000-of-00001.parquet"
        )
    return folder


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def test_the_reader_takes_the_fine_labels_and_says_so(cifar100):
    data = load(cifar100)
    assert data.inputs.shape == (400, 3, 32, 32)
    assert data.class_names == tuple(FINE)
    assert data.labels.tolist() == list(range(100)) * 4
    assert data.official_test.labels.tolist() == list(range(100))
    assert "images from column 'img', labels from 'fine_label'" in data.source


@pytest.mark.parametrize("mode", ["implicit", "unroll"])
def test_a_hundred_images_for_a_hundred_classes(cifar100, tmp_path, monkeypatch, capsys, mode):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    common = ["--images", "100", "--steps", "2", "--seeds", "0", "--threads", "1", "--mode", mode]
    extra = ["--inner-steps", "2"] if mode == "unroll" else []
    assert cli.main(["distill", "--data", str(cifar100), *common, *extra, "--out", "run"]) == 0
    assert "labels from 'fine_label'" in capsys.readouterr().out
    assert "fine_label" in (tmp_path / "run" / "report.html").read_text()
    few = load(tmp_path / "run" / "distilled.parquet")
    assert few.inputs.numel() == 307_200
    assert few.class_names == tuple(FINE)
    assert few.labels.tolist() == list(range(100))


def test_fewer_images_than_classes_are_refused(cifar100, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--data", str(cifar100), "--images", "20", "--out", "run"]
    assert cli.main(["distill", *flags]) == 2
    assert "less than one for each of the 100 classes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
