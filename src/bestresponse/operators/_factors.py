"""The two sides of each layer's gradient: what came in, and what is propagated back.

The gradient of a layer's weight is a sum of outer products g aᵀ of propagated gradients g and
inputs a. Kronecker factors and Gram matrices are made of those two, without any weight-sized
matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from bestresponse._errors import InputError
from bestresponse._guards import names
from bestresponse._tree import Tree
from bestresponse.operators._gauss_newton import PulledBack
from bestresponse.operators._layers import LayerCall


@dataclass(frozen=True)
class LayerFactors:
    """Inputs and propagated gradients of one linear layer or convolution.

    Attributes:
        weight: name of the weight, (groups·out, ...in).
        bias: name of the bias; its column is the last of the inputs, a one. None without.
        inputs: (groups, rows, positions, in).
        gradients: (columns, groups, rows, positions, out), one a column of a root of the outputs'
            curvature: summed over columns, g gᵀ is that curvature propagated back.
    """

    weight: str
    bias: str | None
    inputs: Tensor
    gradients: Tensor

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters it covers."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def as_matrix(self, tree: Tree) -> Tensor:
        """The layer's part of a tree as (groups, out, in), the bias as the last column."""
        groups = self.inputs.shape[0]
        matrix = tree[self.weight].reshape(groups, self.gradients.shape[-1], -1)
        if self.bias is None:
            return matrix
        return torch.cat([matrix, tree[self.bias].reshape(groups, -1, 1)], 2)


@dataclass(frozen=True)
class DiagonalFactors:
    """Gradients of a parameter that acts on each entry by itself.

    Attributes:
        name: of the parameter.
        gradients: (columns, rows, *parameter's shape).
    """

    name: str
    gradients: Tensor


@dataclass(frozen=True)
class Factors:
    """What is known of the layers of a model, and which parameters are outside of it."""

    layers: tuple[LayerFactors, ...]
    diagonals: tuple[DiagonalFactors, ...]
    uncovered: tuple[str, ...]


def layer_factors(point: PulledBack, columns: Sequence[Tensor]) -> Factors:
    """The factors of every known layer.

    Args:
        point: curvature of a batch whose layers were recorded (`PulledBack.on_rows`).
        columns: cotangents of the outputs.

    Raises:
        InputError: if two layers share a parameter.
    """
    outputs = point.outputs
    roles = {id(leaf): name for name, leaf in outputs.params.items()}
    calls = [call for call in outputs.calls if id(call.arguments.get("weight")) in roles]
    weights = [roles[id(call.arguments["weight"])] for call in calls]
    _refuse_shared(weights)
    propagated = _propagated(outputs.graph, [call.output for call in calls], columns)
    layers: list[LayerFactors] = []
    diagonals: list[DiagonalFactors] = []
    for call, weight, gradients in zip(calls, weights, propagated, strict=True):
        bias_leaf = call.arguments.get("bias")
        bias = roles.get(id(bias_leaf))
        with torch.no_grad():
            if call.function is F.linear:
                layers.append(_linear(call, weight, bias, gradients))
            elif call.function is F.conv2d:
                layers.append(_convolution(call, weight, bias, gradients))
            elif call.function is F.embedding:
                diagonals.append(_embedding(call, weight, gradients))
            elif call.function in (F.layer_norm, F.batch_norm, F.group_norm):
                diagonals += _affine(call, weight, bias, gradients)
    covered = {name for layer in layers for name in layer.names} | {d.name for d in diagonals}
    uncovered = tuple(name for name in outputs.params if name not in covered)
    return Factors(tuple(layers), tuple(diagonals), uncovered)


def _refuse_shared(weights: Sequence[str]) -> None:
    shared = [name for name in dict.fromkeys(weights) if weights.count(name) > 1]
    if shared:
        raise InputError(
            f"The parameter {names(shared)} is used by several layers or calls, for which there "
            "are no Kronecker factors; use another preconditioner, such as br.Nystrom."
        )


def _propagated(
    graph: Tensor, layer_outputs: Sequence[Tensor], columns: Sequence[Tensor]
) -> list[Tensor]:
    """For each layer's output, the gradients of ⟨f, column⟩: (columns, *output's shape)."""
    if not layer_outputs:
        return []
    with torch.enable_grad():
        rows = [
            torch.autograd.grad(
                graph, layer_outputs, column, retain_graph=True, materialize_grads=True
            )
            for column in columns
        ]
    return [torch.stack(gradients) for gradients in zip(*rows, strict=True)]


def _linear(call: LayerCall, weight: str, bias: str | None, gradients: Tensor) -> LayerFactors:
    inputs = call.arguments["input"].detach()
    inputs = inputs.reshape(1, inputs.shape[0] if inputs.ndim > 1 else 1, -1, inputs.shape[-1])
    columns, outs = gradients.shape[0], gradients.shape[-1]
    gradients = gradients.reshape(columns, 1, inputs.shape[1], -1, outs)
    return _with_bias(LayerFactors(weight, bias, inputs, gradients))


def _convolution(call: LayerCall, weight: str, bias: str | None, gradients: Tensor) -> LayerFactors:
    given = call.arguments
    inputs, kernel = given["input"].detach(), given["weight"].shape[2:]
    padding, groups = given.get("padding", 0), given.get("groups", 1)
    stride, dilation = given.get("stride", 1), given.get("dilation", 1)
    if isinstance(padding, str):
        inputs, padding = _padded(inputs, kernel, dilation, padding), 0
    patches = F.unfold(inputs, kernel, dilation, padding, stride)  # (rows, channels·k, positions)
    rows, _, positions = patches.shape
    patches = patches.reshape(rows, groups, -1, positions).permute(1, 0, 3, 2)
    outs = gradients.shape[2] // groups
    gradients = gradients.reshape(len(gradients), rows, groups, outs, positions)
    return _with_bias(LayerFactors(weight, bias, patches, gradients.permute(0, 2, 1, 4, 3)))


def _padded(inputs: Tensor, kernel: torch.Size, dilation: object, mode: str) -> Tensor:
    """What `padding="same"` or "valid" means."""
    if mode == "valid":
        return inputs
    spread = dilation if isinstance(dilation, tuple | list) else (dilation, dilation)
    totals = [int(d) * (k - 1) for k, d in zip(kernel, spread, strict=True)]
    sides = [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    return F.pad(inputs, sides)


def _with_bias(layer: LayerFactors) -> LayerFactors:
    """A column of ones for the bias."""
    if layer.bias is None:
        return layer
    ones = layer.inputs.new_ones(*layer.inputs.shape[:-1], 1)
    return replace(layer, inputs=torch.cat([layer.inputs, ones], -1))


def _embedding(call: LayerCall, weight: str, gradients: Tensor) -> DiagonalFactors:
    index, table = call.arguments["input"], call.arguments["weight"]
    columns, rows = gradients.shape[0], index.shape[0] if index.ndim else 1
    scattered = gradients.new_zeros(columns, rows, *table.shape)
    place = index.reshape(1, rows, -1, 1).expand(columns, rows, -1, table.shape[1])
    flat = gradients.reshape(columns, rows, -1, table.shape[1])
    return DiagonalFactors(weight, scattered.scatter_add_(2, place, flat))


def _affine(
    call: LayerCall, weight: str, bias: str | None, gradients: Tensor
) -> list[DiagonalFactors]:
    """The scale sees what is normalized, the shift sees the gradient as it is."""
    scale = call.arguments["weight"]
    shape = _broadcast_shape(call, scale)
    shift = call.arguments.get("bias")
    with torch.no_grad():
        shifted = call.output.detach() - (0 if shift is None else shift.detach().view(shape))
        normalized = shifted / scale.detach().view(shape)
    found = [DiagonalFactors(weight, _per_row(gradients * normalized, shape, scale))]
    if bias is not None:
        found.append(DiagonalFactors(bias, _per_row(gradients, shape, scale)))
    return found


def _broadcast_shape(call: LayerCall, scale: Tensor) -> tuple[int, ...]:
    if call.function is F.layer_norm:
        return (1,) * (call.output.ndim - scale.ndim) + tuple(scale.shape)
    return (1, -1) + (1,) * (call.output.ndim - 2)


def _per_row(products: Tensor, shape: Iterable[int], scale: Tensor) -> Tensor:
    """Sums over the positions of each row."""
    sizes = list(shape)
    summed = [d + 1 for d, size in enumerate(sizes) if size == 1 and d > 0]
    total = products.sum(summed) if summed else products
    return total.reshape(products.shape[0], products.shape[1], *scale.shape)
