"""Softmax regression and ReLU networks by explicit formulas: an answer that owes us nothing.

References must not share code with what they judge, so nothing here calls the library or autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

Say = Callable[[str], None]
"""Told, in a few words, how far a long computation is."""

Map = Callable[[Tensor], Tensor]
"""A linear map of flat vectors."""

_CHUNK = 100  # steps of L-BFGS before it forgets its history


def silent(words: str) -> None:
    """Say nothing."""


class Network:
    """Linear layers with ReLU between them, at flat weights W₁, b₁, W₂, b₂, … and given inputs.

    Args:
        sizes: of the layers, inputs and outputs included.
        weights: flat, in the order of `nn.Sequential.parameters()`.
        inputs: (n, sizes[0]).
        labels: (n,).

    Attributes:
        inputs: of each layer.
        outputs: logits (n, classes).
        probabilities: their softmax.
    """

    def __init__(
        self, sizes: Sequence[int], weights: Tensor, inputs: Tensor, labels: Tensor
    ) -> None:
        self.sizes, self.labels = tuple(sizes), labels
        self._layers = self._unpacked(weights)
        self.inputs, self._masks = [inputs], list[Tensor]()
        for weight, bias in self._layers[:-1]:
            hidden = self.inputs[-1] @ weight.T + bias
            self._masks.append(hidden > 0)
            self.inputs.append(hidden.clamp(min=0))
        weight, bias = self._layers[-1]
        self.outputs = self.inputs[-1] @ weight.T + bias
        self.probabilities = self.outputs.softmax(1)

    def loss(self) -> Tensor:
        """The mean cross-entropy."""
        given = self.outputs.gather(1, self.labels[:, None])[:, 0]
        return (self.outputs.logsumexp(1) - given).mean()

    def gradient(self) -> Tensor:
        """Of the mean cross-entropy: Jᵀ(p − y)/n."""
        targets = F.one_hot(self.labels, self.sizes[-1]).to(self.outputs)
        return self.pulled_back((self.probabilities - targets) / len(self.labels))

    def curvature(self, vector: Tensor) -> Tensor:
        """Gauss-Newton times a vector: Jᵀ(diag p − ppᵀ)Jv/n. With one layer it is the Hessian."""
        change = self.probabilities * self.pushed_forward(vector)
        change -= self.probabilities * change.sum(1, keepdim=True)
        return self.pulled_back(change / len(self.labels))

    def pushed_forward(self, vector: Tensor) -> Tensor:
        """Jv: how the outputs (n, classes) change with the weights."""
        change: Tensor | None = None
        for i, (weight, bias) in enumerate(self._unpacked(vector)):
            through = self.inputs[i] @ weight.T + bias
            if change is not None:
                through += (change * self._masks[i - 1]) @ self._layers[i][0].T
            change = through
        assert change is not None
        return change

    def pulled_back(self, outputs: Tensor) -> Tensor:
        """Jᵀu for u (n, classes), flat."""
        parts: list[Tensor] = []
        for i in reversed(range(len(self._layers))):
            parts = [(outputs.T @ self.inputs[i]).reshape(-1), outputs.sum(0), *parts]
            if i:
                outputs = (outputs @ self._layers[i][0]) * self._masks[i - 1]
        return torch.cat(parts)

    def _unpacked(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of each layer."""
        shapes = [shape for a, b in pairwise(self.sizes) for shape in ((b, a), (b,))]
        leaves = flat.split([torch.Size(shape).numel() for shape in shapes])
        shaped = [leaf.view(shape) for leaf, shape in zip(leaves, shapes, strict=True)]
        return list(zip(shaped[::2], shaped[1::2], strict=True))


class Objective:
    """Mean cross-entropy + ½ Σ e^λ w²: the inner loss of the accuracy problems."""

    def __init__(
        self, sizes: Sequence[int], inputs: Tensor, labels: Tensor, decays: Tensor
    ) -> None:
        self.sizes, self.inputs, self.labels, self.decays = sizes, inputs, labels, decays

    def at(self, weights: Tensor) -> Network:
        """The network there, without the penalty."""
        return Network(self.sizes, weights, self.inputs, self.labels)

    def loss(self, weights: Tensor) -> Tensor:
        """A scalar."""
        return self.loss_and_gradient(weights)[0]

    def gradient(self, weights: Tensor) -> Tensor:
        """Flat."""
        return self.loss_and_gradient(weights)[1]

    def loss_and_gradient(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Both, from one pass forward."""
        network, pull = self.at(weights), self.decays * weights
        return network.loss() + 0.5 * (pull @ weights), network.gradient() + pull

    def curvature(self, weights: Tensor) -> Map:
        """The product with the Gauss-Newton matrix, penalty included, at the weights."""
        network = self.at(weights)
        return lambda vector: network.curvature(vector) + self.decays * vector

    def preconditioner(self, weights: Tensor) -> Map | None:
        """For one layer (G ⊗ XᵀX/n + mean decay)⁻¹, with G the mean of diag p − ppᵀ over rows."""
        if len(self.sizes) > 2:
            return None
        probabilities = self.at(weights).probabilities
        middle = torch.diag(probabilities.mean(0))
        middle -= probabilities.T @ probabilities / len(probabilities)
        (outer, left), (inner, right) = torch.linalg.eigh(middle), self._second_moment
        values = torch.outer(outer.clamp(min=0), inner.clamp(min=0)) + self.decays.mean()
        split = self.sizes[0] * self.sizes[1]

        def apply(vector: Tensor) -> Tensor:
            matrix = torch.cat([vector[:split].view(-1, self.sizes[0]), vector[split:, None]], 1)
            matrix = left @ ((left.T @ matrix @ right) / values) @ right.T
            return torch.cat([matrix[:, :-1].reshape(-1), matrix[:, -1]])

        return apply

    @cached_property
    def _second_moment(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues and eigenvectors of that of the inputs, with a one for the bias."""
        padded = torch.cat([self.inputs, self.inputs.new_ones(len(self.inputs), 1)], 1)
        values, vectors = torch.linalg.eigh(padded.T @ padded / len(padded))
        return values, vectors


def softmax_hessian(network: Network, decays: Tensor, say: Say = silent) -> Tensor:
    """The Hessian (n, n) of a network of one layer with its penalty, block by block of classes."""
    inputs, probabilities = network.inputs[0], network.probabilities
    (rows, size), classes = inputs.shape, probabilities.shape[1]
    padded = torch.cat([inputs, inputs.new_ones(rows, 1)], 1)
    hessian = torch.diag(decays)
    # weights of class k, then its bias, which stands behind all weights
    places = [
        torch.cat([torch.arange(k * size, (k + 1) * size), torch.tensor([classes * size + k])])
        for k in range(classes)
    ]
    for k in range(classes):
        say(f"Hessian: class {k + 1} of {classes}")
        for j in range(k + 1):
            share = probabilities[:, k] * (float(k == j) - probabilities[:, j]) / rows
            block = (padded * share[:, None]).T @ padded
            hessian[places[k][:, None], places[j]] += block
            if j < k:
                hessian[places[j][:, None], places[k]] += block.T
    return hessian


def conjugate_gradients(
    product: Map,
    vector: Tensor,
    rtol: float,
    start: Tensor | None = None,
    inverse: Map | None = None,
    say: Say = silent,
) -> Tensor:
    """A⁻¹b until ‖b − Aq‖ ≤ rtol·‖b‖, from `start`; an approximate inverse only saves steps."""
    value = torch.zeros_like(vector) if start is None else start.clone()
    residual = vector - product(value)
    conditioned = residual if inverse is None else inverse(residual)
    direction, energy = conditioned.clone(), residual @ conditioned
    norm, steps = float(vector.norm()), 0
    while float(residual.norm()) > rtol * norm and steps < 20 * len(vector):
        image = product(direction)
        length = energy / (direction @ image)
        value, residual = value + length * direction, residual - length * image
        conditioned = residual if inverse is None else inverse(residual)
        energy, before = residual @ conditioned, energy
        direction = conditioned + (energy / before) * direction
        steps += 1
        say(f"reference: {steps} products, residual {float(residual.norm()) / norm:.0e}")
    return value


def newton(objective: Objective, weights: Tensor, tolerance: float, say: Say = silent) -> Tensor:
    """The minimum of a convex objective, until max |gradient| ≤ tolerance."""
    for _ in range(100):
        gradient = objective.gradient(weights)
        say(f"fit: max |gradient| {float(gradient.abs().max()):.0e}")
        if gradient.abs().max() <= tolerance:
            break
        rtol = min(0.1, float(gradient.norm()))  # the closer, the more exact: quadratic convergence
        step = conjugate_gradients(
            objective.curvature(weights), gradient, rtol,
            inverse=objective.preconditioner(weights),
        )  # fmt: skip
        size, before = 1.0, objective.loss(weights)
        while objective.loss(weights - size * step) > before + 1e-14 and size > 1e-9:
            size /= 2
        weights = weights - size * step
    return weights


def lbfgs(objective: Objective, weights: Tensor, tolerance: float, say: Say = silent) -> Tensor:
    """A minimum of any objective, until max |gradient| ≤ tolerance or no step helps any more."""
    leaf = weights.clone()

    def closure() -> Tensor:
        loss, leaf.grad = objective.loss_and_gradient(leaf)
        say(f"fit: max |gradient| {float(leaf.grad.abs().max()):.0e}")
        return loss

    before = torch.full_like(leaf, torch.nan)
    while objective.gradient(leaf).abs().max() > tolerance and not torch.equal(before, leaf):
        before = leaf.clone()
        optimizer = torch.optim.LBFGS(
            [leaf], max_iter=_CHUNK, history_size=50, line_search_fn="strong_wolfe",
            tolerance_grad=tolerance, tolerance_change=0,
        )  # fmt: skip
        optimizer.step(closure)
    return leaf.detach()
