import pytest
import torch

from bestresponse._errors import InputError
from bestresponse.data import load_csv


@pytest.fixture
def write(tmp_path):
    def write_(text, encoding="utf-8"):
        (tmp_path / "t.csv").write_bytes(text.encode(encoding))
        return tmp_path / "t.csv"

    return write_


def test_words_are_sorted_and_features_keep_their_order(write):
    data = load_csv(write("x,kind,y\n1,dog,0.5\n2,cat,-1e3\n3, dog ,0\n"), "kind")
    assert (data.class_names, data.labels.tolist()) == (("cat", "dog"), [1, 0, 1])
    assert data.inputs.dtype == torch.float32
    assert data.inputs.tolist() == [[1.0, 0.5], [2.0, -1000.0], [3.0, 0.0]]
    assert (data.name, data.source) == ("t", "CSV file t.csv, target column 'kind'.")


@pytest.mark.parametrize("cells", [("10", "9", "-1"), ("10.0", "9.0", "-1")])
def test_whole_numbers_are_sorted_by_value(write, cells):
    data = load_csv(write("x,k\n" + "".join(f"0,{cell}\n" for cell in cells)), "k")
    assert (data.class_names, data.labels.tolist()) == (("-1", "9", "10"), [2, 1, 0])


def test_spreadsheet_habits(write):
    text = '"k","a, b"\r\nu,1\r\n\r\nv,2\r\n'
    data = load_csv(write(text, "utf-8-sig"), "k")
    assert (data.class_names, data.inputs.tolist()) == (("u", "v"), [[1.0], [2.0]])


BAD = {
    "empty": ("", "'t.csv' is empty: give a header"),
    "header-only": ("x,k\n", "'t.csv' has a header but no rows"),
    "no-target": ("x,y\n1,2\n", "'t.csv' has no column 'k': choose the target from x, y."),
    "twice": ("x,x,k\n1,2,a\n", "two columns named 'x'"),
    "target-only": ("k\na\nb\n", "has only the column 'k': add"),
    "word": ("x,y,k\n1,2,a\n1,red,b\n", "Column 'y' holds 'red', no finite number in line 3 of 't"),
    "missing": ("x,k,y\n1,a,2\n,b,3\n", "Column 'x' is empty in line 3 of 't.csv': fill it in"),
    "nan": ("x,k\nnan,a\n2,b\n", "Column 'x' holds 'nan', no finite number in line 2"),
    "infinite": ("x,k\n1,a\ninf,b\n", "Column 'x' holds 'inf'.* line 3"),
    "too-large": ("x,k\n1,a\n1e39,b\n", "Column 'x' holds '1e39', no finite number in line 3"),
    "no-class": ("x,k\n1,a\n2, \n", "Column 'k' is empty in line 3"),
    "short": ("x,y,k\n1,2,a\n1,b\n", "Line 3 of 't.csv' has 2 cells but the header 3"),
    "long": ("x,k\n1,a\n1,b,c\n", "Line 3 of 't.csv' has 3 cells but the header 2"),
    "regression": (
        "x,k\n1,2\n2,0.25\n",
        "Column 'k' of 't.csv' holds 0.25, a measure and no class",
    ),
    "nan-target": ("x,k\n1,2\n2,nan\n", "Column 'k' of 't.csv' holds nan"),
    "one-class": ("x,k\n1,a\n2,a\n", "'t' has 1 class"),
}


@pytest.mark.parametrize(("text", "sentence"), BAD.values(), ids=BAD)
def test_bad_tables_name_the_column_and_line(write, text, sentence):
    with pytest.raises(InputError, match=sentence):
        load_csv(write(text), "k")


def test_files_that_are_no_text(write, tmp_path):
    with pytest.raises(InputError, match=r"'t.csv' is not comma-separated text in UTF-8"):
        load_csv(write("x,k\n1,é\n", "latin-1"), "k")
    with pytest.raises(InputError, match=r"'t.csv' is not comma-separated text"):
        load_csv(write("x,k\n1," + "a" * 200_000 + "\n"), "k")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\): check"):
        load_csv(tmp_path, "k")
    with pytest.raises(
        InputError, match=r"There is no file or folder '.*gone.csv': check the path"
    ):
        load_csv(tmp_path / "gone.csv", "k")
