"""A structure between columns of a table: built by name, trained, saved, loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import Tensor, nn

from bestresponse import Solution, jacnet
from bestresponse._errors import InputError
from bestresponse.apps._fitting import Said, Scale, fit, seeded
from bestresponse.apps.estimators import Additive, table_over

MODEL_FILE = "model.safetensors"


@dataclass(frozen=True)
class Shape:
    """What must be known to build a structure again.

    Attributes:
        structure: its name.
        inputs: number of columns x.
        outputs: number of columns y.
        bound: of the slope, for `lipschitz`, in scaled units.
        decreasing: of y in x, for `monotone`.
        hidden: hidden units.
        low: the smallest scaled input.
        high: the largest one.
    """

    structure: str
    inputs: int
    outputs: int
    bound: float
    decreasing: bool
    hidden: int
    low: float
    high: float


def _additive(shape: Shape, parts: jacnet.Structure) -> nn.Module:
    sign = -1.0 if shape.decreasing else 1.0
    count = shape.inputs
    return Additive(parts, torch.full((count,), sign), list(range(count)), [])


def _ends(shape: Shape) -> Tensor:
    ends = torch.tensor([[shape.low], [shape.high]])
    return -ends if shape.decreasing else ends


def _monotone(shape: Shape) -> nn.Module:
    return _additive(shape, jacnet.Monotone1d(
        shape.inputs, slope=jacnet.Softplus(1e-3), table=table_over(_ends(shape), 65),
        hidden=shape.hidden,
    ))  # fmt: skip


def _lipschitz(shape: Shape) -> nn.Module:
    limit = shape.bound / shape.inputs**0.5
    return _additive(shape, jacnet.Lipschitz1d(
        shape.inputs, slope=jacnet.Interval(-limit, limit), table=table_over(_ends(shape), 65),
        hidden=shape.hidden,
    ))  # fmt: skip


def _gradient(shape: Shape) -> nn.Module:
    potential = jacnet.InputConvex(shape.inputs, shape.hidden)
    return jacnet.ConvexGradient(shape.inputs, potential=potential)


def _triangular(shape: Shape) -> nn.Module:
    return jacnet.Triangular(shape.inputs, table=table_over(_ends(shape), 17), hidden=shape.hidden)


def _bilipschitz(shape: Shape) -> nn.Module:
    layers: list[jacnet.Structure] = []
    for _ in range(4):
        layers += [
            jacnet.BiLipschitz(shape.inputs, shape.hidden, scaled=True),
            jacnet.Rotation(shape.inputs),
        ]
    return jacnet.Compose(layers)


def _potential(shape: Shape) -> nn.Module:
    return jacnet.Potential(shape.inputs, shape.hidden)


STRUCTURES: dict[str, Callable[[Shape], nn.Module]] = {
    "monotone": _monotone,
    "lipschitz": _lipschitz,
    "convex-gradient": _gradient,
    "triangular": _triangular,
    "bilipschitz": _bilipschitz,
    "potential": _potential,
}
ONE_OUTPUT = ("monotone", "lipschitz")


class TableModel(nn.Module):
    """y = f(x) in the units of the table.

    Args:
        shape: of f.
        scale_x: of the columns x.
        scale_y: of the columns y.
        seed: of the initial weights.
    """

    def __init__(self, shape: Shape, scale_x: Scale, scale_y: Scale, seed: int = 0) -> None:
        super().__init__()
        self.shape, self.scale_x, self.scale_y = shape, scale_x, scale_y
        self.function = seeded(seed, lambda: STRUCTURES[shape.structure](shape))

    @property
    def structure(self) -> jacnet.Structure:
        """What has a certificate."""
        found = self.function.parts if isinstance(self.function, Additive) else self.function
        assert isinstance(found, jacnet.Structure)
        return found

    def scaled(self, x: Tensor) -> Tensor:
        """F in scaled units, (n, outputs)."""
        value = self.function(x)
        return value[:, None] if value.ndim == 1 else value

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) to (n, outputs)."""
        return self.scale_y.back(self.scaled(self.scale_x(x)))

    @property
    def is_invertible(self) -> bool:
        """Whether y determines x."""
        if self.shape.inputs != self.shape.outputs:
            return False
        return self.structure.certificate().invertible

    def inverse(self, y: Tensor) -> Solution:
        """The x of each y, (n, inputs).

        Raises:
            InputError: if y does not determine x.
        """
        if not self.is_invertible:
            raise InputError(
                f"{self.shape.structure} from {self.shape.inputs} to {self.shape.outputs} columns "
                "has no inverse; fit monotone with one column x, or an invertible structure."
            )
        found = self.structure.inverse(self.scale_y(y))
        signs = self.function.signs if isinstance(self.function, Additive) else 1.0
        return Solution(
            self.scale_x.back(found.value * signs), found.result, found.stats,
            converged=found.converged,
        )  # fmt: skip


def train(
    x: Tensor,
    y: Tensor,
    structure: str,
    *,
    bound: float = 1.0,
    decreasing: bool = False,
    hidden: int = 32,
    iterations: int = 200,
    alpha: float = 1e-6,
    seed: int = 0,
    said: Said = lambda step, loss: None,
) -> tuple[TableModel, list[float]]:
    """Least squares on columns (n, p) and (n, m), and the loss at each iteration.

    Raises:
        InputError: for a number of columns that the structure does not take.
    """
    _check_columns(structure, x.shape[1], y.shape[1])
    # one spread for all columns keeps gradients gradients, and Lipschitz constants constants
    shared = structure != "monotone"
    scale_x, scale_y = Scale(x, shared=shared), Scale(y, shared=shared)
    inputs, targets = scale_x(x), scale_y(y)
    unit = float(scale_x.spread[0] / scale_y.spread[0])
    shape = Shape(
        structure, x.shape[1], y.shape[1], bound * unit, decreasing, hidden,
        float(inputs.min()), float(inputs.max()),
    )  # fmt: skip
    model = TableModel(shape, scale_x, scale_y, seed)
    losses = fit(
        list(model.parameters()),
        lambda: (model.scaled(inputs) - targets).square().mean(),
        iterations,
        alpha=alpha,
        said=said,
    )
    return model, losses


def load(run: Path, shape: dict[str, Any]) -> TableModel:
    """The model of a run, at the weights that were saved.

    Raises:
        InputError: if the file is missing or damaged.
    """
    known = Shape(**shape)
    blank_x, blank_y = torch.zeros(2, known.inputs), torch.zeros(2, known.outputs)
    model = TableModel(known, Scale(blank_x.double()), Scale(blank_y.double()))
    try:
        load_model(model, str(run / MODEL_FILE))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise InputError(f"'{run / MODEL_FILE}' cannot be read; the run is damaged.") from error
    return model


def _check_columns(structure: str, inputs: int, outputs: int) -> None:
    if structure in ONE_OUTPUT and outputs != 1:
        raise InputError(f"{structure} has one column --y, not {outputs}; fit them one by one.")
    if structure not in ONE_OUTPUT and inputs != outputs:
        raise InputError(
            f"{structure} maps as many columns as it takes, not {inputs} to {outputs}; name as "
            "many in --x as in --y, or use monotone or lipschitz."
        )
