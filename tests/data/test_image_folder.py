import numpy as np
import pytest
from PIL import Image

from bestresponse._errors import InputError
from bestresponse.data import load_image_folder


def save(folder, name, level=0, mode="L", size=(3, 2)):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    colour = level if mode in ("L", "1", "P", "I;16") else (level,) * len(mode)
    Image.new(mode, size, colour).save(file)
    return file


def test_sorted_folders_are_classes_and_sorted_files_rows(tmp_path):
    for name, level in (("dog/b.png", 4), ("cat/2.bmp", 2), ("dog/a.png", 3), ("cat/1.png", 1)):
        save(tmp_path, name, level)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"not an image")
    data = load_image_folder(tmp_path)
    assert (data.class_names, data.labels.tolist()) == (("cat", "dog"), [0, 0, 1, 1])
    assert data.inputs.shape == (4, 1, 2, 3)
    assert data.inputs[:, 0, 0, 0].tolist() == [1, 2, 3, 4]
    assert data.name == tmp_path.name
    assert data.source == f"Image folder {tmp_path.name}, one sub-folder a class."
    assert str(tmp_path.parent) not in data.source


def test_train_and_test_above_the_classes(tmp_path):
    for name, level in (("train/a/1.png", 1), ("train/b/1.png", 2), ("test/a/1.png", 3)):
        save(tmp_path, name, level)
    save(tmp_path, "test/b/1.png", 4)
    data = load_image_folder(tmp_path)
    assert data.inputs[:, 0, 0, 0].tolist() == [1, 2]
    assert data.official_test.inputs[:, 0, 0, 0].tolist() == [3, 4]
    assert data.source.endswith("/train.") and data.official_test.source.endswith("/test.")


def test_train_alone_has_no_official_test(tmp_path):
    save(tmp_path, "train/a/1.png")
    save(tmp_path, "train/b/1.png")
    assert load_image_folder(tmp_path).official_test is None


def test_colours_keep_their_channels_and_places(tmp_path):
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)  # height, width, channel
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "1.png")
    data = load_image_folder(tmp_path)
    assert data.shape == (3, 2, 3)
    assert data.inputs[0].permute(1, 2, 0).tolist() == pixels.tolist()


@pytest.mark.parametrize(
    ("mode", "suffix", "channels"),
    [("1", "png", 1), ("P", "png", 3), ("L", "gif", 3), ("RGB", "gif", 3), ("RGB", "jpg", 3)],
)
def test_other_kinds_become_greyscale_or_rgb(tmp_path, mode, suffix, channels):
    save(tmp_path, f"a/1.{suffix}", 0, mode)
    save(tmp_path, f"b/1.{suffix}", 0, mode)
    assert load_image_folder(tmp_path).shape == (channels, 2, 3)


def test_gifs_have_three_channels_whatever_their_palette(tmp_path):
    for name, image in (("a", Image.linear_gradient("L")), ("b", Image.new("RGB", (256, 256)))):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "1.gif")
    with Image.open(tmp_path / "a" / "1.gif") as grey:
        assert grey.mode == "L"  # Pillow's choice for a palette of greys
    assert load_image_folder(tmp_path).shape == (3, 256, 256)


def test_formats_nobody_asked_for_are_not_opened(tmp_path):
    save(tmp_path, "a/1.pcx")
    with pytest.raises(InputError, match=r"'a/1.pcx' is not a whole PNG"):
        load_image_folder(tmp_path)


def test_a_bilevel_image_spans_black_to_white(tmp_path):
    save(tmp_path, "a/1.png", 0, "1")
    save(tmp_path, "b/1.png", 1, "1")
    assert load_image_folder(tmp_path).inputs[:, 0, 0, 0].tolist() == [0, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "CMYK"])
def test_kinds_that_would_lose_something_are_refused(tmp_path, mode):
    save(tmp_path, "a/1.tif", 0, mode)
    with pytest.raises(InputError, match=f"'a/1.tif' has pixels of kind {mode}.*: convert"):
        load_image_folder(tmp_path)


def test_transparent_palettes_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    image = Image.new("P", (3, 2))
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "a" / "1.png", transparency=b"\x10\x80")
    with pytest.raises(InputError, match=r"'a/1.png' has pixels of kind P, maybe with transp"):
        load_image_folder(tmp_path)


def test_mixed_sizes_and_kinds_name_the_file(tmp_path):
    save(tmp_path, "a/1.png")
    odd = save(tmp_path, "b/2.png", size=(5, 2))
    with pytest.raises(
        InputError, match=r"'b/2.png' has shape \(1, 2, 5\).*'a/1.png' has \(1, 2, 3"
    ):
        load_image_folder(tmp_path)
    odd.unlink()
    save(tmp_path, "b/2.png", mode="RGB")
    with pytest.raises(InputError, match=r"'b/2.png' has shape \(3, 2, 3\).*one size and one kind"):
        load_image_folder(tmp_path)


def test_what_is_no_image_names_the_file(tmp_path):
    whole = save(tmp_path, "a/1.png", size=(64, 64)).read_bytes()
    for broken in (b"", b"hello", whole[:40], whole[:-30], b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        (tmp_path / "a" / "2.png").write_bytes(broken)
        with pytest.raises(InputError, match=r"'a/2.png' is not a whole PNG, JPEG or other"):
            load_image_folder(tmp_path)


def test_other_layouts_are_told(tmp_path):
    with pytest.raises(InputError, match="holds no class folders: make one a class"):
        load_image_folder(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match=r"class folders of '.*' are empty: put images in them"):
        load_image_folder(tmp_path)
    file = save(tmp_path, "a/1.png")
    with pytest.raises(InputError, match=r"'1.png' is no folder"):
        load_image_folder(file)
    with pytest.raises(InputError, match="has 1 class: classification needs two"):
        load_image_folder(tmp_path)
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="no example of class 'b'"):
        load_image_folder(tmp_path)
    save(tmp_path, "b/deep/1.png")
    with pytest.raises(InputError, match="'b/deep' is a folder inside a class folder"):
        load_image_folder(tmp_path)
    with pytest.raises(InputError, match=r"There is no file or folder '.*nowhere'"):
        load_image_folder(tmp_path / "nowhere")


def test_a_third_role_or_another_class_in_test_is_told(tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/c/1.png"):
        save(tmp_path, name)
    with pytest.raises(InputError, match="other class names than the rest"):
        load_image_folder(tmp_path)
    save(tmp_path, "val/a/1.png")
    with pytest.raises(InputError, match=r"'val' stands beside 'train' .*only 'train' and 'test'"):
        load_image_folder(tmp_path)
