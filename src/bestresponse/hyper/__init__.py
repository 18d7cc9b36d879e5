"""Hyperparameter modules: what is tuned."""

from bestresponse.hyper._bounded import Bounded, HalfLine, Interval, LogRange
from bestresponse.hyper._dropout import ConcreteDropout
from bestresponse.hyper._example_weights import ExampleWeights
from bestresponse.hyper._weight_decay import WeightDecay

__all__ = [
    "Bounded",
    "ConcreteDropout",
    "ExampleWeights",
    "HalfLine",
    "Interval",
    "LogRange",
    "WeightDecay",
]
