import gzip
import struct

import pytest

from bestresponse._errors import InputError
from bestresponse.data import load_idx


def idx(values, *shape, kind=8):
    return bytes((0, 0, kind, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + bytes(values)


def save(folder, role, pixels, labels, pack=bytes, suffix=""):
    images = folder / f"{role}-images-idx3-ubyte{suffix}"
    images.write_bytes(pack(idx(pixels, len(pixels) // 6, 2, 3)))
    (folder / f"{role}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(labels, len(labels))))
    return images


@pytest.mark.parametrize(("pack", "suffix"), [(bytes, ""), (gzip.compress, ".gz")])
def test_a_folder_as_mnist_ships(tmp_path, pack, suffix):
    save(tmp_path, "train", range(18), [4, 9, 4], pack, suffix)
    save(tmp_path, "t10k", range(100, 112), [9, 4], pack, suffix)
    data = load_idx(tmp_path)
    assert data.inputs.shape == (3, 1, 2, 3)
    assert data.inputs[1, 0].tolist() == [[6, 7, 8], [9, 10, 11]]
    assert (data.class_names, data.labels.tolist()) == (("4", "9"), [0, 1, 0])
    assert data.official_test.inputs[0, 0, 0].tolist() == [100, 101, 102]
    assert data.official_test.labels.tolist() == [1, 0]
    assert data.source == (
        f"IDX files train-images-idx3-ubyte{suffix} and train-labels-idx1-ubyte{suffix}."
    )


def test_one_images_file_with_its_labels_beside(tmp_path):
    save(tmp_path, "t10k", range(12), [1, 0])
    images = save(tmp_path, "emnist-letters-train", range(12), [1, 2])
    data = load_idx(images)
    assert (data.name, data.class_names) == ("emnist-letters-train", ("1", "2"))
    assert data.official_test is None


def test_training_alone_has_no_official_test(tmp_path):
    save(tmp_path, "train", range(12), [0, 1])
    assert load_idx(tmp_path).official_test is None


BAD = {
    "empty": (b"", "'train-images-idx3-ubyte' is no IDX file of bytes in 3 dimensions"),
    "text": (b"hello, here is some text", "is no IDX file of bytes in 3 dimensions: fetch"),
    "labels": (idx([0, 1], 2), "is no IDX file of bytes in 3 dimensions"),
    "ints": (idx(range(12), 2, 2, 3, kind=12), "is no IDX file of bytes"),
    "header-cut": (idx([], 2, 2, 3)[:9], "is no IDX file of bytes"),
    "cut": (idx(range(11), 2, 2, 3), "has 11 bytes where its header announces 12: fetch"),
    "long": (idx(range(13), 2, 2, 3), "has 13 bytes where its header announces 12"),
    "more": (idx(range(18), 3, 2, 3), "has 3 images but 'train-labels-idx1-ubyte' 2 labels"),
}


@pytest.mark.parametrize(("content", "sentence"), BAD.values(), ids=BAD)
def test_broken_files_are_told(tmp_path, content, sentence):
    save(tmp_path, "train", range(12), [0, 1]).write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        load_idx(tmp_path)


def test_broken_gzip_files_are_told(tmp_path):
    images = save(tmp_path, "train", range(12), [0, 1], gzip.compress, ".gz")
    whole = images.read_bytes()
    images.write_bytes(whole[:-12])
    with pytest.raises(InputError, match=r"'train-images-idx3-ubyte.gz' is a broken gzip file"):
        load_idx(tmp_path)
    images.write_bytes(b"hello")
    with pytest.raises(InputError, match=r"cannot be read \(Not a gzipped file"):
        load_idx(tmp_path)


def test_missing_files_and_unknown_labels_are_told(tmp_path):
    with pytest.raises(InputError, match="has no train-images-idx3-ubyte or train-images-idx3-uby"):
        load_idx(tmp_path)
    images = save(tmp_path, "train", range(12), [0, 1])
    save(tmp_path, "t10k", range(12), [0, 2])
    with pytest.raises(InputError, match="Row 1 of 't10k-labels-idx1-ubyte' has the label 2"):
        load_idx(tmp_path)
    with pytest.raises(InputError, match="'train-labels-idx1-ubyte' is not named like an images"):
        load_idx(tmp_path / "train-labels-idx1-ubyte")
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match="has no train-labels-idx1-ubyte"):
        load_idx(images)
