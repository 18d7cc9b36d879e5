"""Two closures over live modules as functions of many points (w, λ) at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from bestresponse._errors import InputError
from bestresponse._guards import (
    check_callable,
    check_escapes,
    check_graph,
    check_scalar,
    is_checked,
    names,
    no_activation_checkpointing,
)
from bestresponse._modules import Parameters
from bestresponse._purify import LiveModules, live_modules
from bestresponse._tree import Layout, Tree
from bestresponse.response._reads import Reads

_MOST_AT_ONCE = 32  # points whose losses are held in memory together, where nothing is learned


@dataclass(frozen=True)
class Live:
    """The live modules and tensors as they are now; both may have been replaced or moved."""

    modules: LiveModules
    params: Tree
    hyper: Tree

    @cached_property
    def weights(self) -> Layout:
        """Where each weight lies in the flat vector w, (D,)."""
        return Layout.of(self.params)

    @cached_property
    def hypers(self) -> Layout:
        """Where each hyperparameter lies in the flat vector λ, (h,)."""
        return Layout.of(self.hyper)

    @property
    def point(self) -> Tensor:
        """λ, (h,), differentiable in the live hyperparameters."""
        return self.hypers.flatten(self.hyper)


class Batched:
    """The inner and the outer closure at many points (w, λ) at once, without a loop.

    The modules belong to the user: a copy of this refers to the same ones.

    Args:
        params: the weights w, as `Nested` takes them.
        hyper: the hyperparameters λ, likewise.
        inner: the training loss.
        outer: the validation loss.
    """

    def __init__(
        self,
        params: Parameters,
        hyper: Parameters,
        inner: Callable[..., Tensor],
        outer: Callable[..., Tensor],
    ) -> None:
        self._sources = (params, hyper)
        self._closures = {
            "inner": check_callable(inner, "inner"),
            "outer": check_callable(outer, "outer"),
        }
        self._calls = {"inner": 0, "outer": 0}
        self._read: set[str] = set()

    def __deepcopy__(self, memo: object) -> Batched:
        return self

    def live(self) -> Live:
        """The live modules and tensors, as they are now."""
        return Live(*live_modules(*self._sources, self._closures.values()))

    def losses(
        self,
        role: str,
        live: Live,
        points: Tensor,
        weights: Tensor,
        batch: tuple[tuple[Any, ...], Mapping[str, Any]],
        seed: int,
    ) -> Tensor:
        """The losses (n,) of a closure, each with randomness of its own.

        Args:
            role: `inner`, in the modules' own mode, or `outer`, in eval mode.
            live: the modules.
            points: λ, (n, h).
            weights: w, (n, D).
            batch: arguments by position and by name.
            seed: of the randomness.

        Raises:
            InputError: for a closure that gives no scalar, or cannot be batched.
        """
        reads = self._reads_next(role)
        closure = partial(self._closures[role], **batch[1])

        def loss(point: Tensor, flat: Tensor) -> Tensor:
            params, hyper = live.weights.unflatten(flat), live.hypers.unflatten(point)
            with ExitStack() as stack:
                if reads is not None:
                    reads.look_for(params, hyper)
                    stack.enter_context(reads)
                value = live.modules.evaluate(closure, params, hyper, batch[0])
            return _scalar(value, role)

        with _surrounded(live.modules, role, seed):
            found = _batched(loss, role)(points, weights)
        if reads is not None:
            # λ itself may be in the graph where it is to get a gradient
            past = live.params if points.requires_grad else live.params | live.hyper
            _check_graph(role, found, past)
            self._check_reads(role, live, reads)
        return found

    def _reads_next(self, role: str) -> Reads | None:
        """Notes what the next call reads, if that is to be looked at."""
        self._calls[role] += 1
        return Reads() if is_checked(self._calls[role]) else None

    def _check_reads(self, role: str, live: Live, reads: Reads) -> None:
        """Refuse weights that the inner loss does not use, and hyperparameters that none reads."""
        self._read |= reads.second
        if role == "inner":
            unused = [name for name in live.params if name not in reads.first]
            if unused:
                raise InputError(
                    f"The inner loss does not use the parameter {names(unused)}; leave it out of "
                    "params with br.select, or use it in the inner closure."
                )
        elif self._calls["inner"]:
            idle = [name for name in live.hyper if name not in self._read]
            if idle:
                raise InputError(
                    f"The hyperparameter {names(idle)} is read by neither loss; use it in a "
                    "closure, or leave it out of hyper with br.select."
                )


def _check_graph(role: str, losses: Tensor, past: Tree) -> None:
    """Refuse what would be differentiated wrongly without a word."""
    if losses.requires_grad:
        with torch.enable_grad():
            check_escapes(losses.sum(), past, role)
        check_graph(losses, role)


@contextmanager
def _surrounded(modules: LiveModules, role: str, seed: int) -> Iterator[None]:
    """As closures of `Nested` run, and without what would differ from point to point."""
    surroundings = modules.surroundings()
    with ExitStack() as stack:
        stack.enter_context(modules.preserved())
        if role == "outer":
            stack.enter_context(modules.evaluation_mode())
        updating = modules.updating_statistics()
        if updating:
            raise InputError(
                f"{updating[0]} would keep running statistics of its inputs, which differ with the "
                "weights of each λ; make it with track_running_stats=False, or put it into eval "
                "mode."
            )
        stack.enter_context(surroundings.call())
        stack.enter_context(surroundings.closure(seed))
        stack.enter_context(no_activation_checkpointing(role))
        yield


def _batched(loss: Callable[[Tensor, Tensor], Tensor], role: str) -> Callable[..., Tensor]:
    """`loss` over rows; of a single row it is the function as it is."""

    def losses(points: Tensor, weights: Tensor) -> Tensor:
        if len(points) == 1:
            return loss(points[0], weights[0])[None]
        chunk = None if weights.requires_grad else _MOST_AT_ONCE
        try:
            return torch.func.vmap(loss, randomness="different", chunk_size=chunk)(points, weights)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            loss(points[0], weights[0])  # a mistake that has nothing to do with batching is raised
            first = str(error).partition("\n")[0].partition(". ")[0]
            raise InputError(
                f"The {role} closure cannot run at several hyperparameters at once ({first}); "
                "write it without .item(), branches on values, and changes in place, or take one "
                "at a time (samples=1)."
            ) from error

    return losses


def _scalar(loss: Any, role: str) -> Tensor:
    """`loss` as a scalar; inside of vmap nothing tells whether it has a gradient."""
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss.reshape(())
    return check_scalar(loss, role)
