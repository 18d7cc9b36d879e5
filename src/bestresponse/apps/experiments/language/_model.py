"""A recurrent language model, and everything that regularizes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import bestresponse as br
from bestresponse._errors import InputError

State = list[tuple[Tensor, Tensor]]
Per = Literal["model", "tensor", "weight"]

DROPOUTS = ("embedding", "input", "hidden", "output", "weight")
_SPREAD = 0.1  # of the initial embeddings, uniform


@dataclass(frozen=True)
class Strengths:
    """How strongly a model is regularized.

    Attributes:
        embedding: rate at which words of the vocabulary lose their vector in a batch.
        input: rate at which units of the first layer's input are dropped.
        hidden: likewise between two layers.
        output: likewise after the last layer.
        weight: rate at which recurrent weights are dropped.
        activation: α of α · mean (dropped output)².
        temporal: β of β · mean (output at t + 1 less output at t)².
        decay: a of ½ a Σ w².
    """

    embedding: float
    input: float
    hidden: float
    output: float
    weight: float
    activation: float
    temporal: float
    decay: float

    def rates(self) -> dict[str, float]:
        """Those of the dropouts."""
        return {name: getattr(self, name) for name in DROPOUTS}


class LanguageModel(nn.Module):
    """Embedding, LSTM layers and a decoder that shares the embedding's weights.

    Args:
        vocabulary: numbers of words it knows.
        width: units of the embedding and of each layer.
        layers: LSTM layers.
    """

    def __init__(self, vocabulary: int, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.uniform_(self.embedding.weight, -_SPREAD, _SPREAD)
        self.layers = nn.ModuleList(nn.LSTM(width, width) for _ in range(layers))
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def state(self, columns: int) -> State:
        """The state before the first word of each column."""
        zeros = torch.zeros(1, columns, self.embedding.embedding_dim)
        zeros = zeros.to(self.embedding.weight)
        return [(zeros, zeros) for _ in self.layers]

    def forward(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits of the next word, and the state after the last.

        Args:
            words: int64 (time, columns).
            state: of each layer.

        Returns:
            Logits (time, columns, vocabulary), and the new state, without a graph.
        """
        hidden, after = self.embedding(words), list[tuple[Tensor, Tensor]]()
        for layer, before in zip(self.layers, state, strict=True):
            hidden, (h, c) = layer(hidden, before)
            after.append((h.detach(), c.detach()))
        return self.decode(hidden), after

    def decode(self, hidden: Tensor) -> Tensor:
        """Logits of (time, columns, width) hidden units."""
        return F.linear(hidden, self.embedding.weight, self.bias)

    def loss(self, words: Tensor, targets: Tensor, state: State) -> Tensor:
        """Mean cross-entropy, without any regularization."""
        return F.cross_entropy(self(words, state)[0].flatten(0, 1), targets.flatten())


class Regularizers(nn.Module):
    """All hyperparameters of the training loss, and that loss.

    Dropout is locked: one mask for all times of a batch. Rates are relaxed, so that the loss has
    a derivative with respect to each.

    Args:
        model: what is regularized.
        strengths: initial ones.
        rates: `one` for each kind of dropout, or one for each `unit` (each word of the vocabulary,
            each recurrent weight).
        decay: one decay for the `model`, for each `tensor`, or for each `weight`.
        temperature: of the relaxed masks.
    """

    def __init__(
        self,
        model: LanguageModel,
        strengths: Strengths,
        rates: Literal["one", "unit"] = "one",
        decay: Per = "model",
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        shapes = self._shapes(model) if rates == "unit" else {}
        self.drop = nn.ModuleDict(
            {
                name: br.hyper.ConcreteDropout(rate, shapes.get(name, ()), temperature)
                for name, rate in strengths.rates().items()
                if name != "hidden" or len(model.layers) > 1
            }
        )
        self.penalty = br.hyper.Bounded(
            activation=(0.0, math.inf, strengths.activation),
            temporal=(0.0, math.inf, strengths.temporal),
        )
        self.decay = br.hyper.WeightDecay(model, per=decay, init=strengths.decay)

    @staticmethod
    def _shapes(model: LanguageModel) -> dict[str, Sequence[int]]:
        words, width = model.embedding.weight.shape
        first = model.layers[0].weight_hh_l0
        assert isinstance(first, Tensor)
        return {
            "embedding": (words, 1), "input": (width,), "hidden": (width,), "output": (width,),
            "weight": tuple(first.shape),
        }  # fmt: skip

    def loss(self, model: LanguageModel, words: Tensor, targets: Tensor, state: State) -> Tensor:
        """The training loss of a batch, a scalar: data, activations and decay."""
        return self.parts(model, words, targets, state)[0]

    def parts(
        self, model: LanguageModel, words: Tensor, targets: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """The training loss, and the state after the last word."""
        table = model.embedding.weight
        hidden = F.embedding(words, table * self.dropout("embedding").mask((len(table), 1)))
        hidden = self.drop["input"](hidden, dims_shared=(0,))
        raw, after = hidden, list[tuple[Tensor, Tensor]]()
        for i, (layer, before) in enumerate(zip(model.layers, state, strict=True)):
            if i:
                hidden = self.drop["hidden"](raw, dims_shared=(0,))
            raw, (h, c) = self._run(layer, hidden, before)
            after.append((h.detach(), c.detach()))
        dropped = self.drop["output"](raw, dims_shared=(0,))
        data = F.cross_entropy(model.decode(dropped).flatten(0, 1), targets.flatten())
        active = self.penalty.activation * dropped.square().mean()
        if len(raw) > 1:
            active = active + self.penalty.temporal * (raw[1:] - raw[:-1]).square().mean()
        return data + active + self.decay(model), after

    def _run(self, layer: nn.Module, hidden: Tensor, before: tuple[Tensor, Tensor]) -> Any:
        """A layer with some of its recurrent weights dropped."""
        weight = layer.weight_hh_l0
        assert isinstance(weight, Tensor)
        dropped = weight * self.dropout("weight").mask(weight.shape)
        return functional_call(layer, {"weight_hh_l0": dropped}, (hidden, before))

    def dropout(self, name: str) -> br.hyper.ConcreteDropout:
        """The dropout of that kind."""
        drop = self.drop[name]
        assert isinstance(drop, br.hyper.ConcreteDropout)
        return drop

    def values(self) -> dict[str, float]:
        """The mean of each group as people read it; decays by their geometric mean."""
        found = {name: float(self.dropout(name).rate.detach().mean()) for name in self.drop}
        found |= {name: float(value) for name, value in self.penalty.values().items()}
        logs = [leaf.detach().reshape(-1) for leaf in self.decay.parameters()]
        return {**found, "decay": float(torch.cat(logs).mean().exp())}


def check_vocabulary(words: int, limit: int) -> None:
    """Refuse a text with more words than the model is to have."""
    if words > limit:
        raise InputError(
            f"The text has a vocabulary of {words:,}, more than the model's {limit:,}; raise "
            "--vocabulary, or --min-count so that rarer words become <unk>."
        )
