"""What surrounds a closure while it runs: randomness, autocast, kernels; all restored after."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointError

from bestresponse._errors import InputError


class _TwiceDifferentiable(TorchFunctionMode):
    """Writes out what PyTorch differentiates twice wrongly.

    The fused kernel behind both kinds of weight normalization has a wrong second derivative
    (`gradgradcheck` fails on it in PyTorch 2.13).
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch._weight_norm:
            return _weight_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """G·v/‖v‖ with the norm over all dimensions but `dim`; over all of them for −1."""
    others = [d for d in range(v.ndim) if dim == -1 or d != dim % v.ndim]
    return v * (g / torch.linalg.vector_norm(v, dim=others, keepdim=dim != -1))


@dataclass(frozen=True)
class Surroundings:
    """How closures run during one call.

    Attributes:
        devices: indices of the CUDA devices whose random state is pinned.
        autocast: (device type, dtype) for which the caller had autocast switched on.
        recurrent: whether a recurrent module lives on CUDA, where cuDNN's has no second
            derivative.
        weight_norm: whether some weight is normalized.
    """

    devices: tuple[int, ...] = ()
    autocast: tuple[tuple[str, torch.dtype], ...] = ()
    recurrent: bool = False
    weight_norm: bool = False

    @contextmanager
    def closure(self, seed: int) -> Iterator[None]:
        """Run a closure, inside `call`: seeded, and under the caller's autocast.

        The autocast cache is off: a cast kept from one evaluation would tie it to the next one's
        graph.
        """
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.random.fork_rng(devices=self.devices))
            self._seed(seed)
            for device_type, dtype in self.autocast:
                stack.enter_context(torch.autocast(device_type, dtype, cache_enabled=False))
            yield

    def _seed(self, seed: int) -> None:
        # torch.manual_seed would also queue a seed for devices that nobody uses yet
        torch.default_generator.manual_seed(seed)
        for device in self.devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)

    @contextmanager
    def call(self) -> Iterator[None]:
        """Surround a whole call, with kernels that differentiate twice and without autocast.

        Compiled functions run eagerly, since a compiled graph has no second derivative. Closures
        and backward passes both need all of it: activation checkpointing runs closures again in
        the backward pass, and may draw from the global stream there.
        """
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.random.fork_rng(devices=self.devices))
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            if self.recurrent:
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            if self.weight_norm:
                stack.enter_context(_TwiceDifferentiable())
            for device_type, dtype in self.autocast:
                stack.enter_context(torch.autocast(device_type, dtype, enabled=False))
            yield


def ambient_autocast() -> tuple[tuple[str, torch.dtype], ...]:
    """(device type, dtype) for which autocast is on where this is called."""
    return tuple(
        (device_type, torch.get_autocast_dtype(device_type))
        for device_type in ("cpu", "cuda")
        if torch.is_autocast_enabled(device_type)
    )


@contextmanager
def autograd_errors() -> Iterator[None]:
    """Translate what PyTorch says of a derivative it cannot take into what to do about it."""
    try:
        yield
    except CheckpointError as error:
        raise InputError(
            "Activation checkpointing recomputed something else than was computed at first (weight "
            "normalization inside a checkpointed region does that); switch it off in the closures."
        ) from error
    except RuntimeError as error:
        missing = re.search(r"derivative for (\S+) is not implemented", str(error))
        if missing is None and "double backward" not in str(error):
            raise
        what = missing.group(1).removeprefix("aten::") if missing else "a compiled function"
        raise InputError(
            f"The loss uses {what}, which has no second derivative; write it out in simpler "
            "operations, or use method=br.FiniteDifference(...)."
        ) from error


@cache
def load_forward_mode() -> None:
    """PyTorch warns of its own code where forward mode is first used."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))
