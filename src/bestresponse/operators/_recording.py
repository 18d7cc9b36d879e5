"""A product with a vector, written down as the list of PyTorch operations that it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class NotRecorded(Exception):
    """What a replay would get wrong or cannot run; the text names the operation."""


@dataclass(frozen=True)
class Slot:
    """The name of a tensor in a recording."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


class Step(NamedTuple):
    """One operation; tensors among its arguments are slots."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: Slot | tuple[Slot | None, ...]


class Recording:
    """What `product` does to a vector, as operations on the vector and on constants.

    Operations that the vector does not reach are not part of it: their results are constants, as
    are the activations that a retained graph has saved, dropout masks among them. Numbers and
    shapes are part of the text of a step. A recording is hence true of the graph on which it was
    made and of no other: each call makes its own.

    Args:
        product: a linear function of a vector; PyTorch operations throughout.
        vector: at which it is recorded, (n,), contiguous.

    Attributes:
        value: the product with `vector`.
        constants: tensors that the vector does not reach, in the order of their slots.
        steps: the operations in their order.
        result: the slot of the product.

    Raises:
        NotRecorded: for operations that draw random numbers, hand numbers to Python, or change a
            constant in place.

    Example:
        >>> matrix = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
        >>> recording = Recording(lambda v: matrix @ v, torch.ones(2))
        >>> recording.value
        tensor([2., 3.])
        >>> [(str(step.function), step.args) for step in recording.steps]
        [('aten.mv.default', (%constant0, %vector))]
    """

    def __init__(self, product: Callable[[Tensor], Tensor], vector: Tensor) -> None:
        self.steps: list[Step] = []
        self._live: list[tuple[Tensor, int]] = []  # kept, since slots are found by identity
        self._slots: dict[int, Slot] = {}
        self._results = 0
        value = product(self._traced(vector, Slot("vector")))
        if not isinstance(value, Traced):
            raise NotRecorded("the product does not depend on the vector")
        self.value, self.result = value.plain, value.slot
        if any(constant._version != version for constant, version in self._live):
            raise NotRecorded("something changes in place what does not depend on the vector")
        self.constants = [constant.detach() for constant, _ in self._live]
        self.layouts = [_layout(tensor) for tensor in (vector, *self.constants)]
        del self._live, self._slots

    @property
    def operations(self) -> tuple[str, ...]:
        """The names of the operations."""
        return tuple(str(step.function) for step in self.steps)

    @property
    def text(self) -> tuple[str, ...]:
        """All that a replay depends on but the values of its inputs."""
        steps = [f"{s.results} = {s.function}{s.args}{s.kwargs}" for s in self.steps]
        return (*steps, str(self.result), *self.layouts)

    def run(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation and write it down."""
        _check_operation(function)
        _check_unchanged(function, args)
        output = function(*_mapped(_plain, args), **_mapped(_plain, kwargs))
        if _is_question(function):
            return output
        args, kwargs = _mapped(self._slot, args), _mapped(self._slot, kwargs)
        traced = self._outputs(function, output)
        slots = _mapped(lambda item: item.slot, traced)
        self.steps.append(Step(function, args, kwargs, slots))
        return traced

    def _outputs(self, function: Any, output: Any) -> Any:
        if isinstance(output, tuple | list):
            return tuple(self._outputs(function, item) for item in output)
        if output is None:
            return None
        if type(output) is not Tensor:
            raise NotRecorded(f"{function} returns a {type(output).__name__}")
        self._results += 1
        return self._traced(output, Slot(f"result{self._results}"))

    def _traced(self, plain: Tensor, slot: Slot) -> Traced:
        traced = plain.as_subclass(Traced)
        traced.plain, traced.slot, traced.recording = plain, slot, self
        return traced

    def _slot(self, tensor: Tensor) -> Slot:
        if isinstance(tensor, Traced):
            return tensor.slot
        if id(tensor) not in self._slots:
            self._slots[id(tensor)] = Slot(f"constant{len(self._live)}")
            self._live.append((tensor, tensor._version))
        return self._slots[id(tensor)]


class Traced(Tensor):
    """A tensor that the vector has reached: operations on it are written down.

    A subclass sees what autograd's own threads run too, and PyTorch refuses to hand its content to
    NumPy behind the recording's back.

    Attributes:
        plain: the tensor itself.
        slot: its name in the recording.
        recording: where operations are written down.
    """

    plain: Tensor
    slot: Slot
    recording: Recording

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch leaves out `func`
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Hand the operation to the recording."""
        traced = next(item for item in _tensors((args, kwargs)) if isinstance(item, Traced))
        return traced.recording.run(func, args, kwargs or {})


_WORDS = (
    bool, int, float, complex, str,
    torch.dtype, torch.device, torch.layout, torch.memory_format,
)  # fmt: skip


def _mapped(function: Callable[[Any], Any], item: Any) -> Any:
    """The same nest of containers with `function` of its tensors."""
    if isinstance(item, Tensor):
        return function(item)
    if isinstance(item, tuple | list):
        return type(item)(_mapped(function, part) for part in item)
    if isinstance(item, dict):
        return {key: _mapped(function, part) for key, part in item.items()}
    if item is None or isinstance(item, _WORDS):
        return item
    raise NotRecorded(f"an operation takes a {type(item).__name__}")


def _tensors(item: Any) -> Iterator[Tensor]:
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, tuple | list):
        for part in item:
            yield from _tensors(part)
    elif isinstance(item, dict):
        yield from _tensors(list(item.values()))


def _plain(tensor: Tensor) -> Tensor:
    return tensor.plain if isinstance(tensor, Traced) else tensor


_QUESTIONS = (
    "prim.device.default",
    "aten.is_same_size.default",
    "aten._has_same_storage_numel.default",  # of forward mode
)
_REFUSED = {
    torch.Tag.nondeterministic_seeded: "draws random numbers",
    torch.Tag.data_dependent_output: "hands numbers to Python",
    torch.Tag.dynamic_output_shape: "returns a shape that depends on numbers",
}


def _check_operation(function: Any) -> None:
    tags = getattr(function, "tags", None)
    if tags is None:
        raise NotRecorded(f"{function} is no plain operation")
    for tag in tags:
        if tag in _REFUSED:
            raise NotRecorded(f"{function} {_REFUSED[tag]}")


def _check_unchanged(function: Any, args: tuple[Any, ...]) -> None:
    """Refuse a change in place of what the vector has not reached: it would outlive the product."""
    name = str(function).split(".")[-2]
    if name.endswith("_") and args and not isinstance(args[0], Traced):
        raise NotRecorded(f"{function} changes in place what does not depend on the vector")


def _is_question(function: Any) -> bool:
    """Whether it asks for a shape or a device, which the layouts of the inputs fix."""
    return str(function) in _QUESTIONS


def _layout(tensor: Tensor) -> str:
    if type(tensor) is not Tensor or tensor.layout != torch.strided:
        raise NotRecorded(f"a {type(tensor).__name__} of layout {tensor.layout} takes part")
    bits = tensor.is_conj(), tensor.is_neg()
    return f"{tensor.dtype} {tensor.device} {tuple(tensor.shape)} {tensor.stride()} {bits}"
