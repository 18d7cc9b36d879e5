"""Text as a sequence of numbered words or characters, in three parts."""

from __future__ import annotations

import platform
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse.data._files import found, reading, title, visible

Unit = Literal["word", "character"]

UNKNOWN, END = "<unk>", "<eos>"
_FILES = {
    "train": ("train.txt", "ptb.train.txt"),
    "validation": ("valid.txt", "validation.txt", "ptb.valid.txt"),
    "test": ("test.txt", "ptb.test.txt"),
}
_WORD = re.compile(r"<\w+>|\w+(?:['’]\w+)*|[^\w\s]")


@dataclass(frozen=True, eq=False)
class Text:
    """A text in three parts, as numbers of its vocabulary.

    Attributes:
        train: int64 (n,), in reading order.
        validation: likewise; words that the training part does not have are `<unk>`.
        test: likewise.
        vocabulary: the word or character of each number, the most frequent first.
        name: of the file or folder.
        unit: word or character.
        how: a sentence on where the parts are from.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    vocabulary: tuple[str, ...]
    name: str
    unit: Unit
    how: str

    def record(self) -> dict[str, Any]:
        """Sizes, vocabulary and shares of `<unk>`, ready for JSON."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        unknown = self.vocabulary.index(UNKNOWN)
        return {
            "name": self.name,
            "unit": self.unit,
            "how": self.how,
            "vocabulary": len(self.vocabulary),
            "tokens": {role: len(part) for role, part in parts.items()},
            "unknown": {role: float((part == unknown).double().mean())
                        for role, part in parts.items()},
        }  # fmt: skip


def load_text(
    source: str | Path,
    *,
    unit: Unit = "word",
    min_count: int = 1,
    tokens: int | None = None,
    held_out: int | None = None,
) -> Text:
    """A text for a language model, with a validation and a test part.

    Every line ends in the word `<eos>`. A training part with `<unk>` in it, as Penn Treebank's, is
    taken to be in words already, and divided at white space; elsewhere punctuation marks are words
    of their own. The vocabulary is that of the training part; everything else is `<unk>`.

    Args:
        source: `pydoc`, the language reference that comes with Python; a folder with `train.txt`,
            `valid.txt` and `test.txt` (or `ptb.train.txt` and so on); or, by character, a file,
            whose first 90 % are for training, the next 5 % for validation, the last for test.
        unit: of the sequence.
        min_count: words that the training part has less often are `<unk>`.
        tokens: take so many of the training part, from its beginning; all by default.
        held_out: likewise of the validation and of the test part.

    Raises:
        InputError: nothing is there, it has no validation part, or a part is too short.

    Example:
        >>> text = load_text("pydoc", min_count=2, tokens=10_000)
        >>> len(text.train), text.vocabulary[int(text.train[0])] in text.vocabulary
        (10000, True)
    """
    if unit not in get_args(Unit):
        raise InputError(f"unit={unit!r} is unknown; use word or character.")
    for name, number in {"min_count": min_count, "tokens": tokens, "held_out": held_out}.items():
        if number is not None and number < 1:
            raise InputError(f"{name}={number} must be positive.")
    texts, name, how = _texts(source, unit)
    units = _units(texts, unit)
    sizes = {"train": tokens, "validation": held_out, "test": held_out}
    taken = {role: sequence[: sizes[role]] for role, sequence in units.items()}
    for role, sequence in taken.items():
        if len(sequence) < (sizes[role] or 2):
            raise InputError(
                f"The {role} part of {name!r} has {len(sequence)} {unit}s, fewer than the "
                f"{sizes[role] or 2} that are needed; ask for fewer, or give a longer text."
            )
    vocabulary = _vocabulary(taken["train"], min_count)
    number_of = {word: number for number, word in enumerate(vocabulary)}
    unknown = number_of[UNKNOWN]
    parts = {
        role: torch.tensor([number_of.get(word, unknown) for word in sequence])
        for role, sequence in taken.items()
    }
    return Text(**parts, vocabulary=vocabulary, name=name, unit=unit, how=how)


def _texts(source: str | Path, unit: Unit) -> tuple[dict[str, str], str, str]:
    """The text of each part, the name, and how the parts came about."""
    if source == "pydoc":
        return _pydoc()
    path = found(source)
    if path.is_dir():
        files = {role: _first(path, names) for role, names in _FILES.items()}
        if any(files.values()):
            return _from_folder(path, files)
        alone = [entry for entry in visible(path) if entry.suffix == ".txt"]
        if len(alone) != 1:
            raise InputError(
                f"Folder {title(path)!r} has no text; put train.txt, valid.txt and test.txt in it."
            )
        path = alone[0]
    if unit == "word":
        raise InputError(
            f"{title(path)!r} is one file and has no validation part; give a folder with "
            "train.txt, valid.txt and test.txt, or take it by character."
        )
    text = _read(path)
    ends = [len(text) * 18 // 20, len(text) * 19 // 20]
    parts = {"train": text[: ends[0]], "validation": text[ends[0] : ends[1]],
             "test": text[ends[1] :]}  # fmt: skip
    return parts, title(path), "The first 90 % of one file, the next 5 %, and the last 5 %."


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _from_folder(folder: Path, files: dict[str, Path | None]) -> tuple[dict[str, str], str, str]:
    texts = {}
    for role, file in files.items():
        if file is None:
            raise InputError(
                f"Folder {title(folder)!r} has no {role} part; put the text that is for it into "
                f"{_FILES[role][0]}."
            )
        texts[role] = _read(file)
    used = ", ".join(file.name for file in files.values() if file is not None)
    return texts, title(folder), f"The parts are files of the folder ({used})."


def _read(path: Path) -> str:
    with reading(path):
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path.name!r} is no UTF-8 text; convert it first.") from error


def _pydoc() -> tuple[dict[str, str], str, str]:
    """Python's language reference; topics repeat each other, so each paragraph comes once."""
    from pydoc_data.topics import topics

    seen: set[str] = set()
    chapters = []
    for name in sorted(topics):
        paragraphs = [" ".join(part.split()) for part in topics[name].split("\n\n")]
        fresh = [part for part in dict.fromkeys(paragraphs) if part and part not in seen]
        seen.update(fresh)
        chapters.append("".join(part + "\n" for part in fresh))
    ends = [len(chapters) * 8 // 10, len(chapters) * 9 // 10]
    parts = {
        "train": "".join(chapters[: ends[0]]),
        "validation": "".join(chapters[ends[0] : ends[1]]),
        "test": "".join(chapters[ends[1] :]),
    }
    how = (
        f"The language reference of Python {platform.python_version()}: the first 80 % of its "
        "topics by name, the next 10 %, and the last 10 %; a paragraph in several counts once."
    )
    return parts, "pydoc", how


def _units(texts: dict[str, str], unit: Unit) -> dict[str, list[str]]:
    if unit == "character":
        return {role: list(text) for role, text in texts.items()}
    in_words = UNKNOWN in texts["train"]
    return {
        role: [
            word
            for line in text.splitlines()
            for word in [*(line.split() if in_words else _WORD.findall(line)), END]
        ]
        for role, text in texts.items()
    }


def _vocabulary(sequence: list[str], min_count: int) -> tuple[str, ...]:
    """Most frequent first, ties in order of appearance; `<unk>` is always there."""
    counts = Counter(sequence)
    kept = [word for word, count in counts.most_common() if count >= min_count]
    return tuple(dict.fromkeys([*kept, UNKNOWN]))
