"""The parts of a text, read in columns and windows, and the perplexity of a model on one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import bestresponse as br
from bestresponse._errors import InputError
from bestresponse.apps.experiments.language._model import LanguageModel
from bestresponse.data import Text

_EVALUATED_COLUMNS, _EVALUATED_WINDOW = 10, 100

Window = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Parts:
    """A text with its validation part in two halves.

    Attributes:
        train: what the weights are fitted to.
        tuning: what the hypergradient is of.
        selection: what stops training and chooses between runs.
        test: what is reported.
        words: numbers of the vocabulary.
    """

    train: Tensor
    tuning: Tensor
    selection: Tensor
    test: Tensor
    words: int

    @classmethod
    def of(cls, text: Text) -> Parts:
        """The first half tunes, the second selects."""
        half = len(text.validation) // 2
        tuning, selection = text.validation[:half], text.validation[half:]
        return cls(text.train, tuning, selection, text.test, len(text.vocabulary))


def check_words(tokens: int, held_out: int, batch: int) -> None:
    """Refuse too few words for training, or for each of the other parts."""
    if tokens < 2 * batch:
        raise InputError(
            f"--tokens {tokens} is less than two words in each of --batch {batch} columns; take "
            "more of the text, or fewer columns."
        )
    if held_out < 8:
        raise InputError(f"--held-out is {held_out}; give at least 8.")


def columns(part: Tensor, count: int) -> Tensor:
    """A text as `count` columns that are read side by side, (length, count); a rest is left."""
    length = len(part) // count
    return part[: length * count].view(count, length).T.contiguous()


def windows(table: Tensor, length: int) -> Iterator[Window]:
    """Words and the words after them, a window at a time; the last may be shorter."""
    for start in range(0, len(table) - 1, length):
        end = min(start + length, len(table) - 1)
        yield table[start:end], table[start + 1 : end + 1]


def perplexity(model: LanguageModel, part: Tensor) -> float:
    """Exp of the mean cross-entropy a word, in eval mode, with the state carried along."""
    table = columns(part, min(_EVALUATED_COLUMNS, len(part) // 2))
    training, total, state = model.training, 0.0, model.state(table.shape[1])
    model.eval()
    with torch.no_grad():
        for words, targets in windows(table, _EVALUATED_WINDOW):
            logits, state = model(words, state)
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
            total += float(loss)
    model.train(training)
    mean = total / (table.numel() - table.shape[1])
    if not math.isfinite(mean):
        raise br.SolveError(br.Result.nonfinite, "(loss of the trained model)")
    return math.exp(min(mean, 700.0))
