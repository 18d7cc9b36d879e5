"""Dropout rates and weight decays of an LSTM language model, tuned while it trains.

The text is the language reference that comes with Python. The same model is trained twice, with
and without hyperparameter steps. Both times the weights of the best epoch count, by the part of
the validation text that no hypergradient is taken of.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse.data import load_text

WIDTH, COLUMNS, WINDOW, EPOCHS, INTERVAL = 64, 10, 30, 24, 8

torch.set_num_threads(1)
text = load_text("pydoc", min_count=2, tokens=12_000, held_out=8_000)
tuning, selection = text.validation[:6000], text.validation[6000:]


class Model(nn.Module):
    """Embedding, LSTM, and the embedding again as decoder."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(len(text.vocabulary), WIDTH)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.lstm = nn.LSTM(WIDTH, WIDTH)

    def forward(self, words, drop_input=lambda x: x, drop_output=lambda x: x):
        """Logits of the next words, (time · columns, vocabulary)."""
        hidden, _ = self.lstm(drop_input(self.embedding(words)))
        return F.linear(drop_output(hidden), self.embedding.weight).flatten(0, 1)


class Regularizers(nn.Module):
    """The hyperparameters, and the training loss that they make."""

    def __init__(self, model):
        super().__init__()
        self.input = br.hyper.ConcreteDropout(0.1, temperature=0.5)
        self.output = br.hyper.ConcreteDropout(0.1, temperature=0.5)
        self.decay = br.hyper.WeightDecay(model, per="tensor", init=1e-4)

    def loss(self, model, words, targets):
        """One mask for all times of a window."""
        logits = model(
            words,
            lambda x: self.input(x, dims_shared=(0,)),
            lambda x: self.output(x, dims_shared=(0,)),
        )
        return F.cross_entropy(logits, targets.flatten()) + self.decay(model)


def batches(part, window=WINDOW):
    """Windows of the text in columns, with the words that follow."""
    table = part[: len(part) // COLUMNS * COLUMNS].view(COLUMNS, -1).T
    for start in range(0, len(table) - 1, window):
        end = min(start + window, len(table) - 1)
        yield table[start:end], table[start + 1 : end + 1]


def perplexity(model, part):
    """Exp of the mean loss a word."""
    with torch.no_grad():
        losses = [
            (F.cross_entropy(model(x), y.flatten(), reduction="sum"), y.numel())
            for x, y in batches(part, window=200)
        ]
    return math.exp(sum(float(loss) for loss, _ in losses) / sum(n for _, n in losses))


def train(tuned):
    """Selection and test perplexity of the best epoch."""
    torch.manual_seed(0)
    model = Model()
    regularizers = Regularizers(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    hyper_optimizer = torch.optim.Adam(regularizers.parameters(), lr=0.2, betas=(0.9, 0.99))
    nested = br.Nested(
        params=model,
        hyper=regularizers,
        inner=lambda x, y: regularizers.loss(model, x, y),
        outer=lambda x, y: F.cross_entropy(model(x), y.flatten()),
        method=br.Implicit(br.Scale(1.0)),  # T1-T2; Adam takes its scale out
    )
    step, held, best = 0, list(batches(tuning)), (math.inf, math.inf)
    for epoch in range(EPOCHS):
        for x, y in batches(text.train):
            if tuned and step % INTERVAL == 0:
                loss, _ = nested((x, y), held[step // INTERVAL % len(held)])
                hyper_optimizer.zero_grad()
                loss.backward()
                hyper_optimizer.step()
            optimizer.zero_grad()
            nested.inner_loss(x, y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
        best = min(best, (perplexity(model, selection), perplexity(model, text.test)))
        if epoch % 6 == 5:
            rates = regularizers.input.rate.item(), regularizers.output.rate.item()
            print(f"epoch {epoch + 1}: selection {perplexity(model, selection):.1f}, best "
                  f"{best[0]:.1f}, dropout {rates[0]:.3f} and {rates[1]:.3f}")  # fmt: skip
    return best


print("without tuning")
_, untuned = train(tuned=False)
print("with tuning")
_, tuned = train(tuned=True)
print(f"test perplexity {untuned:.1f} without tuning, {tuned:.1f} with it: "
      f"{100 * (1 - tuned / untuned):.1f} % lower")  # fmt: skip
