"""Hyperparameter modules: each bad input by its sentence."""

import math

import pytest
import torch
from torch import nn

import bestresponse as br
from bestresponse.hyper import Bounded, ExampleWeights, HalfLine, Interval, LogRange, WeightDecay

INF = math.inf
X = (0.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bounded(), "got no hyperparameter; write name="),
        (lambda: Bounded(x=(1.0, 0.0, 0.5)), "empty or unbounded"),
        (lambda: Bounded(x=(0.0, 0.0, 0.0)), "empty or unbounded"),
        (lambda: Bounded(x=(-INF, 1.0, 0.5)), "empty or unbounded"),
        (lambda: Bounded(x=(math.nan, 1.0, 0.5)), "empty or unbounded"),
        (lambda: Bounded(x=(-INF, INF, 0.5)), "no half-line"),
        (lambda: Bounded(x=(0.0, 1.0)), r"x must be \(low, high, initial\)"),
        (lambda: Bounded(x=(0.0, 1.0, 0.5, 0.7)), r"x must be \(low, high, initial\)"),
        (lambda: Bounded(x=0.5), r"x must be \(low, high, initial\)"),
        (lambda: Bounded(x=("0", "1", 0.5)), r"x must be \(low, high, initial\)"),
        (lambda: Bounded(x=(0.0, 1.0, 1.0)), "x starts at 1.0, outside of its open range"),
        (lambda: Bounded(x=(0.0, 1.0, 0.0)), "x starts at 0.0, outside"),
        (lambda: Bounded(x=(0.0, 1.0, math.nan)), "x starts at nan, outside"),
        (lambda: Bounded(x=(0.0, INF, INF)), "x starts at inf, outside"),
        (lambda: Bounded(x=(0.0, 1.0, torch.tensor([0.5, 2.0]))), "x starts at .* outside"),
        (lambda: Bounded(x=X).set(y=0.5), r"no hyperparameter 'y'; known: \['x'\]"),
        (lambda: Bounded(x=X).set(x=2.0), "outside of its open range"),
        (lambda: Bounded(x=X).set(x=torch.full((2,), 0.5)), "shape"),
        (lambda: LogRange(0.0, 1.0), "no range of positive numbers"),
        (lambda: LogRange(1.0, INF), "no range of positive numbers"),
        (lambda: HalfLine(0.0, 1.0), "no half-line"),
        (lambda: Interval(0.0, INF), "empty or unbounded"),
        (lambda: ExampleWeights(0), "at least one example, not 0"),
        (lambda: ExampleWeights(3, "relu"), "transform='relu' is unknown"),
        (lambda: ExampleWeights(3)(torch.tensor([3])), "3"),
        (lambda: ExampleWeights(3)(torch.tensor([-1])), "-1"),
        (lambda: WeightDecay(nn.Linear(1, 1), per="row"), "per='row' is unknown; use one of"),
        (lambda: WeightDecay(nn.Linear(1, 1), init=0.0), "init=0.0 must be positive"),
        (lambda: WeightDecay(nn.Linear(1, 1), init=-1.0), "init=-1.0 must be positive"),
        (lambda: WeightDecay(nn.Linear(1, 1), init=INF), "init=inf must be positive"),
        (lambda: WeightDecay(nn.ReLU()), "no weight to decay"),
        (lambda: WeightDecay(nn.BatchNorm1d(2)), "no weight to decay; pass biases=True"),
        (
            lambda: WeightDecay(nn.Linear(1, 1))(nn.ReLU()),
            "no parameter 'weight'.*; this WeightDecay",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(br.InputError, match=message):
        make()


def test_unknown_attributes_are_attribute_errors():
    with pytest.raises(AttributeError, match="y"):
        _ = Bounded(x=X).y


def test_a_model_of_another_shape_is_refused():
    """Also where broadcasting would hide it."""
    for per in ("weight", "channel"):
        decay = WeightDecay(nn.Linear(4, 1), per=per)
        with pytest.raises(br.InputError, match=r"shape|another"):
            decay(nn.Linear(4, 3))
