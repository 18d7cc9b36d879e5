"""The Gauss-Newton operator against JᵀHJ entry by entry, in both ways of taking Jv."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse._modules import escape
from bestresponse.operators import OutputHessian, Outputs, PulledBack
from checks import relative_error
from curvatures import (
    CLASSES,
    MODELS,
    Case,
    cross_entropy,
    gauss_newton,
    make,
    names_of,
    square,
    summed,
)


def decays(case):
    """The penalty's Hessian in the order of the parameters."""
    raw = case.decay.log_decay
    return torch.cat([raw[escape(n)].detach().exp().reshape(-1) for n in names_of(case.model)])


@pytest.mark.parametrize("loss", [cross_entropy, square])
@pytest.mark.parametrize("kind", MODELS)
def test_operator_is_the_dense_matrix(kind, loss):
    case = Case(kind, loss)
    with case.operator() as (operator, _, seed):
        expected = gauss_newton(case.model, loss, case.batch, seed) + torch.diag(decays(case))
        expected += case.damping * torch.eye(len(expected))
        assert relative_error(operator.as_matrix(), expected) <= 1e-10
        u, v = torch.randn(2, operator.size)
        assert float(u @ operator.mv(v)) == pytest.approx(float(v @ operator.mv(u)), rel=1e-10)


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind.startswith("conv")])
def test_forward_mode_and_double_backward_agree(kind):
    overwritten = kind == "conv-in-place"
    with Case(kind).operator() as (_, point, _):
        outputs = point._model.outputs
        assert outputs._forward_mode is not overwritten
        vectors = torch.randn(3, outputs.layout.size)
        forward = [outputs.jvp(v) for v in vectors]
        assert outputs._forward_mode is not overwritten, "forward mode was given up"
        outputs.distrust_forward_mode()
        for vector, image in zip(vectors, forward, strict=True):
            assert relative_error(image, outputs.jvp(vector)) <= 1e-10


def test_products_of_one_call_see_one_mask_and_the_next_call_another():
    case = Case("conv-twice")
    with case.operator() as (one, point, _), case.operator() as (same, _, _):
        vector = torch.randn(one.size)
        product = one.mv(vector)
        assert torch.equal(one.mv(vector), product)
        assert torch.equal(same.mv(vector), product)
        outputs = point._model.outputs
        image, back = outputs.jvp(vector), torch.randn_like(outputs.value)
        assert float((image * back).sum()) == pytest.approx(
            float(outputs.vjp(back) @ vector), rel=1e-10
        )
    case()
    with case.operator() as (other, _, _):
        assert relative_error(other.mv(vector), product) >= 1e-3


class _Cube(torch.autograd.Function):
    """x³ with a derivative of its own; forward mode has none."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x * x * gradient


class _WrongCube(_Cube):
    """The same with a wrong forward derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        return x**3

    @staticmethod
    def jvp(ctx, tangent):
        (x,) = ctx.saved_tensors
        return 2 * x * x * tangent


class _Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x)


def custom(function):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), _Applied(function), nn.Flatten(), nn.Linear(27, CLASSES)
    )
    return model, (0.5 * torch.randn(6, 2, 5, 5), torch.randint(CLASSES, (6,)))


@pytest.mark.parametrize("function", [_Cube, _WrongCube])
def test_operations_without_or_with_a_wrong_forward_derivative(function):
    model, batch = custom(function)
    case = Case(model=model, batch=batch)
    with case.operator() as (operator, point, seed):
        outputs = point._model.outputs
        assert outputs._forward_mode
        expected = gauss_newton(model, cross_entropy, batch, seed) + torch.diag(decays(case))
        expected += case.damping * torch.eye(len(expected))
        vector = torch.randn(operator.size)
        assert relative_error(operator.mv(vector), expected @ vector) <= 1e-10
        assert not outputs._forward_mode


def test_a_vector_that_is_zero_tests_nothing():
    model, batch = custom(_WrongCube)
    with Case(model=model, batch=batch).operator() as (_, point, _):
        operator, outputs = point._model, point._model.outputs
        assert not operator.mv(torch.zeros(operator.size)).any()
        assert outputs.untested
        operator.mv(torch.ones(operator.size))
        assert not outputs.untested
        assert not outputs._forward_mode


def test_a_mixed_product_before_any_product_is_tested_too():
    """`Scale` takes no product: the mixed one is the first to go forward through the model."""
    values = []
    for function in (_Cube, _WrongCube):
        model, (x, y) = custom(function)
        weights = br.hyper.ExampleWeights(6)
        predict = lambda x, y, m=model: m(x)  # noqa: E731
        loss = lambda f, x, y, w=weights: (  # noqa: E731
            w(torch.arange(6)) * F.cross_entropy(f, y, reduction="none")
        ).mean()
        nested = br.Nested(
            params=model,
            hyper=weights,
            inner=lambda x, y, p=predict, one=loss: one(p(x, y), x, y),
            outer=lambda x, y, p=predict: F.cross_entropy(p(x, y), y),
            method=br.Implicit(br.Scale(0.1), curvature=br.GaussNewton(predict, loss)),
        )
        nested((x, y), (x, y))[0].backward()
        values.append(weights.raw.grad)
    assert relative_error(values[1], values[0]) <= 1e-10


@pytest.mark.parametrize("kept", ["head", "biases", "weights"])
def test_frozen_parameters_are_left_out(kept):
    """In forward mode too, where a layer may have a weight alone, a bias alone, or none."""
    wanted = {
        "head": lambda name: name[:2] != "0.",
        "biases": lambda name: name.endswith("bias"),
        "weights": lambda name: name.endswith("weight"),
    }[kept]
    case = Case("conv-twice", params=lambda m: br.select(m, wanted))
    with case.operator() as (operator, point, seed):
        matrix = operator.as_matrix()
        assert point._model.outputs._forward_mode
    dense = gauss_newton(case.model, cross_entropy, case.batch, seed) + torch.diag(decays(case))
    rows = torch.cat([torch.full((p.numel(),), wanted(n)) for n, p in names_of(case.model).items()])
    expected = dense[rows][:, rows] + case.damping * torch.eye(int(rows.sum()))
    assert 0 < len(matrix) < len(dense)
    assert relative_error(matrix, expected) <= 1e-10


@pytest.mark.parametrize(("loss", "share"), [(cross_entropy, 1 / 3), (square, 1 / 3), (summed, 1)])
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_the_share_of_some_rows(kind, loss, share):
    """What the rows' own curvature is to be multiplied with, to be their part of the whole."""
    with Case(kind, loss).operator() as (_, point, _):
        part = point._model.on_rows(torch.tensor([1, 4]))
        assert point._model.share(part, torch.tensor([1, 4])) == pytest.approx(share)


@pytest.mark.parametrize("kind", ["mlp", "conv", "conv-batch-norm"])
def test_autocast(kind):
    """bfloat16 has 8 bits: forward mode would be told apart by rounding, so nothing may fail."""
    torch.set_default_dtype(torch.float32)
    case = Case(kind, solver=br.CG(5))
    with case.operator() as (exact, _, _):
        vector = torch.randn(exact.size)
        expected = exact.mv(vector)
    with torch.autocast("cpu", torch.bfloat16):
        with case.operator() as (rounded, _, _):
            product = rounded.mv(vector)
        case()
    assert product.dtype == torch.float32
    assert 0 < relative_error(product, expected) <= 0.05


def test_example_weights_in_the_loss():
    model, (x, y) = make("mlp")
    weights = torch.rand(len(y)) + 0.1
    loss = lambda f: (weights * F.cross_entropy(f, y, reduction="none")).mean()  # noqa: E731
    params = names_of(model)
    outputs = Outputs(lambda p, h: torch.func.functional_call(model, p, x), params, {})
    matrix = PulledBack(outputs, OutputHessian(loss, outputs.value)).as_matrix()
    expected = gauss_newton(model, lambda f, *_: loss(f), (x, y))
    assert relative_error(matrix, expected) <= 1e-10


@pytest.mark.parametrize("loss", ["linear", "outputs-last", "strided"])
def test_odd_losses_and_outputs(loss):
    """A loss without curvature; outputs of one number a row; outputs that are not contiguous."""
    model, (x, y) = make("mlp")
    shape = {"linear": lambda f: f, "outputs-last": lambda f: f[:, 0], "strided": lambda f: f.T}
    last = shape[loss]
    of = {"linear": lambda f: f.sum(), "outputs-last": lambda f: (f**2).mean(),
          "strided": lambda f: (f**4).sum()}[loss]  # fmt: skip
    outputs = Outputs(
        lambda p, h: last(torch.func.functional_call(model, p, x)), names_of(model), {}
    )
    operator = PulledBack(outputs, OutputHessian(of, outputs.value))
    expected = gauss_newton(model, lambda f, *_: of(last(f)), (x, y))
    if loss == "linear":
        assert not operator.as_matrix().any()
    else:
        assert relative_error(operator.as_matrix(), expected) <= 1e-10


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (lambda p, h: [p["w"]], "predict returned list"),
        (lambda p, h: torch.arange(3), "predict returned Tensor"),
        (lambda p, h: torch.ones(3), "does not depend on the parameters"),
    ],
)
def test_outputs_that_are_none_are_refused(predict, message):
    with pytest.raises(br.InputError, match=message):
        Outputs(predict, {"w": torch.ones(2)}, {})
