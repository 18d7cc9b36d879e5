"""Every operator against its dense matrix; curvature against PyTorch's own Hessian."""

import pytest
import torch
from torch.autograd.functional import hessian

import bestresponse as br
from bestresponse.operators import Differences
from checks import relative_error

SIZE = 7


def symmetric(seed=0):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(SIZE, SIZE, generator=generator)
    return (matrix + matrix.T) / 2


def loss(params, hyper):
    """Coupled across tensors, bent, and with λ in the curvature."""
    a, b, c = params["a"], params["b"], params["c"]
    mixed = torch.tanh(a @ b + c).sum() + (a * hyper["l"]).pow(2).sum().exp() * 1e-2
    return mixed + (b.sum() * c.prod()) ** 2 + hyper["s"] * (c**4).sum() + hyper["s"] ** 2


def point():
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    params = {"a": draw(2, 2), "b": draw(2), "c": draw(1)}
    return params, {"l": draw(2, 2), "s": torch.tensor(0.7)}


def unpack(flat):
    return {"a": flat[:4].reshape(2, 2), "b": flat[4:6], "c": flat[6:]}


def dense_hessian():
    params, hyper = point()
    flat = torch.cat([leaf.reshape(-1) for leaf in params.values()])
    return hessian(lambda w: loss(unpack(w), hyper), flat)


def linearization():
    return br.Linearization(loss, *point())


OPERATORS = {
    "matrix": (lambda: br.Matrix(symmetric()), lambda: symmetric()),
    "identity": (lambda: br.Identity(SIZE, torch.float64), lambda: torch.eye(SIZE)),
    "diagonal": (lambda: br.Diagonal(symmetric()[0]), lambda: torch.diag(symmetric()[0])),
    "hessian": (lambda: br.Hessian(linearization()), dense_hessian),
    "differences": (lambda: Differences(loss, *point()), dense_hessian),
    "sum": (
        lambda: br.Matrix(symmetric()) + br.Diagonal(symmetric(1)[0]),
        lambda: symmetric() + torch.diag(symmetric(1)[0]),
    ),
    "scaled": (lambda: -2.5 * br.Matrix(symmetric()), lambda: -2.5 * symmetric()),
    "scaled-right": (lambda: br.Matrix(symmetric()) * 3, lambda: 3 * symmetric()),
    "damped-hessian": (
        lambda: br.Hessian(linearization()) + 0.3 * br.Identity(SIZE, torch.float64),
        lambda: dense_hessian() + 0.3 * torch.eye(SIZE),
    ),
    "sum-of-sums": (
        lambda: (
            2.0 * (br.Matrix(symmetric()) + 3.0 * br.Identity(SIZE, torch.float64))
            + br.Matrix(symmetric(1))
        ),
        lambda: 2 * symmetric() + 6 * torch.eye(SIZE) + symmetric(1),
    ),
    "inverse-matrix": (
        lambda: br.Matrix(symmetric()).inverse(0.5),
        lambda: torch.linalg.inv(symmetric() + 0.5 * torch.eye(SIZE)),
    ),
    "inverse-diagonal": (
        lambda: br.Diagonal(symmetric()[0]).inverse(0.5),
        lambda: torch.linalg.inv(torch.diag(symmetric()[0]) + 0.5 * torch.eye(SIZE)),
    ),
    "inverse-identity": (
        lambda: br.Identity(SIZE, torch.float64).inverse(0.5),
        lambda: torch.eye(SIZE) / 1.5,
    ),
}
TOLERANCE = {"differences": 1e-8}


@pytest.mark.parametrize("name", OPERATORS)
def test_products_and_matrix_agree_with_the_dense_matrix(name):
    make, dense = OPERATORS[name]
    operator, expected = make(), dense()
    tolerance = TOLERANCE.get(name, 1e-12)
    assert operator.size == SIZE
    assert operator.space.dtype == torch.float64
    assert operator.space.device == torch.device("cpu")
    assert relative_error(operator.as_matrix(), expected) <= tolerance
    for vector in torch.randn(3, SIZE):
        assert relative_error(operator.mv(vector), expected @ vector) <= tolerance


@pytest.mark.parametrize("name", OPERATORS)
def test_products_are_linear_symmetric_and_repeatable(name):
    operator, tolerance = OPERATORS[name][0](), TOLERANCE.get(name, 1e-12)
    u, v = torch.randn(2, SIZE)
    assert (
        relative_error(operator.mv(2 * u - v), 2 * operator.mv(u) - operator.mv(v))
        <= 10 * tolerance
    )
    assert float(u @ operator.mv(v)) == pytest.approx(
        float(v @ operator.mv(u)), rel=1e3 * tolerance
    )
    assert torch.equal(operator.mv(u), operator.mv(u))
    assert not operator.mv(u).requires_grad


@pytest.mark.parametrize("kind", ["linearization", "differences"])
def test_mixed_products_agree_with_the_dense_mixed_derivative(kind):
    params, hyper = point()
    operator = linearization() if kind == "linearization" else Differences(loss, params, hyper)
    flat = torch.cat([leaf.reshape(-1) for leaf in (*params.values(), *hyper.values())])

    def joint(w):
        return loss(unpack(w[:SIZE]), {"l": w[SIZE:-1].reshape(2, 2), "s": w[-1]})

    dense = hessian(joint, flat)[SIZE:, :SIZE]
    for vector in torch.randn(3, SIZE):
        product = operator.mixed_product(vector)
        value = torch.cat([product["l"].reshape(-1), product["s"].reshape(-1)])
        assert relative_error(value, dense @ vector) <= 1e-8
    gradient = torch.autograd.functional.jacobian(joint, flat)[:SIZE]
    assert relative_error(operator.gradient, gradient) <= 1e-14


@pytest.mark.parametrize("kind", ["linearization", "differences"])
def test_no_dependence_is_none_not_zero(kind):
    inner = lambda p, h: (p["w"] ** 2).sum() + h["unmixed"] ** 2  # noqa: E731
    at = {"w": torch.ones(2)}, {"unmixed": torch.tensor(1.0), "absent": torch.tensor(1.0)}
    make = br.Linearization if kind == "linearization" else Differences
    product = make(inner, *at).mixed_product(torch.ones(2))
    assert product["absent"] is None
    assert product["unmixed"] is None or float(product["unmixed"]) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("make", [br.Linearization, Differences])
@pytest.mark.parametrize("power", [1, 2])
def test_a_loss_that_is_linear_in_some_weights_has_zero_rows(make, power):
    inner = lambda p, h: (p["w"] ** power).sum() + p["v"].sum() * h["a"]  # noqa: E731
    at = {"w": torch.ones(2), "v": torch.ones(3)}, {"a": torch.tensor(1.5)}
    made = make(inner, *at)
    operator = br.Hessian(made) if make is br.Linearization else made
    curvature = torch.diag(torch.tensor([2.0 * (power - 1)] * 2 + [0.0] * 3))
    assert (operator.as_matrix() - curvature).abs().max() <= 1e-8
    assert float(
        operator.mixed_product(torch.ones(5))["a"]
        if make is Differences
        else made.mixed_product(torch.ones(5))["a"]
    ) == pytest.approx(3, abs=1e-8)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_differences_do_not_depend_on_the_length_of_the_vector(scale):
    operator, vector = Differences(loss, *point()), torch.randn(SIZE)
    assert relative_error(operator.mv(scale * vector) / scale, operator.mv(vector)) <= 1e-8
    assert torch.equal(operator.mv(0 * vector), 0 * vector)


def test_mixed_types_are_multiplied_in_the_widest():
    params, hyper = point()
    params["b"] = params["b"].float()
    operator = br.Hessian(
        br.Linearization(lambda p, h: loss({**p, "b": p["b"].double()}, h), params, hyper)
    )
    assert operator.space.dtype == torch.float64
    assert relative_error(operator.as_matrix(), dense_hessian()) <= 1e-6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: br.Matrix(torch.ones(2, 3)), r"\(2, 3\) is not square"),
        (lambda: br.Matrix(torch.ones(3)), r"\(3,\) is not square"),
        (lambda: br.Identity(2) + br.Identity(3), "size 2 and 3 cannot be added"),
        (
            lambda: br.Linearization(
                lambda p, h: p["w"].sum(), {"w": torch.ones(1), "v": torch.ones(1)}, {}
            ),
            "does not use the parameter 'v'",
        ),
    ],
)
def test_bad_operators_are_refused(make, message):
    with pytest.raises(br.InputError, match=message):
        make()
