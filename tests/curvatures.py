"""Models whose Gauss-Newton matrix is taken entry by entry, without any part of the library."""

import warnings
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrizations import weight_norm

import bestresponse as br
from bestresponse._nested import next_problem
from problems import _Sequence

ROWS, CLASSES = 6, 3


class Tied(nn.Module):
    """One matrix is the embedding and the read-out."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.mix = nn.Linear(4, 4)
        self.read = nn.Linear(4, 5, bias=False)
        self.read.weight = self.table.weight

    def forward(self, x):
        return self.read(torch.tanh(self.mix(self.table(x)))).mean(1)[:, :CLASSES]


class Embedded(nn.Module):
    """An embedding with a padding row, layer norm and a read-out over positions."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(6, 4, padding_idx=2)
        self.norm = nn.LayerNorm(4)
        self.read = nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.read(torch.tanh(self.norm(self.table(x)))).mean(1)


def conv(*layers, side):
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(side, CLASSES))


IMAGE, SEQUENCE, FLAT, TOKENS = (2, 5, 5), (4, 4), (4,), "tokens"
MODELS = {
    "linear": (lambda: nn.Linear(4, CLASSES), FLAT),
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES)), FLAT),
    "dropout": (
        lambda: nn.Sequential(
            nn.Linear(4, 6), nn.Dropout(0.4), nn.GELU(), nn.Linear(6, CLASSES, bias=False)
        ),
        FLAT,
    ),
    "batch-norm": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)),
        FLAT,
    ),
    "in-place": (
        lambda: nn.Sequential(
            nn.Linear(4, 5), nn.LeakyReLU(0.3, inplace=True), nn.Linear(5, CLASSES)
        ),
        FLAT,
    ),
    "conv": (lambda: conv(nn.Conv2d(2, 3, 3), nn.GELU(), nn.AvgPool2d(2), side=3), IMAGE),
    "conv-groups-stride": (
        lambda: conv(nn.Conv2d(2, 4, (3, 2), stride=(2, 1), groups=2), nn.Tanh(), side=32),
        IMAGE,
    ),
    "conv-same": (
        lambda: conv(
            nn.Conv2d(2, 2, (2, 3), padding="same", dilation=(1, 2)), nn.Tanh(), nn.AvgPool2d(2),
            side=8,
        ),
        IMAGE,
    ),
    "conv-padded": (
        lambda: conv(
            nn.Conv2d(2, 3, 2, padding=1, dilation=2, bias=False), nn.Tanh(), nn.AvgPool2d(3),
            side=3,
        ),
        IMAGE,
    ),
    "conv-twice": (
        lambda: conv(
            nn.Conv2d(2, 3, 3), nn.GroupNorm(1, 3), nn.Tanh(), nn.Dropout(0.3), nn.Conv2d(3, 2, 2),
            side=8,
        ),
        IMAGE,
    ),
    "conv-in-place": (
        lambda: conv(
            nn.Conv2d(2, 3, 3), nn.LeakyReLU(0.3, inplace=True), nn.Conv2d(3, 2, 3), side=2
        ),
        IMAGE,
    ),
    "conv-batch-norm": (
        lambda: conv(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.AvgPool2d(2), side=3),
        IMAGE,
    ),
    "conv-1d": (lambda: conv(nn.Conv1d(4, 3, 2, padding=1), nn.Tanh(), side=15), SEQUENCE),
    "conv-weight-norm": (
        lambda: conv(weight_norm(nn.Conv2d(2, 3, 3)), nn.Tanh(), nn.AvgPool2d(2), side=3),
        IMAGE,
    ),
    "lstm": (lambda: _Sequence("lstm"), SEQUENCE),
    "attention": (lambda: _Sequence("attention"), SEQUENCE),
    "tied": (Tied, TOKENS),
    "embedded": (Embedded, TOKENS),
}  # fmt: skip


def make(kind, rows=ROWS):
    """A model with random parameters everywhere, and a batch of inputs and labels."""
    build, shape = MODELS[kind]
    torch.manual_seed(3)
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    if shape is TOKENS:
        x = torch.randint(5, (rows, 3))
    else:
        x = torch.randn(rows, *shape)
    with warnings.catch_warnings(), torch.no_grad():
        # said once a process, of an even kernel under padding="same"
        warnings.filterwarnings("ignore", "Using padding='same' with even kernel lengths")
        if kind == "conv-same":
            model(x)
    return model, (x, torch.randint(CLASSES, (rows,)))


def cross_entropy(outputs, x, y):
    return F.cross_entropy(outputs, y)


def square(outputs, x, y):
    return F.mse_loss(outputs, F.one_hot(y, CLASSES).to(outputs))


def summed(outputs, x, y):
    return F.cross_entropy(outputs, y, reduction="sum")


class Case:
    """A live nested problem of a model with weight decay, under a Gauss-Newton curvature."""

    def __init__(
        self, kind="mlp", loss=cross_entropy, solver=None, damping=0.1, *, rows=ROWS, decay=0.1,
        params=None, curvature=None, biases=True, model=None, batch=None, penalized=True, **options,
    ):  # fmt: skip
        self.model, self.batch = (model, batch) if model is not None else make(kind, rows)
        model = self.model
        self.decay = br.hyper.WeightDecay(model, per="weight", init=decay, biases=biases)
        if penalized:  # decays that differ a little from weight to weight
            with torch.no_grad():
                for raw in self.decay.parameters():
                    raw.add_(0.2 * torch.rand_like(raw))
        method = {k: options.pop(k) for k in ("chunked", "resample") if k in options}
        predict = lambda x, y: model(x)  # noqa: E731
        penalty = lambda: self.decay(model)  # noqa: E731
        make_curvature = curvature or br.GaussNewton
        self.loss = loss
        self.nested = br.Nested(
            params=params(model) if params else model,
            hyper=self.decay,
            inner=lambda x, y: loss(model(x), x, y) + self.decay(model),
            outer=lambda x, y: F.cross_entropy(model(x), y),
            method=br.Implicit(
                solver or br.CG(),
                damping=damping,
                curvature=make_curvature(predict, loss, penalty),
                **method,
            ),
            **options,
        )
        self.damping = damping

    def __call__(self, batch=None):
        """The hypergradient, flat, and the report."""
        for parameter in self.decay.parameters():
            parameter.grad = None
        loss, report = self.nested(batch or self.batch, self.batch)
        loss.backward()
        return torch.cat([p.grad.reshape(-1) for p in self.decay.parameters()]), report

    def problem(self, batch=None):
        """The next call's problem."""
        return next_problem(self.nested, batch or self.batch, self.batch)

    @contextmanager
    def operator(self, batch=None):
        """Curvature plus damping, the point it was taken at, and its seed, at the next call."""
        with self.problem(batch) as problem:
            point = self.nested.method.point(problem)
            curvature = point.curvature
            damped = curvature + self.damping * br.Identity.of(curvature)
            yield damped, point, problem.seeds[0]


def names_of(model):
    """The parameters that are trained, by name."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def jacobian(model, x, seed=0):
    """∂f/∂w as (rows, outputs, n), and f, with the dropout masks of a seed."""
    params = names_of(model)
    sizes = [p.numel() for p in params.values()]
    buffers = {n: b.clone() for n, b in model.named_buffers()}

    def outputs(flat):
        pieces = flat.split(sizes)
        tree = {n: p.view(v.shape) for (n, v), p in zip(params.items(), pieces, strict=True)}
        with torch.random.fork_rng(), sdpa_kernel(SDPBackend.MATH):
            torch.default_generator.manual_seed(seed)
            return functional_call(model, {**{n: b.clone() for n, b in buffers.items()}, **tree}, x)

    flat = torch.cat([p.reshape(-1) for p in params.values()])
    return torch.autograd.functional.jacobian(outputs, flat), outputs(flat).detach()


def gauss_newton(model, loss, batch, seed=0):
    """JᵀH_LJ, entry by entry."""
    x = batch[0]
    slopes, value = jacobian(model, x, seed)
    slopes = slopes.reshape(value.numel(), -1)
    hessian = torch.autograd.functional.hessian(lambda f: loss(f.view(value.shape), *batch),
                                                value.reshape(-1))  # fmt: skip
    return slopes.T @ hessian @ slopes
