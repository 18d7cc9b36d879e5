"""An ordinary network that follows a schedule of hyperparameters."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from bestresponse.response._convert import connect_dropout, convert
from bestresponse.response._draw import Draw, Slot
from bestresponse.response._embedding import Embedding
from bestresponse.response._lstm import LSTM


class Timetable(Protocol):
    """What gives hyperparameters for a step: a `Schedule`, or whatever you write."""

    def at(self, step: int) -> Mapping[str, Tensor]:
        """The values by name."""
        ...


class Replay(nn.Module):
    """A model without responses whose dropout follows a schedule.

    Training it tells what of a self-tuned network's success is the schedule's, and what the
    response layers'. `values` has the hyperparameters of the step that was set, one row each, for
    augmentation and penalties.

    Args:
        model: the model; it is copied.
        schedule: the hyperparameters by step.
        dropout: as for `SelfTuning`.
        batch_dim: as for `SelfTuning`.

    Attributes:
        model: the copy, whose weights train.

    Raises:
        InputError: for layers or hyperparameters that do not exist or do not fit.

    Source: MacKay, Vicol, Lorraine, Duvenaud, Grosse, "Self-Tuning Networks" (2019), section 4.1,
    https://arxiv.org/abs/1903.03088

    Example:
        >>> import torch
        >>> class Rising:
        ...     def at(self, step):
        ...         return {"rate": torch.tensor(0.1 * step)}
        >>> net = Replay(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), Rising(), {"1": "rate"})
        >>> net.set(4)
        >>> net.values["rate"]
        tensor([0.4000])
    """

    def __init__(
        self,
        model: nn.Module,
        schedule: Timetable,
        dropout: Mapping[str, str] | None = None,
        *,
        batch_dim: int = 0,
    ) -> None:
        super().__init__()
        self._schedule, self._slot = schedule, Slot(self._draw, batch_dim)
        self._now = dict(schedule.at(0))
        model = _with_masks(copy.deepcopy(model), dropout or {}, self._slot)
        self.model, _ = connect_dropout(model, dropout or {}, self._slot, self._now)

    def set(self, step: int) -> None:
        """Run at the hyperparameters of `step` from now on."""
        self._now = dict(self._schedule.at(step))

    @property
    def values(self) -> Draw:
        """The hyperparameters by name, (1, …)."""
        return self._draw()

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The model's outputs."""
        return self.model(*inputs, **named)

    def _draw(self) -> Draw:
        return Draw([*self._now], lambda name: self._now[name][None], None, set())


def _with_masks(model: nn.Module, dropout: Mapping[str, str], slot: Slot) -> nn.Module:
    """Embedding and LSTM drop inside themselves, as their response layers do; without response."""
    known = dict(model.named_modules())
    inside = [name for name in dropout if type(known.get(name)) in (nn.Embedding, nn.LSTM)]
    if not inside:
        return model
    model, _, _ = convert(model, 1, slot, inside, 0.0)
    for layer in model.modules():
        if isinstance(layer, (Embedding, LSTM)):
            for parameter in layer.response_parameters():
                parameter.requires_grad_(False)
    return model
