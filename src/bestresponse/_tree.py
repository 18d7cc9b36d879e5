"""Named trees of tensors, and the flat vector in which a linear solve sees one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from bestresponse._errors import InputError

Tree = dict[str, Tensor]
"""Parameters or hyperparameters: one tensor a name, in a fixed order."""

Partial = dict[str, Tensor | None]
"""A gradient by name; None where there is no dependence."""


@dataclass(frozen=True)
class Space:
    """What the flat vectors of a solve look like."""

    size: int
    dtype: torch.dtype
    device: torch.device

    def eye(self) -> Tensor:
        """The identity matrix (size, size)."""
        return torch.eye(self.size, dtype=self.dtype, device=self.device)


@dataclass(frozen=True)
class Layout:
    """Where each leaf of a tree lies in the flat vector, and what it looks like outside of it.

    The flat vector has the widest floating type of the leaves (at least float32) and lies on the
    device of the first leaf, so that mixed types and devices are solved for in one kernel each.

    Example:
        >>> layout = Layout.of({"w": torch.zeros(2, 3), "b": torch.ones(2)})
        >>> layout.size
        8
        >>> layout.unflatten(layout.flatten({"w": torch.ones(2, 3), "b": torch.zeros(2)}))["b"]
        tensor([0., 0.])
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    devices: tuple[torch.device, ...]

    @classmethod
    def of(cls, tree: Mapping[str, Tensor]) -> Layout:
        """The layout of `tree`; its order is the order of the names.

        Raises:
            InputError: for an empty tree or a leaf that is not of a real floating type.
        """
        if not tree:
            raise InputError("There is no tensor to optimize; pass at least one parameter.")
        for name, leaf in tree.items():
            if not leaf.is_floating_point():
                raise InputError(
                    f"'{name}' has type {leaf.dtype}, which cannot be differentiated; "
                    "leave it out or make it floating point."
                )
        leaves = tree.values()
        return cls(
            tuple(tree),
            tuple(leaf.shape for leaf in leaves),
            tuple(leaf.dtype for leaf in leaves),
            tuple(leaf.device for leaf in leaves),
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each leaf."""
        return tuple(shape.numel() for shape in self.shapes)

    @property
    def size(self) -> int:
        """Length of the flat vector."""
        return sum(self.sizes)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the flat vector."""
        return reduce(torch.promote_types, self.dtypes, torch.float32)

    @property
    def device(self) -> torch.device:
        """Device of the flat vector."""
        return self.devices[0]

    @property
    def space(self) -> Space:
        """What the flat vector looks like."""
        return Space(self.size, self.dtype, self.device)

    def uniform(self) -> Layout:
        """The same names and shapes, all of the flat vector's type and device."""
        count = len(self.names)
        return replace(self, dtypes=(self.dtype,) * count, devices=(self.device,) * count)

    def flatten(self, tree: Mapping[str, Tensor]) -> Tensor:
        """One vector (size,) holding the leaves in order."""
        return torch.cat(
            [tree[name].reshape(-1).to(self.device, self.dtype) for name in self.names]
        )

    def unflatten(self, vector: Tensor) -> Tree:
        """The tree whose leaves are views of `vector` (copies where type or device differ)."""
        pieces = vector.split(self.sizes)
        return {
            name: piece.view(shape).to(device, dtype)
            for name, piece, shape, dtype, device in zip(
                self.names, pieces, self.shapes, self.dtypes, self.devices, strict=True
            )
        }


def tree_map(function: Callable[..., Tensor], *trees: Mapping[str, Tensor]) -> Tree:
    """`function` of the leaves of equal name."""
    return {name: function(*(tree[name] for tree in trees)) for name in trees[0]}


def leaves_of(tree: Mapping[str, Tensor]) -> Tree:
    """Copies of the values as fresh leaves of a new graph.

    Copies, since a forward pass may change its weights in place (clamping, renormalizing).
    """
    return {name: leaf.detach().clone().requires_grad_() for name, leaf in tree.items()}


def tree_norm(tree: Mapping[str, Tensor]) -> Tensor:
    """The Euclidean norm over all leaves, a float64 scalar on the device of the first leaf."""
    norms = [
        torch.linalg.vector_norm(
            leaf.detach(), dtype=torch.promote_types(leaf.dtype, torch.float32)
        ).double()
        for leaf in tree.values()
    ]
    return torch.stack([norm.to(norms[0].device) for norm in norms]).norm()
