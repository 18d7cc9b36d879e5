"""Recorded products through `torch.compile`, each compiled once a process."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, fx, nn

from bestresponse.operators._recording import NotRecorded, Recording, Slot

BACKEND = "inductor"  # of torch.compile
_MOST_VARIANTS = 8  # of one list of operations, as in torch.compile itself
_MOST_LISTS = 32


def compiled(recording: Recording) -> Callable[[Tensor], Tensor]:
    """The product of `recording` as compiled code, with the recording's own constants.

    Code is kept from call to call by the whole text of the recording, its only input beside the
    tensors that each product is handed anew: it can be slow to come, but never stale. What is kept
    is bounded, and holds no tensor.

    Raises:
        NotRecorded: if `torch.compile` cannot compile it, or has had to too often.
    """
    code = _variants(recording.operations).of(recording)
    constants = recording.constants

    def product(vector: Tensor) -> Tensor:
        return code(vector.contiguous(), *constants)

    return product


@lru_cache(maxsize=_MOST_LISTS)
def _variants(operations: tuple[str, ...]) -> _Variants:
    """The one place of one list of operations."""
    return _Variants()


class _Variants:
    """Code for one list of operations with different shapes and numbers."""

    def __init__(self) -> None:
        self._codes: dict[tuple[str, ...], _Code] = {}

    def of(self, recording: Recording) -> _Code:
        text = recording.text
        if text not in self._codes:
            if len(self._codes) >= _MOST_VARIANTS:
                raise NotRecorded(
                    f"shapes or Python numbers in the closures have changed {_MOST_VARIANTS} times "
                    "(pad batches, make numbers tensors)"
                )
            self._codes[text] = _Code(graph_of(recording))
        return self._codes[text]


class _Code:
    """A graph, compiled when it is first run; a failure is remembered."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self._function = torch.compile(graph, backend=BACKEND, fullgraph=True, dynamic=False)
        self._has_run, self._failure = False, ""

    def __call__(self, *inputs: Tensor) -> Tensor:
        if self._failure:
            raise NotRecorded(self._failure)
        # a call runs what the closures have compiled eagerly; this is compiled on purpose
        with torch.no_grad(), torch.compiler.set_stance("default"):
            if self._has_run:
                return self._function(*inputs)
            try:
                product = self._function(*inputs)
            except Exception as error:  # compilers fail in many ways
                self._failure = _why(error)
                raise NotRecorded(self._failure) from error
            self._has_run = True
            return product


def graph_of(recording: Recording) -> fx.GraphModule:
    """The recording as a graph: the vector and the constants go in, the product comes out.

    Example:
        >>> recording = Recording(lambda v: 2 * v.sin(), torch.zeros(2))
        >>> graph_of(recording)(torch.ones(2))
        tensor([1.6829, 1.6829])
    """
    graph = fx.Graph()
    names = ["vector", *(f"constant{i}" for i in range(len(recording.constants)))]
    nodes = {Slot(name): graph.placeholder(name) for name in names}

    def filled(item: Any) -> Any:
        if isinstance(item, Slot):
            return nodes[item]
        if isinstance(item, tuple | list):
            return type(item)(filled(part) for part in item)
        return item

    for step in recording.steps:
        kwargs = {key: filled(value) for key, value in step.kwargs.items()}
        node = graph.call_function(step.function, filled(step.args), kwargs)
        if isinstance(step.results, Slot):
            nodes[step.results] = node
            continue
        for place, slot in enumerate(step.results or ()):
            if slot is not None:
                nodes[slot] = graph.call_function(operator.getitem, (node, place))
    graph.output(nodes[recording.result])
    return fx.GraphModule(nn.Module(), graph)


def _why(error: Exception) -> str:
    """What to say of a compiler's failure, which may lie deep among its causes."""
    causes = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        if not isinstance(cause, Exception) or cause in causes:
            break
        causes.append(cause)
    if any("CxxCompiler" in type(cause).__name__ for cause in causes):
        return "there is no C++ compiler (install g++ or clang)"
    summary = " ".join(str(error).split("\n")[:2])
    return f"torch.compile fails with {type(error).__name__}: {summary}"
