"""Hyperparameter modules: ranges, round trips, closed forms, names, and refusals."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import bestresponse as br
from bestresponse.hyper import Bounded, ExampleWeights, HalfLine, Interval, LogRange, WeightDecay
from checks import relative_error

INF = math.inf
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}


@st.composite
def ranges(draw):
    """A range, and a value well inside of it."""
    kind = draw(st.sampled_from(["interval", "half-line", "log"]))
    at = draw(st.floats(1e-3, 1 - 1e-3))
    if kind == "interval":
        low, width = draw(st.floats(-100, 100)), draw(st.floats(0.1, 1000))
        return Interval(low, low + width), low + at * width
    if kind == "half-line":
        low = draw(st.floats(-100, 100))
        return HalfLine(low), low + draw(st.floats(1e-2, 1000))
    low = 10 ** draw(st.floats(-8, 2))
    high = low * 10 ** draw(st.floats(0.1, 8))
    return LogRange(low, high), low * (high / low) ** at


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@given(ranges())
@settings(max_examples=80, deadline=None)
def test_the_initial_value_comes_back(dtype, case):
    span, value = case
    hyper = Bounded(x=(span, torch.tensor(value, dtype=dtype)))
    assert hyper.x.dtype == dtype
    scale = max(abs(span.low), abs(value)) if math.isinf(span.high) else abs(span.high - span.low)
    scale = value if isinstance(span, LogRange) else scale + abs(value)
    assert abs(float(hyper.x.detach()) - value) <= TOLERANCE[dtype] * scale
    hyper.set(x=value)
    assert abs(float(hyper.values()["x"]) - value) <= TOLERANCE[dtype] * scale


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@given(ranges(), st.floats(-1e6, 1e6))
@settings(max_examples=80, deadline=None)
def test_any_raw_number_is_strictly_inside(dtype, case, raw):
    span, value = case
    hyper = Bounded(x=(span, torch.tensor(value, dtype=dtype)))
    for number in (raw, raw / 1e5, -INF, INF):
        with torch.no_grad():
            next(hyper.parameters()).fill_(number)
        assert span.low < float(hyper.x.detach()) < span.high


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ((0.0, INF, 1.0), [1e-12, 1e-3, 0.5, 19.9, 20.1, 20.5, 35.0, 1e6]),
        ((3.0, INF, 4.0), [3.001, 23.1, 50.0]),
        ((0.0, 1.0, 0.5), [1e-9, 0.25, 0.999999]),
        ((LogRange(1e-6, 1e3), 1.0), [1.01e-6, 1e-3, 999.0]),
    ],
)
def test_round_trips_are_exact_to_rounding(spec, values):
    hyper = Bounded(x=spec)
    for value in values:
        hyper.set(x=value)
        assert float(hyper.x.detach()) == pytest.approx(value, rel=1e-13)


def test_log_ranges_are_even_in_the_logarithm():
    hyper = Bounded(x=(LogRange(1e-4, 1.0), 1e-2))
    assert next(hyper.parameters()).item() == pytest.approx(0, abs=1e-12)
    assert hyper.x.item() == pytest.approx(1e-2)


PAIR = torch.tensor([0.5, 1.5], dtype=torch.float64)
SPECS = {"a": (0.0, 2.0, PAIR), "b": (1.0, INF, 3.0), "c": (-1, 1, 0)}


def test_gradients_flow_and_equal_the_maps_derivative():
    hyper = Bounded(**SPECS)
    (hyper.a.sum() + hyper.b * 2 + hyper.c).backward()
    grads = {name: p.grad for name, p in hyper.named_parameters()}
    at = [next(g for n, g in grads.items() if n.endswith(key)) for key in "abc"]
    position = torch.tensor([0.25, 0.75])
    assert relative_error(at[0], 2 * position * (1 - position)) <= 1e-12
    assert float(at[1]) == pytest.approx(2 * (1 - math.exp(-2.0)))
    assert float(at[2]) == pytest.approx(0.5)


@pytest.mark.parametrize("make", [copy.deepcopy, lambda m: torch.nn.ModuleList([m])[0]])
def test_modules_copy_convert_and_load(make):
    for module in (Bounded(**SPECS), ExampleWeights(3), WeightDecay(nn.Linear(2, 2))):
        other = make(module)
        state = {name: t + 0.5 for name, t in module.state_dict().items()}
        other.load_state_dict(state)
        assert all(torch.equal(t, state[name]) for name, t in other.state_dict().items())
        assert {p.dtype for p in other.to(torch.float32).parameters()} == {torch.float32}
    hyper = Bounded(**SPECS)
    loaded = Bounded(**{**SPECS, "b": (1.0, INF, 9.0)})
    loaded.load_state_dict(hyper.state_dict())
    assert torch.equal(loaded.b, hyper.b)
    assert hyper.to(torch.float32).b.dtype == torch.float32


@pytest.mark.parametrize("name", ["values", "set", "training", "forward", "raw", "parameters"])
def test_names_that_every_module_has_are_refused_or_work(name):
    try:
        hyper = Bounded(**{name: (0.0, 1.0, 0.25)})
    except br.InputError as error:
        assert name in str(error)
    else:
        assert float(getattr(hyper, name)) == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["keys", "items", "pop", "copy", "update", "get", "type"])
def test_names_of_dict_methods_work(name):
    module = nn.Module()
    module.register_parameter(f"my_{name}", nn.Parameter(torch.ones(2)))
    if not hasattr(nn.Module, name):
        module.register_parameter(name, nn.Parameter(torch.ones(2)))
        assert float(Bounded(**{name: (0.0, 1.0, 0.25)}).values()[name]) == pytest.approx(0.25)
    decay = WeightDecay(module, init=0.5)
    assert decay(module).item() == pytest.approx(0.5 * len(list(module.parameters())))


def net():
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Conv2d(1, 2, 3), nn.LayerNorm(2))
    )


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("per", ["weight", "channel", "tensor", "model"])
def test_value_and_gradient_in_closed_form(per, biases):
    model = net()
    decay = WeightDecay(model, per=per, init=0.3, biases=biases)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape))
        for i, leaf in enumerate(decay.parameters()):
            leaf.copy_(torch.randn(leaf.shape) + i)
    decayed = {
        name: w
        for name, w in model.named_parameters()
        if biases or name in ("0.weight", "2.0.weight")
    }
    log = {name: leaf for name, leaf in decay.named_parameters()}
    total, expected = 0.0, {}
    for name, weight in decayed.items():
        key = next(k for k in log if per == "model" or k.endswith(name.replace(".", "|")))
        square = weight.detach() ** 2
        shape = {
            "weight": square.shape,
            "channel": (square.shape[0],) + (1,) * (square.ndim - 1),
        }.get(per, ())
        assert log[key].shape == shape
        each = 0.5 * log[key].detach().exp() * square
        total += float(each.sum())
        expected[key] = expected.get(key, 0) + each.sum_to_size(shape or ())
    penalty = decay(model)
    penalty.backward()
    assert penalty.item() == pytest.approx(total, rel=1e-12)
    assert set(expected) == set(log)
    assert all(relative_error(log[key].grad, value) <= 1e-12 for key, value in expected.items())
    for name, weight in decayed.items():
        key = next(k for k in log if per == "model" or k.endswith(name.replace(".", "|")))
        assert relative_error(weight.grad, log[key].detach().exp() * weight.detach()) <= 1e-12


BIASES = [
    (lambda: nn.LSTM(2, 3), {"weight_ih_l0", "weight_hh_l0"}),
    (lambda: nn.MultiheadAttention(4, 2), {"in_proj_weight", "out_proj.weight"}),
    (lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True), {"in_proj_weight", "out_proj.weight"}),
    (lambda: nn.Sequential(nn.Embedding(3, 2), nn.GroupNorm(1, 2)), {"0.weight"}),
    (lambda: nn.Sequential(nn.Linear(2, 2), nn.InstanceNorm1d(2, affine=True)), {"0.weight"}),
    (lambda: nn.Sequential(nn.Linear(2, 2), nn.RMSNorm(2), nn.SyncBatchNorm(2)), {"0.weight"}),
]


@pytest.mark.parametrize("case", range(len(BIASES)))
def test_biases_and_normalization_are_left_out(case):
    make, expected = BIASES[case]
    decay = WeightDecay(make())
    names = {name.partition(".")[2].replace("|", ".") for name, _ in decay.named_parameters()}
    assert {name.lstrip("|._") for name in names} == expected


def test_tied_weights_decay_once():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    decay = WeightDecay(model, init=2.0)
    assert decay(model).item() == pytest.approx(model[0].weight.square().sum().item())


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_wrappers_do_not_change_names(wrap):
    model = nn.Sequential(nn.Linear(2, 2))
    plain, wrapped = WeightDecay(model, init=0.5), WeightDecay(wrap(model), init=0.5)
    assert list(plain.state_dict()) == list(wrapped.state_dict())
    assert torch.equal(plain(wrap(model)), wrapped(model))


@pytest.mark.parametrize("per", ["weight", "tensor", "model"])
def test_the_penalty_is_as_precise_as_the_weights(per):
    torch.set_default_dtype(torch.float32)
    double, half = nn.Linear(3, 3).double(), nn.Linear(3, 3).half()
    assert WeightDecay(double, per=per)(double).dtype == torch.float64
    assert WeightDecay(half, per=per)(half).dtype == torch.float32


def test_example_weights():
    weights, index = ExampleWeights(4), torch.tensor([0, 2])
    assert weights(index).tolist() == [0.5, 0.5]
    softmax = ExampleWeights(4, "softmax", init=3.0)
    assert softmax(index).tolist() == [1.0, 1.0]
    with torch.no_grad():
        weights.raw.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
        softmax.raw.copy_(weights.raw)
    assert relative_error(weights(index), torch.sigmoid(torch.tensor([0.0, 2.0]))) == 0
    assert softmax(index).sum().item() == pytest.approx(2)
    assert (softmax(index)[1] / softmax(index)[0]).item() == pytest.approx(math.exp(2))
    weights(index).sum().backward()
    assert weights.raw.grad[1] == weights.raw.grad[3] == 0
