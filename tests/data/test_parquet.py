import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bestresponse._errors import InputError
from bestresponse.data import load_parquet

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(level=0, mode="L", size=(3, 2)):
    buffer = io.BytesIO()
    Image.new(mode, size, level if mode == "L" else (level,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def images(levels):
    return pa.array([{"bytes": png(level), "path": None} for level in levels], STRUCT)


def write(file, columns, names=None, label="label"):
    table = pa.table(columns)
    if names is not None:
        features = {label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
    pq.write_table(table, file)
    return file


def simple(file, labels, levels=None, names=("a", "b")):
    levels = range(len(labels)) if levels is None else levels
    return write(file, {"image": images(levels), "label": pa.array(labels)}, names)


def test_one_file(tmp_path):
    data = load_parquet(simple(tmp_path / "pets.parquet", [0, 1, 1], [7, 8, 9]))
    assert data.inputs.shape == (3, 1, 2, 3)
    assert data.inputs[:, 0, 1, 2].tolist() == [7, 8, 9]
    assert (data.labels.dtype, data.labels.tolist()) == (torch.int64, [0, 1, 1])
    assert (data.class_names, data.name, data.official_test) == (("a", "b"), "pets", None)
    assert data.source == "Parquet pets.parquet; images from column 'image', labels from 'label'."


def test_shards_in_order_validation_in_training_test_apart(tmp_path):
    simple(tmp_path / "train-00001-of-00002.parquet", [1, 0], [3, 4])
    simple(tmp_path / "train-00000-of-00002.parquet", [0, 1], [1, 2])
    simple(tmp_path / "validation-00000-of-00001.parquet", [1], [5])
    simple(tmp_path / "test-00000-of-00001.parquet", [1, 0], [6, 7])
    data = load_parquet(tmp_path)
    assert data.inputs[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]
    assert data.labels.tolist() == [0, 1, 1, 0, 1]
    assert data.official_test.inputs[:, 0, 0, 0].tolist() == [6, 7]
    assert data.official_test.labels.tolist() == [1, 0]
    assert data.source.endswith("The validation files are part of training.")
    assert str(tmp_path) not in data.source + data.official_test.source


def test_more_rows_than_one_batch_keep_their_order(tmp_path):
    levels = [row % 251 for row in range(2500)]
    file = simple(tmp_path / "many.parquet", [level % 2 for level in levels], levels)
    data = load_parquet(file)
    assert data.inputs[:, 0, 0, 0].tolist() == levels
    assert data.labels.tolist() == [level % 2 for level in levels]


def test_without_names_the_labels_are_the_names(tmp_path):
    simple(tmp_path / "train.parquet", [7, 3, 7], names=None)
    simple(tmp_path / "test.parquet", [3, 7], names=None)
    data = load_parquet(tmp_path)
    assert (data.class_names, data.labels.tolist()) == (("3", "7"), [1, 0, 1])
    assert data.official_test.labels.tolist() == [0, 1]


@pytest.mark.parametrize("metadata", ["nonsense", "{}", '{"info": {"features": {"label": {}}}}'])
def test_metadata_without_names_is_passed_over(tmp_path, metadata):
    table = pa.table({"image": images([0, 1]), "label": [5, 6]})
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), tmp_path / "x.parquet")
    assert load_parquet(tmp_path / "x.parquet").class_names == ("5", "6")


def test_columns_are_found_by_type_then_name(tmp_path):
    columns = {
        "id": [10, 11],
        "coarse_label": [0, 0],
        "fine_label": pa.array([0, 1], pa.uint8()),
        "thumb": pa.array([b"x", b"y"]),  # binary, but there is an image struct
        "picture": images([1, 2]),
        "note": ["p", "q"],
    }
    data = load_parquet(write(tmp_path / "x.parquet", columns))
    assert (data.labels.tolist(), data.inputs[:, 0, 0, 0].tolist()) == ([0, 1], [1, 2])
    assert "images from column 'picture', labels from 'fine_label'" in data.source


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_plain_binary_images_and_an_only_integer_column(tmp_path, kind):
    columns = {"jpg": pa.array([png(3), png(4)], kind), "kind": [1, 0], "weight": [0.5, 0.5]}
    data = load_parquet(write(tmp_path / "x.parquet", columns))
    assert (data.inputs[:, 0, 0, 0].tolist(), data.labels.tolist()) == ([3, 4], [1, 0])


COLUMNS = {
    "no-image": ({"label": [0, 1]}, r"no candidate for the image column .* among label \(int64\)"),
    "two-images": (
        {"a": images([0, 1]), "b": images([0, 1]), "label": [0, 1]},
        "several candidates for the image column .* among a .*, b .*, label",
    ),
    "no-label": (
        {"image": images([0, 1]), "label": ["cat", "dog"]},
        r"no candidate for the integer label column among .*label \(string\)",
    ),
    "float-label": ({"image": images([0, 1]), "label": [0.0, 1.0]}, r"label \(double\): keep"),
    "two-labels": (
        {"image": images([0, 1]), "x": [0, 1], "y": [0, 1]},
        "several candidates for the integer label column .*name the labels 'label'",
    ),
}


@pytest.mark.parametrize(("columns", "sentence"), COLUMNS.values(), ids=COLUMNS)
def test_unclear_columns_are_listed(tmp_path, columns, sentence):
    with pytest.raises(InputError, match=sentence):
        load_parquet(write(tmp_path / "x.parquet", columns))


@pytest.mark.parametrize("label", [2, -1, 2**40])
def test_labels_outside_the_schema_name_the_row(tmp_path, label):
    with pytest.raises(
        InputError,
        match=rf"Row 2 of 'x.parquet' has the label {label}, .* none of the 2 classes \(0 to 1\)",
    ):
        load_parquet(simple(tmp_path / "x.parquet", [0, 1, label]))


def test_other_bad_labels(tmp_path):
    with pytest.raises(InputError, match=r"Row 1 of 'x.parquet' has the label -1"):
        load_parquet(simple(tmp_path / "x.parquet", [0, -1, 3], names=None))
    with pytest.raises(InputError, match=r"Row 1 of 'x.parquet' has no label: fill"):
        load_parquet(simple(tmp_path / "x.parquet", [0, None, 1]))
    with pytest.raises(InputError, match="no example of class 'c'"):
        load_parquet(simple(tmp_path / "x.parquet", [0, 1], names=("a", "b", "c")))
    simple(tmp_path / "train.parquet", [3, 7], names=None)
    simple(tmp_path / "test.parquet", [3, 7, 9], names=None)
    (tmp_path / "x.parquet").unlink()
    with pytest.raises(InputError, match=r"Row 2 of 'test.parquet' has the label 9"):
        load_parquet(tmp_path)


def bad_image(tmp_path, cell):
    cells = [{"bytes": png(), "path": None}, cell, {"bytes": png(), "path": None}]
    columns = {"image": pa.array(cells, STRUCT), "label": [0, 1, 0]}
    return write(tmp_path / "x.parquet", columns)


BAD_IMAGES = {
    "text": ({"bytes": b"hello"}, "Row 1 of 'x.parquet' is not a whole PNG"),
    "cut": ({"bytes": png()[:-30]}, "Row 1 of 'x.parquet' is not a whole PNG"),
    "path-only": ({"bytes": None, "path": "1.png"}, "Row 1 of 'x.parquet' holds no image bytes"),
    "null": (None, "Row 1 of 'x.parquet' holds no image bytes"),
    "size": ({"bytes": png(size=(4, 2))}, r"Row 1 of 'x.parquet' has shape \(1, 2, 4\)"),
    "colour": ({"bytes": png(mode="RGB")}, r"Row 1 .* has shape \(3, 2, 3\).*Row 0 .*\(1, 2, 3\)"),
}


@pytest.mark.parametrize(("cell", "sentence"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_bad_images_name_the_row(tmp_path, cell, sentence):
    with pytest.raises(InputError, match=sentence):
        load_parquet(bad_image(tmp_path, cell))


def test_files_that_are_no_parquet(tmp_path):
    whole = simple(tmp_path / "x.parquet", [0, 1] * 200).read_bytes()
    middle = whole[:100] + bytes(600) + whole[700:]  # the footer is whole, a page is not
    for broken in (b"", b"hello", whole[:-30], whole[len(whole) // 2 :], middle):
        (tmp_path / "x.parquet").write_bytes(broken)
        with pytest.raises(InputError, match=r"'x.parquet' cannot be read as Parquet .*fetch the"):
            load_parquet(tmp_path / "x.parquet")


def test_no_rows(tmp_path):
    columns = {"image": pa.array([], STRUCT), "label": pa.array([], pa.int64())}
    with pytest.raises(InputError, match=r"'x.parquet' has no rows: give"):
        load_parquet(write(tmp_path / "x.parquet", columns, ("a", "b")))


def test_folders_that_are_not_complete(tmp_path):
    with pytest.raises(InputError, match=r"has no train-….parquet: add the file"):
        load_parquet(tmp_path)
    simple(tmp_path / "train-00000-of-00002.parquet", [0, 1])
    with pytest.raises(InputError, match="not one complete set of 2: fetch the missing"):
        load_parquet(tmp_path)
    simple(tmp_path / "train-00001-of-00002.parquet", [0, 1], names=("a", "c"))
    with pytest.raises(InputError, match=r"'train-00001.*' and 'train-00000.*' differ in their"):
        load_parquet(tmp_path)
    simple(tmp_path / "extra.parquet", [0, 1])
    with pytest.raises(InputError, match=r"The name 'extra.parquet' says no role: call it train-"):
        load_parquet(tmp_path)
    with pytest.raises(InputError, match="There is no file or folder"):
        load_parquet(tmp_path / "gone.parquet")
