"""A network whose outputs are the weights of another one, at given hyperparameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bestresponse._errors import InputError
from bestresponse._guards import check_scalar, names
from bestresponse._modules import Parameters
from bestresponse.response._batched import Batched, Live
from bestresponse.response._forms import Affine, Form, check_std
from bestresponse.response._modes import constant
from bestresponse.response._sampling import Local, Sampling

_SEED_RANGE = 2**62


class HyperNetwork(nn.Module):
    """The best response learned as a function: w_φ(λ), all weights of a model at once.

    A training step makes L_T(w_φ(λ), λ) small in φ at hyperparameters that are drawn; a validation
    step follows L_V(w_φ(λ)) downhill in λ alone. The training loss is never differentiated in λ.
    Step both in turn (`Local`, `Simplified`), or φ first and then λ (`Global`, `Uniform`).

    λ is the flat vector of all hyperparameters as their modules hold them, unconstrained. With
    `centred`, w = b + A (λ − λ̂) where λ̂ is the live λ as a constant, so that b are the weights at
    λ̂ and A is their slope.

    `parameters()` are φ only: model and hyperparameters are referenced, not registered. Closures
    run as in `Nested`: with randomness of their own, the outer one in eval mode.

    Args:
        params: the weights w: a module, several, or `select(module, filter)`.
        hyper: the hyperparameters λ, likewise.
        inner: `inner(*batch)`, the training loss as a scalar, over the live modules.
        outer: `outer(*batch)`, the validation loss.
        form: of the function: `Affine`, `Factorized` or `MLP`.
        sampling: where it is learned: `Local`, `Simplified`, `Global` or `Uniform`.
        samples: draws of λ a training step, all of them in one pass.
        centred: None is True where it means something, with `Local` and a linear form.
        std: None starts from the model's own weights, at every λ; a number draws φ from N(0, std²).
        seed: of the initial φ and of all draws.

    Raises:
        InputError: for settings that do not fit each other, or the hyperparameters.

    Source: Lorraine, Duvenaud, "Stochastic Hyperparameter Optimization through Hypernetworks"
    (2018), https://arxiv.org/abs/1802.09419; centred as in Bae, Grosse, "Delta-STN" (2020),
    https://arxiv.org/abs/2010.13514

    Example:
        The minimum of ½(w − λ)² is w = λ.

        >>> model, knob = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> net = HyperNetwork(
        ...     model, knob,
        ...     inner=lambda: 0.5 * (model.weight - knob.weight).square().sum(),
        ...     outer=lambda: (model.weight - 3.0).square().sum(),
        ... )
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
        >>> for _ in range(200):
        ...     optimizer.zero_grad()
        ...     net.inner_loss().backward()
        ...     optimizer.step()
        >>> slope, = torch.autograd.grad(net.best_response()["weight"], knob.weight)
        >>> round(slope.item(), 3)
        1.0
    """

    def __init__(
        self,
        params: Parameters,
        hyper: Parameters,
        inner: Callable[..., Tensor],
        outer: Callable[..., Tensor],
        *,
        form: Form | None = None,
        sampling: Sampling | None = None,
        samples: int = 4,
        centred: bool | None = None,
        std: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.form, self.sampling = form or Affine(), sampling or Local()
        _check_recipe("form", self.form, Form, "Affine()")
        _check_recipe("sampling", self.sampling, Sampling, "Local(0.5)")
        if samples < 1:
            raise InputError(f"samples={samples} learns nothing; draw 1 or more a step.")
        self.samples = samples
        self.centred = _centred(centred, self.form, self.sampling)
        self._closures = Batched(params, hyper, inner, outer)
        self._stream = torch.Generator().manual_seed(seed)
        live = self._closures.live()
        self._known = _names_and_shapes(live)
        point = live.point.detach()
        self.sampling.points(point, 1, torch.Generator())  # settings that do not fit are refused
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            initial = live.weights.flatten(live.params).detach()
            self.network = self.form.build(len(point), initial, check_std(std))

    def inner_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        """The inner loss of w_φ(λ) at λ, mean over draws of λ; a scalar, for a step in φ.

        Args:
            *args: the batch, as the inner closure takes it.
            **kwargs: likewise.

        Raises:
            InputError: for a closure that cannot run at several λ at once, weights that it does
                not use, or layers that would keep running statistics.
        """
        live = self._live()
        point = live.point.detach()
        points = self.sampling.points(point, self.samples, self._stream)
        weights = self._weights(points, point, live)
        return _mean(self._losses("inner", live, points, weights, (args, kwargs)), "inner")

    def outer_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        """The outer loss of w_φ(λ) at the live λ; a scalar, for a step in λ.

        Its gradient is the learned hypergradient, to which φ is constant; what the outer closure
        itself reads of λ is part of it.

        Raises:
            InputError: for hyperparameters that no loss has read.
        """
        live = self._live()
        with constant(self.parameters()):
            point = live.point
            weights = self._weights(point[None], point.detach(), live)
            losses = self._losses("outer", live, point[None], weights, (args, kwargs))
        return _mean(losses, "outer")

    @torch.no_grad()
    def outer_losses(self, points: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The outer losses that are predicted at other hyperparameters, without gradients.

        Args:
            points: λ, (n, h).
            *args: the batch, as the outer closure takes it.
            **kwargs: likewise.

        Returns:
            (n,)

        Raises:
            InputError: for points of another shape.
        """
        live, points = self._live(), torch.as_tensor(points).detach()
        size = live.hypers.size
        if points.ndim != 2 or points.shape[1] != size or not len(points):
            raise InputError(
                f"The points have shape {tuple(points.shape)}; give (n, {size}), a row for each "
                f"point and a column for each of the {size} hyperparameters."
            )
        centre = live.point
        points = points.to(centre.device, centre.dtype)
        weights = self._weights(points, centre, live)
        return self._losses("outer", live, points, weights, (args, kwargs)).detach()

    def best_response(self, hyper: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The weights w_φ(λ), differentiable in the hyperparameters and in φ.

        Args:
            hyper: hyperparameters by the names that they have in `hyper`; those left out, and
                None, are the live ones.

        Returns:
            By the names that the weights have in `params`.

        Raises:
            InputError: for hyperparameters of another name or shape.
        """
        live, given = self._live(), dict(hyper or {})
        for name, value in given.items():
            if name not in live.hyper or value.shape != live.hyper[name].shape:
                known = ", ".join(f"{n} {tuple(leaf.shape)}" for n, leaf in live.hyper.items())
                raise InputError(
                    f"There is no hyperparameter '{name}' of shape {tuple(value.shape)}; known: "
                    f"{known}."
                )
        point = live.hypers.flatten(live.hyper | given)
        return live.weights.unflatten(self._weights(point, live.point.detach(), live))

    @torch.no_grad()
    def write(self) -> None:
        """Put w_φ(λ) at the live λ into the live model.

        Raises:
            InputError: for weights that are not finite; the model is left as it is.
        """
        live, weights = self._live(), self.best_response()
        broken = [name for name, weight in weights.items() if not bool(weight.isfinite().all())]
        if broken:
            raise InputError(
                f"The response gives {names(broken)} values that are not finite; lower the "
                "learning rate of φ, or narrow the sampling."
            )
        for name, weight in weights.items():
            live.params[name].copy_(weight)

    @property
    def point(self) -> Tensor:
        """The live λ, (h,), constant."""
        return self._live().point.detach()

    def get_extra_state(self) -> Tensor:
        """The state of the stream of randomness."""
        return self._stream.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Continue where `state` was taken."""
        self._stream.set_state(state.cpu())

    def extra_repr(self) -> str:
        """How it is learned."""
        return f"{self.sampling}, samples={self.samples}, centred={self.centred}"

    def _live(self) -> Live:
        live = self._closures.live()
        if _names_and_shapes(live) != self._known:
            raise InputError(
                "There are other weights or hyperparameters than when this HyperNetwork was made "
                "(frozen or replaced ones); make another one."
            )
        return live

    def _weights(self, points: Tensor, centre: Tensor, live: Live) -> Tensor:
        """w_φ at points, (…, h): (…, D), in full precision under autocast too."""
        own = next(self.network.parameters())
        offsets = points - centre if self.centred else points
        with torch.autocast(own.device.type, enabled=False):
            weights = self.network(offsets.to(own.device, own.dtype))
        return weights.to(live.weights.device, live.weights.dtype)

    def _losses(self, role: str, live: Live, points: Tensor, weights: Tensor, batch: Any) -> Tensor:
        seed = int(torch.randint(_SEED_RANGE, (), generator=self._stream, device="cpu"))
        return self._closures.losses(role, live, points, weights, batch, seed)


def _names_and_shapes(live: Live) -> tuple[object, ...]:
    return live.weights.names, live.weights.shapes, live.hypers.names, live.hypers.shapes


def _mean(losses: Tensor, role: str) -> Tensor:
    """The mean loss; it has a gradient unless none was asked for."""
    mean = losses.mean()
    return check_scalar(mean, role) if torch.is_grad_enabled() else mean.detach()


def _check_recipe(role: str, value: object, kind: type, example: str) -> None:
    if not isinstance(value, kind):
        raise InputError(f"{role} is {value!r:.60}; give a recipe such as {example}.")


def _centred(centred: bool | None, form: Form, sampling: Sampling) -> bool:
    """Whether the response is centred at the live λ."""
    if centred is None:
        return form.linear and sampling.moves
    if centred and not form.linear:
        raise InputError(
            f"A centred {type(form).__name__} would have to be learned anew wherever λ goes; use "
            "centred=False, or a linear form."
        )
    if centred and not sampling.moves:
        raise InputError(
            f"A response centred at the live λ cannot be learned under {type(sampling).__name__}, "
            "which does not spread around it; use centred=False, or Local(sigma)."
        )
    return centred
