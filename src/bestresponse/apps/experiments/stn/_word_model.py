"""A recurrent language model with a place for every dropout, and a text to read in windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bestresponse as br
from bestresponse.apps.experiments.language._parts import columns, windows

State = list[tuple[Tensor, Tensor]]
RATES = ("output", "input", "hidden", "embedding", "weight")
PENALTIES = ("activation", "temporal")
_SPREAD = 0.1  # of the initial embeddings, uniform
_EVALUATED_COLUMNS, _EVALUATED_WINDOW = 10, 100


class Reading(NamedTuple):
    """What a window comes to.

    Attributes:
        logits: of the next word, (time, columns, words).
        raw: outputs of the last layer, (time, columns, width).
        dropped: these under output dropout.
        state: after the window, without a graph.
    """

    logits: Tensor
    raw: Tensor
    dropped: Tensor
    state: State


class WordModel(nn.Module):
    """Embedding, LSTM layers, and a decoder that shares the embedding's own table.

    Each layer but the first adds to what is below it: without that, two layers learn nothing but
    the frequencies of words for many epochs.

    Args:
        words: of the vocabulary.
        width: units of the embedding and of each layer.
        layers: of the LSTM.
    """

    def __init__(self, words: int, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        nn.init.uniform_(self.embedding.weight, -_SPREAD, _SPREAD)
        self.table = self.embedding.weight  # as it is, when the embedding responds
        self.layers = nn.ModuleList(nn.LSTM(width, width) for _ in range(layers))
        self.input = br.response.Dropout(dims_shared=(0,))
        self.hidden = nn.ModuleList(
            br.response.Dropout(dims_shared=(0,)) for _ in range(layers - 1)
        )
        self.output = br.response.Dropout(dims_shared=(0,))
        self.bias = nn.Parameter(torch.zeros(words))

    def start(self, count: int) -> State:
        """The state before the first word of each of so many columns."""
        zeros = self.table.new_zeros(1, count, self.table.shape[1])
        return [(zeros, zeros) for _ in self.layers]

    def forward(self, words: Tensor, state: State) -> Reading:
        """Read a window, int64 (time, columns)."""
        raw, after = self.input(self.embedding(words)), list[tuple[Tensor, Tensor]]()
        for i, (layer, before) in enumerate(zip(self.layers, state, strict=True)):
            read, (h, c) = layer(self.hidden[i - 1](raw) if i else raw, before)
            raw = raw + read if i else read
            after.append((h.detach(), c.detach()))
        dropped = self.output(raw)
        return Reading(F.linear(dropped, self.table, self.bias), raw, dropped, after)


def dropout(rates: Iterator[str] | tuple[str, ...], layers: int) -> dict[str, str]:
    """Names of hyperparameters by names of the model's layers, of those that are in `rates`."""
    of = {"output": "output", "input": "input", "embedding": "embedding"}
    of |= {f"hidden.{i}": "hidden" for i in range(layers - 1)}
    of |= {f"layers.{i}": "weight" for i in range(layers)}
    return {layer: rate for layer, rate in of.items() if rate in set(rates)}


def word_loss(reading: Reading, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the words that come next."""
    return F.cross_entropy(reading.logits.flatten(0, 1), targets.flatten())


def penalty(reading: Reading, values: Mapping[str, Tensor]) -> Tensor:
    """α · mean (dropped output)² + β · mean (output at t + 1 less output at t)².

    Args:
        reading: of a window.
        values: with or without `activation` (α) and `temporal` (β), the same number in each row.
    """
    total = reading.raw.new_zeros(())
    if "activation" in values:
        total = total + values["activation"][0] * reading.dropped.square().mean()
    if "temporal" in values and len(reading.raw) > 1:
        steps = reading.raw[1:] - reading.raw[:-1]
        total = total + values["temporal"][0] * steps.square().mean()
    return total


class Reader:
    """A text in columns, a window at a time for ever, with the state between them.

    Args:
        part: of the text, int64 (n,).
        count: columns.
        window: words.
        model: gives the first state.
    """

    def __init__(self, part: Tensor, count: int, window: int, model: WordModel) -> None:
        self._table, self._window, self._model = columns(part, count), window, model
        self._windows = self._again()
        self._state: State = []

    @property
    def windows(self) -> int:
        """In the whole text."""
        return -(-(len(self._table) - 1) // self._window)

    def next(self) -> tuple[Tensor, Tensor, State]:
        """Words, the words after them, and the state before them."""
        words, targets = next(self._windows)
        return words, targets, self._state

    def keep(self, state: State) -> None:
        """What the next window begins with, unless it begins the text anew."""
        self._state = state

    def _again(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            self._state = self._model.start(self._table.shape[1])
            yield from windows(self._table, self._window)


def mean_word_loss(net: nn.Module, part: Tensor, model: WordModel) -> float:
    """Mean cross-entropy a word over a whole part, in eval mode, the state carried along.

    Args:
        net: the model, or a network around it.
        part: int64 (n,).
        model: gives the first state.
    """
    reader = Reader(part, min(_EVALUATED_COLUMNS, len(part) // 2), _EVALUATED_WINDOW, model)
    training, total, count = net.training, 0.0, 0
    net.eval()
    with torch.no_grad():
        for _ in range(reader.windows):
            words, targets, state = reader.next()
            reading: Reading = net(words, state)
            reader.keep(reading.state)
            total += float(word_loss(reading, targets)) * targets.numel()
            count += targets.numel()
    net.train(training)
    return total / count
