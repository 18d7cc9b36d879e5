import pytest
import torch

from bestresponse._errors import InputError
from bestresponse.data import Dataset, load_digits


def make(**changes):
    fields = {
        "inputs": torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float32),
        "labels": torch.tensor([0, 1, 0]),
        "class_names": ("a", "b"),
        "name": "toy",
        "source": "Typed by hand.",
    }
    return Dataset(**{**fields, **changes})


def images(*shape, value=255):
    return torch.full(shape, value, dtype=torch.uint8)


def test_features_and_images_are_told_apart():
    table, pictures = make(), make(inputs=images(3, 1, 4, 5))
    assert (len(table), table.shape, table.is_image) == (3, (1,), False)
    assert (len(pictures), pictures.shape, pictures.is_image) == (3, (1, 4, 5), True)


NAN = torch.tensor([[0.0], [float("nan")], [1.0]], dtype=torch.float32)
BAD = {
    "float64": ({"inputs": torch.zeros(3, 1).double()}, r"'toy' are torch.float64 of shape \(3, 1"),
    "one-axis": ({"inputs": torch.zeros(3).float()}, r"of shape \(3,\): give uint8 images"),
    "uint8-table": ({"inputs": images(3, 2)}, "are torch.uint8"),
    "no-rows": (
        {"inputs": images(0, 1, 2, 2), "labels": torch.zeros(0, dtype=torch.int64)},
        "'toy' has no examples: give",
    ),
    "nan": ({"inputs": NAN}, "Feature 0 of row 1 of 'toy' is nan: fill"),
    "inf": ({"inputs": torch.where(NAN.isnan(), torch.inf, NAN)}, "row 1 of 'toy' is inf"),
    "pixel-above": ({"inputs": images(3, 1, 2, 2), "max_value": 16.0}, "max_value is 16.0 .* 255:"),
    "max-zero": ({"inputs": images(3, 1, 2, 2, value=0), "max_value": 0.0}, "max_value is 0.0"),
    "max-300": ({"inputs": images(3, 1, 2, 2), "max_value": 300.0}, "at most 255"),
    "label-dtype": ({"labels": torch.tensor([0.0, 1.0, 0.0])}, "give int64 of shape \\(3,\\)"),
    "label-count": ({"labels": torch.tensor([0, 1])}, r"of shape \(2,\): give int64"),
    "label-high": ({"labels": torch.tensor([0, 1, 2])}, "Row 2 of 'toy' has the label 2, outside"),
    "label-negative": ({"labels": torch.tensor([0, -1, 1])}, "Row 1 of 'toy' has the label -1"),
    "one-class": (
        {"class_names": ("a",), "labels": torch.tensor([0, 0, 0])},
        "'toy' has 1 class: classification needs two",
    ),
    "same-name": ({"class_names": ("a", "a")}, "two classes named 'a'"),
    "empty-class": ({"class_names": ("a", "b", "c")}, "no example of class 'c'"),
}


@pytest.mark.parametrize(("changes", "sentence"), BAD.values(), ids=BAD)
def test_bad_input_is_told_in_a_sentence(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        make(**changes)


def test_official_test_set_must_agree():
    assert len(make(official_test=make()).official_test) == 3
    with pytest.raises(InputError, match=r"have shape \(2,\) and full pixel 255.0, the others \(1"):
        make(official_test=make(inputs=torch.zeros(3, 2, dtype=torch.float32)))
    with pytest.raises(InputError, match="other class names"):
        make(official_test=make(class_names=("b", "a")))
    with pytest.raises(InputError, match="a test set of its own"):
        make(official_test=make(official_test=make()))


def test_digits_are_the_bundled_ones():
    data = load_digits()
    assert data.inputs.dtype == torch.uint8
    assert data.inputs[0, 0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert data.labels[:10].tolist() == list(range(10))
    assert torch.bincount(data.labels).tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]
    assert (data.max_value, int(data.inputs.max()), data.official_test) == (16.0, 16, None)
