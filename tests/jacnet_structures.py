"""One table of small structures, and what every test does with them."""

import warnings

import torch

import bestresponse.jacnet as jn

_KNOTS, _CELLS = jn.Knots(-4.0, 4.0, 9), jn.Cells(-4.0, 4.0, 32, 4)

ENTRYWISE = {
    "softplus": lambda d: jn.Monotone1d(d, slope=jn.Softplus(0.1), table=_KNOTS, hidden=3),
    "exp": lambda d: jn.Monotone1d(d, slope=jn.Exp(0.1), table=_KNOTS, hidden=(3, 2)),
    "square": lambda d: jn.Monotone1d(d, slope=jn.Square(0.1), table=_KNOTS, hidden=3),
    "interval": lambda d: jn.Monotone1d(d, slope=jn.Interval(0.1, 2.0), table=_KNOTS, hidden=3),
    "cells": lambda d: jn.Monotone1d(d, slope=jn.Softplus(0.1), table=_CELLS, hidden=3),
}
MONOTONE = {
    "ridge": lambda d: jn.ConvexGradient(d, 4, floor=0.1),
    "skew": lambda d: jn.ConvexGradient(d, 4, floor=0.1, skew=True),
    "logsumexp": lambda d: jn.ConvexGradient(d, potential=jn.LogSumExp(d, 4), floor=0.1),
    "icnn": lambda d: jn.ConvexGradient(d, potential=jn.InputConvex(d, 3), floor=0.1),
}
LINEAR = {
    "rotation": jn.Rotation,
    "permutation": jn.Permutation,
    "kronecker": lambda d: jn.KroneckerLinear(2, d // 2),
}
SINGLE = {
    **ENTRYWISE,
    **MONOTONE,
    **LINEAR,
    "triangular": lambda d: jn.Triangular(d, hidden=3, table=_KNOTS),
    "triangular_cells": lambda d: jn.Triangular(d, hidden=3, table=_CELLS),
    "bilipschitz": lambda d: jn.BiLipschitz(d, 4, scaled=True),
}
COMPOSED = {
    "convex_stack": lambda d: jn.Compose(
        [MONOTONE["ridge"](d), jn.Rotation(d), MONOTONE["icnn"](d), jn.Permutation(d)]
    ),
    "triangular_stack": lambda d: jn.Compose(
        [SINGLE["triangular"](d), jn.Rotation(d), SINGLE["triangular_cells"](d)]
    ),
    "mixed_stack": lambda d: jn.Compose(
        [SINGLE["kronecker"](d), SINGLE["exp"](d), SINGLE["bilipschitz"](d), jn.Rotation(d)]
    ),
}
INVERTIBLE = {**SINGLE, **COMPOSED}
EVERY = {
    **INVERTIBLE,
    "lipschitz": lambda d: jn.Lipschitz1d(d, 1.5, table=_KNOTS, hidden=3),
    "holomorphic": lambda d: jn.Holomorphic(d, 3),
    "potential": lambda d: jn.Potential(d, 3),
    "path_integral": lambda d: jn.PathIntegral(
        d, d, hidden=3, activation=jn.Gram(0.1), rule=jn.GaussLegendre(8)
    ),
}


def scaled(module, factor):
    """The same module, all of its weights times a number."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter *= factor
    return module


def make(name, dim=2, seed=0, factor=1.0, table=EVERY):
    """A structure whose weights are all random: none of those that start at zero stays there."""
    torch.manual_seed(seed)
    f = table[name](dim)
    with torch.no_grad():
        for parameter in f.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return hushed(scaled(f, factor))


def gap(one, other):
    """The largest difference of any two entries."""
    return float((one - other).detach().abs().max())


def hushed(f):
    """A path integral that has warned already."""
    if isinstance(f, jn.PathIntegral):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            f(torch.zeros(f.dim_in, dtype=f.start.dtype))
    return f


def of_weights(f, call):
    """`call(f, *inputs)` as a function of the inputs and then of all of f's weights."""
    names = [name for name, _ in f.named_parameters()]

    class Called(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.f = f

        def forward(self, *inputs):
            return call(self.f, *inputs)

    called = Called()

    def function(count, *everything):
        weights = {f"f.{n}": w for n, w in zip(names, everything[count:], strict=True)}
        return torch.func.functional_call(called, weights, everything[:count])

    return function, [p.detach().clone().requires_grad_() for p in f.parameters()]


def autograd_jacobian(f, x):
    """Row by row, each sample by itself: (b, m, n)."""
    return torch.stack([torch.autograd.functional.jacobian(f, row) for row in x])


def on_a_line(function, *inputs):
    """s ↦ `function` with all inputs moved by s along one random direction, and s = 0."""
    moves = [torch.randn_like(item) for item in inputs]

    def moved(s):
        return function(*(item.detach() + s * v for item, v in zip(inputs, moves, strict=True)))

    return moved, torch.zeros((), dtype=inputs[0].dtype, requires_grad=True)
