"""Modules that the closures reach in roundabout ways, and wrappers around them."""

import copy
import functools
import types
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from checks import assert_same, call_gradient, relative_error, snapshot
from problems import decayed_problem, network

METHOD = br.Implicit(br.CG(max_steps=4), damping=3.0)
UNROLL = br.Unroll(br.optim.SGD(0.3), steps=3)
TEACHER = nn.BatchNorm1d(4).double()
HOLDER = types.SimpleNamespace(teacher=nn.BatchNorm1d(4).double())
PARTIAL = functools.partial(lambda net, x: net(x), nn.BatchNorm1d(4).double())


class Callable:
    """A closure that is an object."""

    def __init__(self, teacher, loss):
        self.teacher, self.loss = teacher, loss

    def __call__(self, x, y):
        return self.loss(self.teacher(x), y)


class Trainer:
    """The usual home of closures: methods, and lambdas that capture self."""

    def __init__(self, loss):
        self.teacher, self.loss = nn.BatchNorm1d(4), loss

    def inner(self, x, y):
        return self.loss(self.teacher(x), y)

    def make(self):
        return lambda x, y: self.loss(self.teacher(x), y)


class TrainerOfTrainers:
    def __init__(self, loss):
        self.part = Trainer(loss)

    def inner(self, x, y):
        return self.part.inner(x, y)


def captured(how, loss):
    """(closure, frozen batch norm) in each of the ways a closure may reach a module."""
    teacher = nn.BatchNorm1d(4)
    trainer, nested_trainer = Trainer(loss), TrainerOfTrainers(loss)

    def by_default(x, y, net=teacher):
        return loss(net(x), y)

    def by_keyword_default(x, y, *, net=teacher):
        return loss(net(x), y)

    def by_global(x, y):
        return loss(TEACHER(x), y)

    def by_global_object(x, y):
        return loss(HOLDER.teacher(x), y)

    def by_global_partial(x, y):
        return loss(PARTIAL(x), y)

    @functools.wraps(by_default)
    def by_wrapper(*args):
        return by_default(*args)

    return {
        "cell": (lambda x, y: loss(teacher(x), y), teacher),
        "inner-function": (lambda x, y: (lambda: loss(teacher(x), y))(), teacher),
        "default": (by_default, teacher),
        "keyword-default": (by_keyword_default, teacher),
        "global": (by_global, TEACHER),
        "global-object": (by_global_object, HOLDER.teacher),
        "global-partial": (by_global_partial, PARTIAL.args[0]),
        "partial": (functools.partial(lambda net, x, y: loss(net(x), y), teacher), teacher),
        "method": (trainer.inner, trainer.teacher),
        "lambda-over-self": (trainer.make(), trainer.teacher),
        "method-of-a-part": (nested_trainer.inner, nested_trainer.part.teacher),
        "callable-object": (Callable(teacher, loss), teacher),
        "wrapper": (by_wrapper, teacher),
        "list": ((lambda nets: lambda x, y: loss(nets[0](x), y))([teacher]), teacher),
        "dict": ((lambda nets: lambda x, y: loss(nets["t"](x), y))({"t": teacher}), teacher),
    }[how]


CAPTURES = (
    "cell inner-function default keyword-default global global-object global-partial partial "
    "method lambda-over-self method-of-a-part callable-object wrapper list dict"
).split()


@pytest.mark.parametrize("how", CAPTURES)
def test_a_frozen_captured_module_in_train_mode_is_untouched(how):
    model, (x, y) = network("logistic")
    decay = br.hyper.WeightDecay(model, init=0.1)
    inner, teacher = captured(how, lambda z, y: F.cross_entropy(model(z), y) + decay(model))
    before = snapshot(teacher, model, decay)
    nested = br.Nested(model, decay, inner, lambda x, y: F.cross_entropy(model(x), y), METHOD)
    call_gradient(nested, decay, (x, y), (x, y))
    assert int(teacher.num_batches_tracked) == 0
    for parameter in decay.parameters():
        parameter.grad = None
    assert_same(before, snapshot(teacher, model, decay))


@pytest.mark.parametrize("how", ["object", "child", "cell"])
def test_data_parallel_is_refused_wherever_it_hides(how):
    model, (x, y) = network("logistic")
    wrapped = nn.DataParallel(model)
    root = nn.Sequential(wrapped) if how == "child" else model
    decay = br.hyper.WeightDecay(root, init=0.1)
    loss = lambda z, y: F.cross_entropy(z, y) + decay(root)  # noqa: E731
    inner = {
        "object": Callable(wrapped, loss),
        "child": lambda x, y: loss(root(x), y),
        "cell": lambda x, y: loss(wrapped(x), y),
    }[how]
    nested = br.Nested(root, decay, inner, lambda x, y: F.cross_entropy(model(x), y), METHOD)
    with pytest.raises(br.InputError, match=r"calls a DataParallel.*call its \.module"):
        nested((x, y), (x, y))
    assert nested.inner_loss(x, y).item() > 0  # training goes on through the wrapper


def test_params_may_be_a_parallel_wrapper_if_the_closures_call_its_module():
    model, batch = network("logistic")
    wrapped = nn.DataParallel(model)
    decay, nested = decayed_problem(wrapped, lambda x: wrapped.module(x), METHOD)
    plain, reference = decayed_problem(model, model, METHOD)
    assert sorted(decay.log_decay) == sorted(plain.log_decay)
    value, _ = call_gradient(nested, decay, batch, batch)
    assert relative_error(value, call_gradient(reference, plain, batch, batch)[0]) <= 1e-15


def compiled_or_skip(model, backend, x):
    """The compiled module, once run; skips where the default backend finds no compiler."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # importing inductor warns of its own accord
            compiled = torch.compile(model, backend=backend)
            compiled(x)
    except Exception as error:
        if backend != "inductor":
            raise
        pytest.skip(f"no compiler works here: {type(error).__name__}")
    return compiled


@pytest.mark.parametrize(
    ("backend", "method"),
    [("eager", METHOD), ("aot_eager", METHOD), ("aot_eager", UNROLL), ("inductor", METHOD)],
    ids=["eager", "aot-eager", "aot-eager-unroll", "inductor"],
)
def test_a_compiled_module_runs_uncompiled_and_says_so(backend, method):
    torch.manual_seed(0)
    model, batch = network("conv")
    compiled = compiled_or_skip(model, backend, batch[0])
    plain, reference = decayed_problem(model, model, method)
    with pytest.warns(UserWarning, match="run it uncompiled"):
        decay, nested = decayed_problem(compiled, compiled, method)
    value, _ = call_gradient(nested, decay, batch, batch)
    assert relative_error(value, call_gradient(reference, plain, batch, batch)[0]) <= 1e-15


def test_a_compiled_child_keeps_its_names_and_is_told_of():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    _, batch = network("logistic")
    same = copy.deepcopy(model)
    plain, reference = decayed_problem(same, same, METHOD)
    decay = br.hyper.WeightDecay(model, init=0.1, biases=True)
    model[0] = torch.compile(model[0], backend="aot_eager")
    with pytest.warns(UserWarning, match="run it uncompiled"):
        nested = br.Nested(
            model,
            decay,
            lambda x, y: F.cross_entropy(model(x), y) + decay(model),
            lambda x, y: F.cross_entropy(model(x), y),
            METHOD,
        )
    value, _ = call_gradient(nested, decay, batch, batch)
    assert relative_error(value, call_gradient(reference, plain, batch, batch)[0]) <= 1e-15
