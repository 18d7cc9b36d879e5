"""A network that tunes its hyperparameters while it trains."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bestresponse._errors import InputError
from bestresponse.hyper import Bounded
from bestresponse.response._convert import (
    connect_dropout,
    convert,
    frozen,
    plain_parameters,
    response_layers,
)
from bestresponse.response._draw import Draw, Slot
from bestresponse.response._linearized import linearized
from bestresponse.response._modes import constant, evaluating
from bestresponse.response._perturbation import Perturbation
from bestresponse.response._point import Points

_GATE_STD = 0.01


class SelfTuning(nn.Module):
    """A model whose layers respond to hyperparameters: w*(λ) is learned while it trains.

    Training steps run at λ + σ ⊙ ε with a draw of ε for each example, so that the layers learn how
    good weights change with λ; validation steps then follow the learned response downhill, in λ
    and σ alone. The training loss is never differentiated in λ, which may be a dropout rate, a
    number of holes, or the strength of an augmentation.

    With `centred` (Δ-STN) the gates are fed the perturbation alone, so that the plain weights are
    those at λ; they learn from `net(x)` without perturbation, the response from
    `net.linearized(x)` under it.

    `parameters()` are weights only: `hyper` and `scales` are referenced, not registered. Move and
    save them beside the network. The model is copied, and its parameters in the copy keep their
    ties; whatever its layers' parents read of them is found under `.plain`.

    Args:
        model: the model.
        hyper: the hyperparameters.
        dropout: which layers drop at which rate: names of hyperparameters by names of layers. A
            Dropout drops what it did, Linear and convolutions their inputs or input channels,
            Embedding words, LSTM recurrent weights (these two with one mask a batch).
        layers: names of the layers that respond; None is every Linear, Conv2d, Embedding, LSTM.
        centred: Δ-STN.
        sigma: initial deviations σ of the perturbations, one number, or one by name.
        shared: hyperparameters that have one perturbation for the whole batch.
        batch_dim: dimension of the layers' inputs that counts examples.

    Attributes:
        model: the model with response layers.
        scales: the deviations, to be stepped together with `hyper`.
        converted: names of the layers that respond.
        unconverted: names of layers with weights that cannot.

    Raises:
        InputError: for layers or hyperparameters that do not exist or do not fit.

    Source: MacKay, Vicol, Lorraine, Duvenaud, Grosse, "Self-Tuning Networks" (2019),
    https://arxiv.org/abs/1903.03088; Bae, Grosse, "Delta-STN" (2020),
    https://arxiv.org/abs/2010.13514

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 1))
        >>> hyper = Bounded(rate=(0.0, 0.9, 0.1))
        >>> net = SelfTuning(model, hyper, dropout={"1": "rate"})
        >>> with net.perturbed(5) as drawn:  # a training step, on net.parameters()
        ...     loss = net(torch.ones(5, 3)).square().mean()
        >>> drawn["rate"].shape
        torch.Size([5])
        >>> with net.tuning(5):  # a validation step, on hyper and net.scales
        ...     loss = net(torch.ones(5, 3)).square().mean() - 1e-3 * net.entropy()
        >>> loss.backward()
        >>> hyper.raw["rate"].grad is None, net.model[0].plain.weight.grad is None
        (False, True)
    """

    hyper: Bounded
    scales: Perturbation

    def __init__(
        self,
        model: nn.Module,
        hyper: Bounded,
        dropout: Mapping[str, str] | None = None,
        *,
        layers: Sequence[str] | None = None,
        centred: bool = False,
        sigma: float | Mapping[str, float] = 0.5,
        shared: Sequence[str] = (),
        batch_dim: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(hyper, Bounded):
            raise InputError(
                f"hyper is a {type(hyper).__name__}; give br.hyper.Bounded(name=(low, high, "
                "initial))."
            )
        self._slot, self._points = Slot(self._rest, batch_dim), Points(hyper)
        self.centred = centred
        # past nn.Module, which would register them
        self.__dict__.update(hyper=hyper, scales=Perturbation(hyper, sigma))
        values = hyper.values()
        unknown = [name for name in shared if name not in values]
        if unknown:
            raise InputError(
                f"There is no hyperparameter '{unknown[0]}'; known: {', '.join(values)}."
            )
        gate_std = 0.0 if centred else _GATE_STD
        model, self.converted, self.unconverted = convert(
            copy.deepcopy(model), self._points.size, self._slot, layers, gate_std
        )
        self.model, one_mask = connect_dropout(model, dropout or {}, self._slot, values)
        self.shared = frozenset(shared) | one_mask
        self._trained = False
        self._forward_mode = True

    @property
    def values(self) -> Draw:
        """The hyperparameters by name: of the draw that is held, else as they are; (rows, …)."""
        return self._slot.draw

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The model's outputs at the draw that is held, else at the hyperparameters as they are."""
        with self._slot.holding(self._slot.draw):
            return self.model(*inputs, **named)

    @contextmanager
    def perturbed(self, batch: int) -> Iterator[Draw]:
        """Run at hyperparameters drawn around the live ones, as constants; for training steps.

        Args:
            batch: how many examples; 1 is one draw for all.

        Yields:
            The values of the draw by name, (batch, …), for augmentation and penalties.
        """
        raw = self._points.live().detach()
        with torch.no_grad():
            point = raw + self.scales.flat() * self._noise(batch)
        with self._slot.holding(self._draw(point, raw)) as draw:
            yield draw
        self._trained = True

    @contextmanager
    def tuning(self, batch: int) -> Iterator[Draw]:
        """Run at a draw that is differentiable in λ and σ, in eval mode; for validation steps.

        Weights are constants for what runs inside: a loss reaches `hyper` and `scales` alone.
        If the scales are frozen, there is no noise.

        Args:
            batch: how many examples.

        Raises:
            InputError: for hyperparameters that nothing has read in training.
        """
        self._check_read()
        raw = self._points.live()
        if any(scale.requires_grad for scale in self.scales.parameters()):
            point = raw + self.scales.flat() * self._noise(batch)
        else:
            point = raw[None]
        with ExitStack() as stack:
            stack.enter_context(constant(self.parameters()))
            stack.enter_context(evaluating(self.model))
            yield stack.enter_context(self._slot.holding(self._draw(point, raw.detach())))

    def linearized(self, *inputs: Any, **named: Any) -> Tensor:
        """The model's outputs, linear in the perturbation that is held: f(0) + J_f(0) Δ.

        For the response of a `centred` network; the elementary weights are constants in it. It is
        one pass of forward mode; where a layer has no forward derivative, two reverse passes.

        Raises:
            InputError: outside of `perturbed`, or for a network that is not centred.
        """
        draw = self._slot.draw
        if not self.centred or draw.gates is None:
            raise InputError(
                "linearized is for a perturbed centred network; make SelfTuning(..., centred=True) "
                "and call it inside `with net.perturbed(...)`."
            )
        with constant(self.elementary()):
            run = partial(self._at_gates, draw, inputs, named)
            if self._forward_mode:
                try:
                    with _forward_mode(self._slot):
                        return linearized(run, draw.gates, forward=True)
                except (NotImplementedError, RuntimeError) as error:
                    if "forward" not in str(error).lower():
                        raise
                    self._forward_mode = False
            return linearized(run, draw.gates, forward=False)

    def training_loss(
        self,
        loss: Callable[..., Tensor],
        *batch: Tensor,
        augment: Callable[[Tensor, Draw], Tensor] | None = None,
        penalty: Callable[[Draw], Tensor] | None = None,
    ) -> Tensor:
        """What a training step makes smaller in `parameters()`.

        Of a centred network it is the sum of its two objectives, whose gradients do not mix: the
        plain weights' at λ, and the response's at perturbed hyperparameters.

        Args:
            loss: of the outputs and the rest of the batch, `loss(net(x), y)`; a scalar. It finds
                the hyperparameters that the outputs are for in `net.values`.
            *batch: inputs, then what the loss needs.
            augment: changes inputs at the values of a draw.
            penalty: added at the values of a draw, such as `lambda drawn:
                net.half_squares(drawn["decay"])`.
        """
        x, *rest = batch

        def objective(run: Callable[..., Tensor], draw: Draw) -> Tensor:
            value = loss(run(x if augment is None else augment(x, draw)), *rest)
            return value if penalty is None else value + penalty(draw)

        if not self.centred:
            with self.perturbed(self._examples(x)) as draw:
                return objective(self, draw)
        with self._slot.holding(self._rest()) as draw:
            plain = objective(self, draw)
        with self.perturbed(self._examples(x)) as draw:
            with constant(self.elementary()):
                return plain + objective(self.linearized, draw)

    def validation_loss(
        self, loss: Callable[..., Tensor], *batch: Tensor, entropy: float = 1e-3
    ) -> Tensor:
        """What a validation step makes smaller in `hyper` and `scales`: the loss − τ·entropy.

        Args:
            loss: of the outputs and the rest of the batch; a scalar.
            *batch: inputs, then what the loss needs.
            entropy: τ, which keeps σ from collapsing.
        """
        x, *rest = batch
        with self.tuning(self._examples(x)):
            return loss(self(x), *rest) - entropy * self.entropy()

    def entropy(self) -> Tensor:
        """Of the perturbations, Σ log(σ √(2πe)), differentiable in the scales."""
        return self.scales.entropy()

    def half_squares(self, rates: Tensor) -> Tensor:
        """The mean over examples of ½ rate ‖W(λ)‖², for weight decay as a hyperparameter.

        It is that of each example's own weights, biases left out, in layers that respond.

        Args:
            rates: (examples,) of the draw that is held.
        """
        gates = self._slot.draw.gates
        layers = response_layers(self.model).values()
        return torch.stack([layer.half_squares(gates, rates) for layer in layers]).sum()

    def elementary(self) -> list[nn.Parameter]:
        """The weights of the plain model."""
        own = {id(parameter) for parameter in self.responses()}
        return [parameter for parameter in self.parameters() if id(parameter) not in own]

    def responses(self) -> list[nn.Parameter]:
        """The weights W' and V of the response."""
        layers = response_layers(self.model).values()
        return [parameter for layer in layers for parameter in layer.response_parameters()]

    def best_response(self, hyper: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The weights of the plain model at given hyperparameters, differentiable in them.

        Args:
            hyper: unconstrained hyperparameters by their name in `hyper` (`raw.dropout`, or
                `dropout`); those left out, and None, are the live ones.

        Returns:
            By the names that the parameters of `freeze()` have.
        """
        given = {name.removeprefix("raw.").rstrip("|"): v for name, v in (hyper or {}).items()}
        z = self._points.live(given)
        if self.centred:
            z = z - self._points.live().detach()
        weights: dict[str, Tensor] = {**plain_parameters(self.model)}
        for layer_name, layer in response_layers(self.model).items():
            start = f"{layer_name}." if layer_name else ""
            weights |= {start + name: weight for name, weight in layer.explicit(z).items()}
        return weights

    def response_size(self) -> dict[str, float]:
        """How large each layer's response to one σ of each hyperparameter is, ‖σV ⊙ W'‖/‖W‖."""
        with torch.no_grad():
            sigma = self.scales.flat()
            sizes = {n: layer.squares(sigma) for n, layer in response_layers(self.model).items()}
        return {name: float(moved / own) ** 0.5 for name, (moved, own) in sizes.items()}

    def freeze(self) -> nn.Module:
        """A plain model at the tuned values, in weights and dropout rates; in eval mode."""
        with torch.no_grad():
            z = None if self.centred else self._points.live()
            plain = frozen(self.model, z, self.hyper.values(), self._slot)
        return plain.eval()

    def extra_repr(self) -> str:
        """What responds to what."""
        return f"hyper=[{self.hyper.extra_repr()}], centred={self.centred}"

    def _noise(self, batch: int) -> Tensor:
        """ε, (batch, h)."""
        if batch < 1:
            raise InputError(f"batch={batch} draws nothing; give the number of examples.")
        return self._points.noise(batch, self.shared)

    def _rest(self) -> Draw:
        """The draw of the hyperparameters as they are, constants."""
        raw = self._points.live().detach()[None]
        return self._points.draw(raw, None if self.centred else raw)

    def _draw(self, point: Tensor, raw: Tensor) -> Draw:
        return self._points.draw(point, point - raw if self.centred else point)

    def _examples(self, x: Tensor) -> int:
        return x.shape[self._slot.batch_dim]

    def _at_gates(
        self, draw: Draw, inputs: tuple[Any, ...], named: dict[str, Any], gates: Tensor
    ) -> Tensor:
        with self._slot.holding(draw.at(gates)):
            outputs: Tensor = self.model(*inputs, **named)
        return outputs

    def _check_read(self) -> None:
        unread = self._points.unread()
        if self._trained and unread:
            raise InputError(
                f"No layer and no loss reads '{unread[0]}', so that nothing can be learned of it; "
                "name it in dropout={...}, use drawn[...] in the training loss, or leave it out."
            )


@contextmanager
def _forward_mode(slot: Slot) -> Iterator[None]:
    slot.forward_mode = True
    try:
        yield
    finally:
        slot.forward_mode = False
