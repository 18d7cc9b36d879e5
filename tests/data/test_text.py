"""Texts: words, ends of lines, vocabulary of the training part, three parts, refusals."""

from pathlib import Path

import pytest
import torch

import bestresponse as br
from bestresponse.data import load_text

DATA = Path(__file__).parents[3] / "shared" / "data" / "text"
PARTS = {"train": "a b, a\nb a\n", "valid": "b c\n", "test": "a: d\n"}


@pytest.fixture
def folder(tmp_path):
    """A folder with a small text."""

    def write(prefix="", **parts):
        for name, content in parts.items():
            (tmp_path / f"{prefix}{name}.txt").write_text(content)
        return tmp_path

    return write


def words(text, part):
    return [text.vocabulary[number] for number in part]


@pytest.mark.parametrize("prefix", ["", "ptb."])
def test_a_folder_of_three_parts(folder, prefix):
    text = load_text(folder(prefix, **PARTS))
    assert words(text, text.train) == ["a", "b", ",", "a", "<eos>", "b", "a", "<eos>"]
    assert words(text, text.validation) == ["b", "<unk>", "<eos>"]
    assert words(text, text.test) == ["a", "<unk>", "<unk>", "<eos>"]
    assert text.vocabulary == ("a", "b", "<eos>", ",", "<unk>") and text.train.dtype == torch.int64
    record = text.record()
    assert record["tokens"] == {"train": 8, "validation": 3, "test": 4}
    assert record["unknown"] == {"train": 0, "validation": pytest.approx(1 / 3), "test": 0.5}
    assert record["vocabulary"] == 5 and f"{prefix}valid.txt" in record["how"]


def test_rare_words_are_unknown_and_only_the_part_that_is_used_counts(folder):
    where = folder(**{**PARTS, "train": "a a b b c\nc c c\n"})
    text = load_text(where, min_count=2, tokens=5)
    assert words(text, text.train) == ["a", "a", "b", "b", "<unk>"]
    assert text.vocabulary == ("a", "b", "<unk>")
    assert len(load_text(where, held_out=2).test) == 2


def test_a_text_in_words_already_is_divided_at_white_space(folder):
    text = load_text(folder(**{**PARTS, "train": "mr. <unk> n't\nmr. 's\n"}))
    assert words(text, text.train) == ["mr.", "<unk>", "n't", "<eos>", "mr.", "'s", "<eos>"]
    assert text.vocabulary.count("<unk>") == 1


def test_one_file_by_character(tmp_path):
    content = "ab" * 50 + "z\n" * 10
    (tmp_path / "input.txt").write_text(content)
    for source in (tmp_path, tmp_path / "input.txt"):
        text = load_text(source, unit="character")
        assert [len(text.train), len(text.validation), len(text.test)] == [108, 6, 6]
        everything = torch.cat([text.train, text.validation, text.test])
        assert "".join(words(text, everything)) == content
        assert "90 %" in text.how


def test_the_bundled_text_is_english_and_its_parts_share_no_paragraph():
    text = load_text("pydoc", min_count=2)
    assert len(text.train) > 40_000 and 1000 < len(text.vocabulary) < 6000
    assert {"the", "of", "statement", "."} <= set(text.vocabulary)
    end = text.vocabulary.index("<eos>")

    def long_paragraphs(part):
        lines = torch.tensor_split(part, (part == end).nonzero().flatten())
        return {tuple(line.tolist()) for line in lines if len(line) > 20}

    parts = [long_paragraphs(part) for part in (text.train, text.validation, text.test)]
    assert all(parts)
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


def test_war_and_peace():
    if not (DATA / "war_and_peace").is_dir():
        pytest.skip("no text at ../shared/data/text/war_and_peace, seen from the repository")
    text = load_text(DATA / "war_and_peace", min_count=3)
    assert text.record()["tokens"] == {"train": 506281, "validation": 108826, "test": 111649}
    assert len(text.vocabulary) == 8186


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        ({"train": "a", "test": "b"}, {}, "has no validation part; put .* into valid.txt"),
        ({"train": "a", "valid": "b"}, {}, "has no test part"),
        ({"valid": "a", "test": "b"}, {}, "has no train part"),
        ({"input": "a b c"}, {}, "'input.txt' is one file and has no validation part; give"),
        ({"one": "a", "two": "b"}, {}, "has no text; put train.txt"),
        ({}, {}, "has no text; put train.txt"),
        (PARTS, {"tokens": 9}, "train part of .* has 8 words, fewer than the 9"),
        (PARTS, {"held_out": 4}, "validation part of .* has 3 words, fewer than the 4"),
        ({**PARTS, "test": ""}, {}, "test part of .* has 0 words, fewer than the 2"),
        (PARTS, {"tokens": 0}, "tokens=0 must be positive"),
        (PARTS, {"min_count": 0}, "min_count=0 must be positive"),
        (PARTS, {"unit": "byte"}, "unit='byte' is unknown; use word or character"),
    ],
)
def test_bad_texts_are_a_sentence(folder, parts, options, message):
    with pytest.raises(br.InputError, match=message):
        load_text(folder(**parts), **options)


def test_bad_files_are_a_sentence(tmp_path):
    with pytest.raises(br.InputError, match="no file or folder"):
        load_text(tmp_path / "nowhere")
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(br.InputError, match=r"'x.txt' is no UTF-8 text"):
        load_text(tmp_path / "x.txt", unit="character")
