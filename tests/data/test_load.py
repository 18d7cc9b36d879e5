import gzip
import io
import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bestresponse._errors import InputError
from bestresponse.data import load


def png():
    buffer = io.BytesIO()
    Image.new("L", (3, 2)).save(buffer, "PNG")
    return buffer.getvalue()


def make_parquet(folder):
    pq.write_table(pa.table({"image": [png(), png()], "label": [0, 1]}), folder / "train.parquet")
    return folder / "train.parquet"


def make_idx(folder):
    images = bytes((0, 0, 8, 3)) + struct.pack(">3I", 2, 2, 3) + bytes(12)
    labels = bytes((0, 0, 8, 1)) + struct.pack(">I", 2) + bytes((0, 1))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    return folder / "train-images-idx3-ubyte.gz"


def make_classes(folder):
    for name in ("0", "1"):
        (folder / name).mkdir()
        (folder / name / "1.png").write_bytes(png())
    return folder


@pytest.mark.parametrize("make", [make_parquet, make_idx, make_classes])
@pytest.mark.parametrize("kind", [Path, str])
def test_files_and_folders_find_their_reader(tmp_path, make, kind):
    for source in (make(tmp_path), tmp_path):
        data = load(kind(source))
        assert (data.shape, data.class_names) == ((1, 2, 3), ("0", "1"))
        assert data.labels.tolist() == [0, 1]


def test_digits_and_tables(tmp_path):
    assert (load("digits").name, len(load("digits"))) == ("digits", 1797)
    (tmp_path / "T.CSV").write_text("x,k\n1,a\n2,b\n")
    assert load(tmp_path / "T.CSV", target="k").class_names == ("a", "b")


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    make_classes(tmp_path)
    assert len(load("~")) == 2


def test_a_target_only_for_tables(tmp_path):
    (tmp_path / "t.csv").write_text("x,k\n1,a\n2,b\n")
    with pytest.raises(InputError, match=r"'t.csv' is a table: name the column of classes"):
        load(tmp_path / "t.csv")
    with pytest.raises(InputError, match="target='k' names a column but 'digits' is no CSV file"):
        load("digits", target="k")
    with pytest.raises(InputError, match="is no CSV file: leave it out"):
        load(make_parquet(tmp_path), target="label")


def test_what_is_not_there_or_of_no_known_kind(tmp_path):
    for name in ("nowhere", "nowhere.parquet", "nowhere.csv"):
        with pytest.raises(InputError, match=f"There is no file or folder '.*{name}': check"):
            load(tmp_path / name, target="k" if name.endswith("csv") else None)
    with pytest.raises(InputError, match="holds no data: put Parquet files, IDX files or one"):
        load(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"'notes.txt' is of no known kind: give 'digits', a"):
        load(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="holds no data"):
        load(tmp_path)
