"""The two sides of each layer's gradient: what came in, and what is propagated back.

The gradient of a layer's weight is a sum of outer products g aᵀ of propagated gradients g and
inputs a. Kronecker factors and Gram matrices are made of those two, without any weight-sized
matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from bestresponse._errors import InputError
from bestresponse._guards import names
from bestresponse._tree import Layout, Tree
from bestresponse.operators._gauss_newton import PulledBack
from bestresponse.operators._layers import LayerCall
from bestresponse.operators._outputs import Outputs

_PARTIAL = 0.05  # of a gradient: more than autocast's rounding, less than another use
_PAIRS = 64  # of an embedding's terms that are matched at once


@dataclass(frozen=True, eq=False)
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

    def first_gradient(self) -> Tensor:
        """The weight's gradient in the direction of the first column, (groups, out, in)."""
        groups, out, inputs = len(self.inputs), self.gradients.shape[-1], self.inputs.shape[-1]
        back = self.gradients[0].reshape(groups, -1, out)
        gradient = back.mT @ self.inputs.reshape(groups, -1, inputs)
        return gradient if self.bias is None else gradient[..., :-1]

    def as_matrix(self, tree: Tree) -> Tensor:
        """The layer's part of a tree as (groups, out, in), the bias as the last column."""
        groups = self.inputs.shape[0]
        matrix = tree[self.weight].reshape(groups, self.gradients.shape[-1], -1)
        if self.bias is None:
            return matrix
        return torch.cat([matrix, tree[self.bias].reshape(groups, -1, 1)], 2)


@dataclass(frozen=True, eq=False)
class DiagonalFactors:
    """Gradients of a parameter that acts on each entry by itself.

    Attributes:
        name: of the parameter.
        gradients: (columns, rows, *parameter's shape).
    """

    name: str
    gradients: Tensor

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return self.gradients.shape[1]

    def first_gradient(self) -> Tensor:
        """The parameter's gradient in the direction of the first column."""
        return self.gradients[0].sum(0)

    def diagonal(self) -> Tensor:
        """Of the parameter's curvature, in its shape."""
        return self.gradients.square().sum((0, 1))

    def squared_lengths(self) -> Tensor:
        """Of the gradient of each column and row, (columns, rows)."""
        return self.gradients.flatten(2).square().sum(2)

    def gram(self, terms: Tensor) -> Tensor:
        """Products of the gradients of the given columns and rows, (rank, rank)."""
        explicit = self.gradients[terms[:, 0], terms[:, 1]].flatten(1)
        return explicit @ explicit.T


@dataclass(frozen=True, eq=False)
class EmbeddingFactors:
    """Gradients of a table, of which a row of the batch sees few entries: only those are held.

    Attributes:
        name: of the table.
        gradients: (columns, pairs, width), one a pair of a row and an entry that it looks up.
        row: (pairs,).
        entry: (pairs,).
        rows: rows of the batch.
        entries: of the table.
    """

    name: str
    gradients: Tensor
    row: Tensor
    entry: Tensor
    rows: int
    entries: int

    def first_gradient(self) -> Tensor:
        """The table's gradient in the direction of the first column."""
        zeros = self.gradients.new_zeros(self.entries, self.gradients.shape[2])
        return zeros.index_add_(0, self.entry, self.gradients[0])

    def diagonal(self) -> Tensor:
        """Of the table's curvature, in its shape."""
        zeros = self.gradients.new_zeros(self.entries, self.gradients.shape[2])
        return zeros.index_add_(0, self.entry, self.gradients.square().sum(0))

    def squared_lengths(self) -> Tensor:
        """Of the gradient of each column and row, (columns, rows)."""
        zeros = self.gradients.new_zeros(len(self.gradients), self.rows)
        return zeros.index_add_(1, self.row, self.gradients.square().sum(2))

    def gram(self, terms: Tensor) -> Tensor:
        """Products of the gradients of the given columns and rows, (rank, rank).

        Terms and pairs are matched by their rows; two of them meet where they see one entry.
        """
        term, pair = (terms[:, 1, None] == self.row).nonzero(as_tuple=True)
        gradients = self.gradients[terms[term, 0], pair]
        entry = self.entry[pair]
        order = entry.argsort()
        total = self.gradients.new_zeros(len(terms), len(terms))
        for some in torch.split(order, _PAIRS):
            one, other = (entry[some, None] == entry).nonzero(as_tuple=True)
            one = some[one]
            products = (gradients[one] * gradients[other]).sum(1)
            total.index_put_((term[one], term[other]), products, accumulate=True)
        return total


@dataclass(frozen=True)
class Factors:
    """What is known of the layers of a model, and which parameters are outside of it."""

    layers: tuple[LayerFactors, ...]
    diagonals: tuple[DiagonalFactors | EmbeddingFactors, ...]
    uncovered: tuple[str, ...]

    def row_by_row(self, rows: int) -> Factors:
        """Without the layers that do not see these rows in their first dimension."""
        layers = tuple(layer for layer in self.layers if layer.inputs.shape[1] == rows)
        diagonals = tuple(part for part in self.diagonals if part.rows == rows)
        others = [name for one in self.layers if one not in layers for name in one.names]
        others += [one.name for one in self.diagonals if one not in diagonals]
        return Factors(layers, diagonals, (*self.uncovered, *others))


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
    calls = [call for call in outputs.calls if _is_known(call) and _role(call, "weight", roles)]
    owned = [_role(call, side, roles) for call in calls for side in ("weight", "bias")]
    _refuse_shared([name for name in owned if name])
    propagated = _propagated(outputs, [call.output for call in calls], columns)
    layers: list[LayerFactors] = []
    diagonals: list[DiagonalFactors | EmbeddingFactors] = []
    for call, gradients in zip(calls, propagated, strict=True):
        weight, bias = _role(call, "weight", roles), _role(call, "bias", roles)
        assert weight is not None
        with torch.no_grad():
            call = _widened(call, outputs.layout)
            if call.function is F.linear:
                layers.append(_linear(call, weight, bias, gradients))
            elif call.function is F.conv2d:
                layers.append(_convolution(call, weight, bias, gradients))
            elif call.function is F.embedding:
                diagonals.append(_embedding(call, weight, gradients))
            else:
                diagonals += _affine(call, weight, bias, gradients)
    _refuse_partial(outputs, columns[0], [*layers, *diagonals])
    covered = {name for layer in layers for name in layer.names} | {d.name for d in diagonals}
    uncovered = tuple(name for name in outputs.params if name not in covered)
    return Factors(tuple(layers), tuple(diagonals), uncovered)


_NORMS = (F.layer_norm, F.batch_norm, F.group_norm)


def _is_known(call: LayerCall) -> bool:
    """Whether it is a layer with factors, on a batch, that the outputs may depend on."""
    if not call.output.requires_grad:
        return False
    if call.function is F.conv2d:
        return call.output.ndim == 4
    if call.function is F.layer_norm:
        return call.output.ndim > len(call.arguments["normalized_shape"])
    return call.function in (F.linear, F.embedding, *_NORMS)


def _role(call: LayerCall, side: str, roles: Mapping[int, str]) -> str | None:
    """The name of the parameter that is the call's weight or bias."""
    return roles.get(id(call.arguments.get(side)))


def _widened(call: LayerCall, layout: Layout) -> LayerCall:
    """Arguments where and as precise as the flat vectors are: autocast rounds them."""
    arguments = {
        name: value.detach().to(layout.device, layout.dtype if value.is_floating_point() else None)
        if isinstance(value, Tensor)
        else value
        for name, value in call.arguments.items()
    }
    return replace(call, arguments=arguments)


def _refuse_shared(weights: Sequence[str]) -> None:
    shared = [name for name in dict.fromkeys(weights) if weights.count(name) > 1]
    if shared:
        raise InputError(
            f"The parameter {names(shared)} is used by several layers or calls, for which there "
            "are no Kronecker factors; use another preconditioner, such as br.Nystrom."
        )


def _refuse_partial(
    outputs: Outputs,
    column: Tensor,
    parts: Sequence[LayerFactors | DiagonalFactors | EmbeddingFactors],
) -> None:
    """Refuse a weight whose gradient is not all in its factors: it is used elsewhere too."""
    weights = {p.weight if isinstance(p, LayerFactors) else p.name: p for p in parts}
    if not weights:
        return
    whole = torch.autograd.grad(
        outputs.graph,
        [outputs.params[name] for name in weights],
        column.to(outputs.value),
        retain_graph=True,
        materialize_grads=True,
    )
    off = [
        (gradient.to(part.gradients).reshape(-1) - part.first_gradient().reshape(-1)).norm()
        > _PARTIAL * gradient.norm()
        for gradient, part in zip(whole, weights.values(), strict=True)
    ]
    _refuse_shared([name for name, is_off in zip(weights, off, strict=True) if is_off] * 2)


def _propagated(
    outputs: Outputs, layer_outputs: Sequence[Tensor], columns: Sequence[Tensor]
) -> list[Tensor]:
    """For each layer's output, the gradients of ⟨f, column⟩: (columns, *output's shape)."""
    if not layer_outputs:
        return []
    with torch.enable_grad():
        rows = [
            torch.autograd.grad(
                outputs.graph,
                layer_outputs,
                column.to(outputs.value),
                retain_graph=True,
                materialize_grads=True,
            )
            for column in columns
        ]
    layout = outputs.layout
    return [
        torch.stack(gradients).to(layout.device, layout.dtype)
        for gradients in zip(*rows, strict=True)
    ]


def _linear(call: LayerCall, weight: str, bias: str | None, gradients: Tensor) -> LayerFactors:
    inputs = call.arguments["input"]
    inputs = inputs.reshape(1, inputs.shape[0] if inputs.ndim > 1 else 1, -1, inputs.shape[-1])
    columns, outs = gradients.shape[0], gradients.shape[-1]
    gradients = gradients.reshape(columns, 1, inputs.shape[1], -1, outs)
    return _with_bias(LayerFactors(weight, bias, inputs, gradients))


def _convolution(call: LayerCall, weight: str, bias: str | None, gradients: Tensor) -> LayerFactors:
    given = call.arguments
    inputs, kernel = given["input"], given["weight"].shape[2:]
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


def _embedding(call: LayerCall, weight: str, gradients: Tensor) -> EmbeddingFactors:
    index, (entries, width) = call.arguments["input"], call.arguments["weight"].shape
    padding = call.arguments.get("padding_idx")
    if padding is not None:  # its row is never trained
        gradients = gradients * (index != padding % entries)[..., None]
    columns, rows = gradients.shape[0], index.shape[0] if index.ndim else 1
    row = torch.arange(rows, device=index.device)[:, None]
    keys, place = torch.unique(row * entries + index.reshape(rows, -1), return_inverse=True)
    summed = gradients.new_zeros(columns, len(keys), width)
    summed.index_add_(1, place.reshape(-1), gradients.reshape(columns, -1, width))
    return EmbeddingFactors(weight, summed, keys // entries, keys % entries, rows, entries)


def _affine(
    call: LayerCall, weight: str, bias: str | None, gradients: Tensor
) -> list[DiagonalFactors]:
    """The scale sees what is normalized, the shift sees the gradient as it is."""
    scale = call.arguments["weight"]
    shape = _broadcast_shape(call, scale)
    products = gradients * _normalized(call)
    found = [DiagonalFactors(weight, _per_row(products, shape, scale))]
    if bias is not None:
        found.append(DiagonalFactors(bias, _per_row(gradients, shape, scale)))
    return found


def _normalized(call: LayerCall) -> Tensor:
    """What the scale sees; computed again, since a scale of zero leaves nothing of it."""
    given = call.arguments
    inputs, eps = given["input"], given.get("eps", 1e-5)
    if call.function is F.layer_norm:
        return F.layer_norm(inputs, given["normalized_shape"], eps=eps)
    if call.function is F.group_norm:
        return F.group_norm(inputs, given["num_groups"], eps=eps)
    if given.get("training", False):
        return F.batch_norm(inputs, None, None, training=True, eps=eps)
    return F.batch_norm(inputs, given["running_mean"], given["running_var"], eps=eps)


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
