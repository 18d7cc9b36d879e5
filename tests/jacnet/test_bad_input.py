"""Bad input: one sentence each, of what is wrong and what to do."""

import math

import pytest
import torch

import bestresponse as br
import bestresponse.jacnet as jn
from jacnet_structures import EVERY, INVERTIBLE, make

X = torch.zeros(3, 2)
INF, NAN = math.inf, math.nan


SETTINGS = {
    "floor above ceiling": (lambda: jn.Interval(2.0, 1.0), "is empty; floor must be below"),
    "floor at ceiling": (lambda: jn.Interval(1.0, 1.0), "is empty"),
    "nan floor": (lambda: jn.Interval(NAN, 1.0), "is empty"),
    "infinite ceiling": (lambda: jn.Interval(0.0, INF), "both finite"),
    "negative bound": (lambda: jn.Lipschitz1d(bound=-1.0), "is empty"),
    "negative softplus": (lambda: jn.Softplus(-1.0), "must be 0 or more"),
    "infinite exp": (lambda: jn.Exp(INF), "must be 0 or more, and finite"),
    "nan square": (lambda: jn.Square(NAN), "must be 0 or more"),
    "interval below zero": (lambda: jn.Monotone1d(slope=jn.Interval(-1.0, 1.0)), "not positive"),
    "interval from zero": (lambda: jn.Monotone1d(slope=jn.Interval(0.0, 1.0)), "use Lipschitz1d"),
    "no interval": (lambda: jn.Knots(1.0, 1.0), "is no interval"),
    "infinite table": (lambda: jn.Cells(0.0, INF), "is no interval"),
    "one knot": (lambda: jn.Knots(count=1), "must be 2 or more"),
    "no cell": (lambda: jn.Cells(cells=0), "must be 1 or more"),
    "half a node": (lambda: jn.Cells(nodes=1.5), "must be 1 or more"),
    "no hidden units": (lambda: jn.Monotone1d(hidden=0), "hidden=0"),
    "no hidden layers": (lambda: jn.Triangular(2, hidden=()), "hidden"),
    "no dimension": (lambda: jn.Monotone1d(0), "input size 0"),
    "negative context": (lambda: jn.Monotone1d(context=-1), "context size -1"),
    "no output": (lambda: jn.PathIntegral(1, 0, activation=jn.Free()), "output size 0"),
    "zero floor of a convex gradient": (lambda: jn.ConvexGradient(2, floor=0.0), "positive"),
    "potential of another size": (
        lambda: jn.ConvexGradient(2, potential=jn.Ridge(3)), "of 3 dimensions, ConvexGradient of 2",
    ),
    "contraction of one": (lambda: jn.BiLipschitz(2, contraction=1.0), "between 0 and 1"),
    "odd complex": (lambda: jn.Holomorphic(3), "must be even"),
    "kronecker floor": (lambda: jn.KroneckerLinear(2, 2, floor=0.0), "must be positive"),
    "permutation with a gap": (
        lambda: jn.Permutation(3, torch.tensor([0, 1, 3])), r"\[0, 1, 3\] is no order of 3",
    ),
    "permutation twice": (lambda: jn.Permutation(2, torch.tensor([1, 1])), "is no order"),
    "permutation too short": (lambda: jn.Permutation(3, torch.tensor([1, 0])), "is no order of 3"),
    "permutation of two rows": (lambda: jn.Permutation(2, torch.eye(2).long()), "is no order"),
    "no layers": (lambda: jn.Compose([]), "no layer"),
    "layers that do not fit": (
        lambda: jn.Compose([jn.Rotation(2), jn.Rotation(3)]), "gives 2 dimensions, and Rotation",
    ),
    "two contexts": (
        lambda: jn.Compose([jn.Monotone1d(context=1), jn.Monotone1d(context=2)]), r"\[1, 2\]",
    ),
    "gram of a rectangle": (lambda: jn.PathIntegral(2, 3), "square matrices, not 3 × 2"),
    "gram floor": (lambda: jn.Gram(0.0), "must be positive"),
    "tanh bound": (lambda: jn.Tanh(INF), "must be positive, and finite"),
    "odd cauchy-riemann": (
        lambda: jn.PathIntegral(3, 3, activation=jn.CauchyRiemann()), "needs even dimensions",
    ),
    "kronecker that does not divide": (
        lambda: jn.PathIntegral(4, 4, activation=jn.KroneckerProduct(3)), "does not divide 4",
    ),
    "start of another size": (lambda: jn.PathIntegral(2, 2, start=torch.zeros(3)), "start has the"),
    "fewer values": (
        lambda: jn.PathIntegral(1, 1, start=torch.zeros(3, 1), value=torch.zeros(2, 1)),
        r"must be \(k, 1\)",
    ),
    "no nodes": (lambda: jn.GaussLegendre(0), "must be 1 or more"),
    "no parts": (lambda: jn.GaussLegendre(4, cells=0), "must be 1 or more"),
    "zero tolerance": (lambda: jn.GaussKronrod(0.0), "is not positive"),
    "nan tolerance": (lambda: jn.ClenshawCurtis(NAN), "is not positive"),
    "too few nodes": (lambda: jn.ClenshawCurtis(max_nodes=4), "must be 5 or more"),
    "no panel": (lambda: jn.GaussKronrod(max_cells=0), "must be 1 or more"),
    "annealing upwards": (lambda: jn.Annealing(1e-3, 1e-2), "needs 0 < floor ≤ start"),
    "annealing to zero": (lambda: jn.Annealing(1.0, 0.0), "needs 0 < floor"),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_mean_nothing_are_refused(name):
    call, words = SETTINGS[name]
    with pytest.raises(br.InputError, match=words) as caught:
        call()
    assert str(caught.value).endswith(".")


CALLS = ["__call__", "jacobian", "log_abs_det", "conservativity", "path_gap", "field"]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("call", CALLS)
def test_points_of_another_size_are_refused(name, call):
    f = make(name)
    for bad in (torch.zeros(3, 4), torch.zeros(2, 1), torch.zeros(())):
        with pytest.raises(br.InputError, match="points whose last dimension is 2"):
            getattr(f, call)(bad)


@pytest.mark.parametrize("name", EVERY)
def test_what_is_no_tensor_is_refused(name):
    with pytest.raises(br.InputError, match="this is of shape list"):
        make(name)([[0.0, 0.0]])


@pytest.mark.parametrize("name", [*INVERTIBLE, "holomorphic", "path_integral"])
def test_outputs_of_another_size_and_those_that_are_not_finite_are_refused(name):
    f = make(name)
    with pytest.raises(br.InputError, match="last dimension is 2"):
        f.inverse(torch.zeros(3, 4))
    for bad in (NAN, INF, -INF):
        y = torch.zeros(2, 3, 2)
        y[1, 1, 0] = bad
        with pytest.raises(br.InputError, match="Output number 4 is not finite"):
            f.inverse(y)


@pytest.mark.parametrize("name", ["lipschitz", "potential"])
def test_structures_without_an_inverse_say_so(name):
    with pytest.raises(br.InputError, match="has no inverse; use Monotone1d"):
        make(name).inverse(X)


def test_one_layer_without_an_inverse_is_enough():
    f = jn.Compose([make("ridge"), make("potential")])
    with pytest.raises(br.InputError, match="Potential has no inverse"):
        f.inverse(X)


def test_what_is_not_square_has_no_determinant_and_no_inverse():
    f = jn.PathIntegral(1, 2, activation=jn.Free())
    with pytest.raises(br.InputError, match="from 1 to 2 dimensions has no determinant"):
        f.log_abs_det(torch.zeros(3, 1))
    with pytest.raises(br.InputError, match="has no inverse"):
        f.inverse(torch.zeros(3, 2))


@pytest.mark.parametrize("call", ["__call__", "jacobian", "log_abs_det", "path_gap", "inverse"])
def test_contexts_that_are_missing_or_too_many_or_of_another_size(call):
    needs = [jn.Monotone1d(2, context=3), jn.Compose([jn.Monotone1d(2, context=3)])]
    for f in needs:
        with pytest.raises(br.InputError, match="dimension is 3, got no context"):
            getattr(f, call)(X)
        with pytest.raises(br.InputError, match=r"got a context of shape \(3, 2\)"):
            getattr(f, call)(X, torch.zeros(3, 2))
    for name in ("softplus", "ridge", "triangular", "bilipschitz", "kronecker", "convex_stack"):
        with pytest.raises(br.InputError, match="was made without a context"):
            getattr(make(name), call)(X, torch.zeros(3, 3))
