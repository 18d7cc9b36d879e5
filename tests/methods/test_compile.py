"""`Implicit(compile=True)`: the same hypergradients, never a stale one, and a word where not."""

import copy
import gc
import shutil
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse.operators import Compiled, Matrix, _replay
from problems import NETWORKS, network

NEEDS_A_COMPILER = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang"))), reason="no C++ compiler"
)


class Backend:
    """Stands in for inductor: runs graphs as they are and counts."""

    def __init__(self):
        self.compiled = self.run = 0

    def __call__(self, graph, inputs):
        self.compiled += 1

        def run(*args):
            self.run += 1
            return graph(*args)

        return run


@pytest.fixture
def backend(monkeypatch):
    backend = Backend()
    monkeypatch.setattr(_replay, "BACKEND", backend)
    _replay._variants.cache_clear()
    yield backend
    _replay._variants.cache_clear()


class Problem:
    """A network with dropout, buffers, frozen weights, and all else that a closure may read."""

    def __init__(self, kind="mlp", *, compile, gauss_newton=False, dtype=torch.float32, **kwargs):
        torch.manual_seed(0)
        self.model, (x, y) = network(kind)
        self.frozen = nn.Sequential(nn.BatchNorm1d(x[0].numel()), nn.Linear(x[0].numel(), 3))
        self.batch = x.to(dtype), y
        self.decay = br.hyper.WeightDecay(self.model, per="weight", init=0.3, biases=True)
        for module in (self.model, self.frozen, self.decay):
            module.to(dtype)
        self.number, self.captured = 0.5, torch.ones(3, dtype=dtype)
        curvature = br.GaussNewton(self.predict, self.loss, self.penalty) if gauss_newton else None
        method = br.Implicit(br.Dense(), damping=1.0, curvature=curvature, compile=compile)
        self.nested = br.Nested(
            params=self.model,
            hyper=self.decay,
            inner=lambda x, y: self.loss(self.predict(x, y), x, y) + self.penalty(),
            outer=lambda x, y: F.cross_entropy(self.predict(x, y), y),
            method=method,
            throw=False,
            **kwargs,
        )

    def predict(self, x, y):
        return self.number * (self.model(x) * self.captured + self.frozen(x.flatten(1)))

    def loss(self, outputs, x, y):
        return F.cross_entropy(outputs, y)

    def penalty(self):
        return self.number * self.decay(self.model)

    def hypergradient(self):
        self.decay.zero_grad()
        loss, _ = self.nested(self.batch, self.batch)
        loss.backward()
        return torch.cat([p.grad.flatten() for p in self.decay.parameters()])


def assert_same(found, expected, tolerance):
    assert (found - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("gauss_newton", [False, True], ids=["hessian", "gauss_newton"])
@pytest.mark.parametrize("kind", [kind for kind in NETWORKS if kind != "lstm"])
def test_the_same_hypergradient(backend, kind, gauss_newton):
    kwargs = {"dtype": torch.float64, "gauss_newton": gauss_newton}
    eager, compiled = (Problem(kind, compile=c, **kwargs) for c in (False, True))
    assert_same(compiled.hypergradient(), eager.hypergradient(), 1e-10)
    assert backend.run >= 3


@NEEDS_A_COMPILER
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch, from torch.compile
@pytest.mark.parametrize(
    "dtype, kind, tolerance",
    [(torch.float32, "mlp", 1e-5), (torch.float64, "logistic", 1e-10)],
    ids=["float32", "float64"],
)
def test_the_default_compiler(dtype, kind, tolerance):
    _replay._variants.cache_clear()
    eager, compiled = (Problem(kind, compile=c, dtype=dtype) for c in (False, True))
    for _ in range(2):
        assert_same(compiled.hypergradient(), eager.hypergradient(), tolerance)


def batch(problem):
    problem.batch = problem.batch[0] * 1.5, problem.batch[1].flip(0)


def smaller_batch(problem):
    problem.batch = problem.batch[0][:7], problem.batch[1][:7]


def weights(problem):
    with torch.no_grad():
        problem.model[0].weight.mul_(-0.5)


def replaced_weights(problem):
    problem.model[4] = copy.deepcopy(problem.model[4])
    problem.model[4].weight.data.mul_(2.0)


def hyper(problem):
    with torch.no_grad():
        for parameter in problem.decay.parameters():
            parameter.add_(1.0)


def buffer(problem):
    problem.model.eval()
    problem.model[1].running_var.fill_(0.2)


def frozen(problem):
    problem.frozen[1].weight.data.mul_(3.0)


def frozen_buffer(problem):
    problem.frozen.eval()
    problem.frozen[0].running_mean.fill_(1.0)


def mode(problem):
    problem.model.eval()


def attribute(problem):
    problem.model[3].p = 0.6


def number(problem):
    problem.number = 0.7


def captured(problem):
    problem.captured = problem.captured * 2


def captured_in_place(problem):
    problem.captured.mul_(3)


CHANGES = [
    batch, smaller_batch, weights, replaced_weights, hyper, buffer, frozen, frozen_buffer, mode,
    attribute, number, captured, captured_in_place,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_nothing_is_stale(backend, change):
    eager, compiled = (Problem(compile=c, dtype=torch.float64) for c in (False, True))
    unchanged = Problem(compile=False, dtype=torch.float64)
    for _ in range(2):  # the third call is one at which graphs are not searched
        assert_same(compiled.hypergradient(), eager.hypergradient(), 1e-10)
        unchanged.hypergradient()
        change(eager)
        change(compiled)
        run = backend.run
    expected = eager.hypergradient()
    assert_same(compiled.hypergradient(), expected, 1e-10)
    assert backend.run > run
    assert (expected - unchanged.hypergradient()).norm() > 1e-3 * expected.norm()


def test_one_mask_for_all_products_of_a_call_and_another_for_the_next(backend):
    compiled, eager = (Problem(compile=c, dtype=torch.float64) for c in (True, False))
    first, second = compiled.hypergradient(), compiled.hypergradient()
    assert_same(first, eager.hypergradient(), 1e-10)
    assert_same(second, eager.hypergradient(), 1e-10)
    assert (first - second).norm() > 1e-3 * first.norm()


def test_code_is_made_once(backend):
    problem = Problem(compile=True)
    for _ in range(5):
        weights(problem)
        problem.hypergradient()
    assert backend.compiled == 1


def test_modules_and_random_state_stay_as_they_are(backend):
    problem = Problem(compile=True)
    modules = nn.ModuleList([problem.model, problem.frozen, problem.decay])
    before, state = copy.deepcopy(modules.state_dict()), torch.get_rng_state()
    problem.hypergradient()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in modules.state_dict().items())


def test_no_tensor_is_kept(backend):
    problem = Problem(compile=True)
    x = problem.batch[0]
    seen = weakref.ref(x)
    problem.hypergradient()
    problem.batch = x = None
    gc.collect()
    assert seen() is None
    assert _replay._variants.cache_info().currsize == 1


class Backward(torch.autograd.Function):
    """x² with a derivative whose own derivative goes through `odd`."""

    odd = staticmethod(lambda gradient: gradient)

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return _Twice.apply(gradient, *ctx.saved_tensors)


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gradient, x):
        ctx.save_for_backward(gradient, x)
        return 2 * x * gradient

    @staticmethod
    def backward(ctx, second):
        gradient, x = ctx.saved_tensors
        second = Backward.odd(second)
        return 2 * x * second, 2 * gradient * second


class Custom(Problem):
    def predict(self, x, y):
        return Backward.apply(super().predict(x, y))


def draws(gradient):
    return gradient + 0 * torch.rand_like(gradient)


def item(gradient):
    return gradient * (gradient.flatten()[0].item() ** 0)


def branch(gradient):
    return gradient if gradient.sum() > 0 else gradient * 1


def rows(gradient):
    return gradient + 0 * gradient.nonzero().sum()


def constant_in_place(gradient):
    return torch.zeros(12, 3).add_(gradient)


def to_numpy(gradient):
    return torch.from_numpy(gradient.numpy().copy())


def from_memory(gradient):
    return torch.from_numpy(np.from_dlpack(gradient.detach()).copy())


ODD = {
    draws: "aten.rand_like.default draws random numbers",
    item: "aten._local_scalar_dense.default hands numbers to Python",
    branch: "aten.(_local_scalar_dense|is_nonzero).default hands numbers to Python",
    rows: "aten.nonzero.default returns a shape that depends on numbers",
    constant_in_place: "aten.add_.Tensor changes in place what",
    to_numpy: "numpy\\(\\) is not supported",
    from_memory: "differs by|__dlpack__|dlpack",
}


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.__name__)
def test_what_cannot_be_compiled_is_named(backend, monkeypatch, odd):
    monkeypatch.setattr(Backward, "odd", staticmethod(odd))
    eager, compiled = (Custom(compile=c) for c in (False, True))
    for _ in range(3):
        with pytest.warns(UserWarning, match=f"stays uncompiled, since .*({ODD[odd]})"):
            found = compiled.hypergradient()
        assert torch.equal(found, eager.hypergradient())


def test_a_custom_function_of_plain_operations_compiles(backend):
    eager, compiled = (Custom(compile=c, dtype=torch.float64) for c in (False, True))
    assert_same(compiled.hypergradient(), eager.hypergradient(), 1e-10)
    assert backend.run


def test_a_number_read_off_a_tensor_in_the_closure_is_that_of_the_call(backend):
    """It scales the loss, and so a constant: the code stays the same."""

    class Reading(Problem):
        def loss(self, outputs, x, y):
            return super().loss(outputs, x, y) * (1 + x[0].sum().item() ** 2)

    eager, compiled = (Reading(compile=c, dtype=torch.float64) for c in (False, True))
    for _ in range(2):
        assert_same(compiled.hypergradient(), eager.hypergradient(), 1e-10)
        batch(eager)
        batch(compiled)
    assert backend.compiled == 1


def test_numbers_that_change_at_each_call_are_not_compiled_forever(backend, monkeypatch):
    monkeypatch.setattr(_replay, "_MOST_VARIANTS", 2)
    eager, compiled = (Problem(compile=c, dtype=torch.float64) for c in (False, True))
    for call in range(4):
        eager.number = compiled.number = 1 + 0.1 * call
        if call < 2:
            found = compiled.hypergradient()
        else:
            with pytest.warns(UserWarning, match="changed 2 times.*make numbers tensors"):
                found = compiled.hypergradient()
        assert_same(found, eager.hypergradient(), 1e-10)
    assert backend.compiled == 2


def fails(graph, inputs):
    raise RuntimeError("no such instruction")


def lies(graph, inputs):
    return lambda *args: [1.01 * output for output in graph(*args)]


@pytest.mark.parametrize(
    "backend_, why", [(fails, "no such instruction"), (lies, "differs by 0.01")]
)
def test_a_compiler_that_fails_or_errs_is_not_used(backend, monkeypatch, backend_, why):
    monkeypatch.setattr(_replay, "BACKEND", backend_)
    eager, compiled = (Problem(compile=c) for c in (False, True))
    for _ in range(3):
        with pytest.warns(UserWarning, match=f"stays uncompiled, since .*{why}"):
            found = compiled.hypergradient()
        assert torch.equal(found, eager.hypergradient())


def test_no_cpp_compiler_is_named_as_such(backend, monkeypatch):
    class InvalidCxxCompiler(RuntimeError):
        pass

    def none(graph, inputs):
        raise InvalidCxxCompiler("No working C++ compiler found")

    monkeypatch.setattr(_replay, "BACKEND", none)
    with pytest.warns(UserWarning, match="there is no C\\+\\+ compiler"):
        Problem(compile=True).hypergradient()


def test_products_of_several_batches_are_one_piece_of_code(backend):
    found = []
    for compile in (False, True):
        problem = Problem(compile=compile, dtype=torch.float64)
        x, y = problem.batch
        loss, _ = problem.nested(br.Batches([(x, y), (x * 2, y)]), (x, y))
        loss.backward()
        found.append(torch.cat([p.grad.flatten() for p in problem.decay.parameters()]))
    assert_same(found[1], found[0], 1e-10)
    assert backend.compiled == 1


@pytest.mark.parametrize("field", ["chunked", "resample"])
def test_graphs_that_are_built_anew_are_refused(field):
    with pytest.raises(br.InputError, match="leave out compile=True"):
        br.Implicit(br.Neumann(), compile=True, **{field: True})


def test_against_the_matrix(backend):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    matrix = matrix + matrix.T
    operator = Compiled(2.0 * Matrix(matrix))
    assert torch.allclose(operator.as_matrix(), 2 * matrix, rtol=1e-12)
    assert backend.run == 1 + 3
    assert [(factor, term.as_matrix().equal(matrix)) for factor, term in operator.terms()] == [
        (2.0, True)
    ]
