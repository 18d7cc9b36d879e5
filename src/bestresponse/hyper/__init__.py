"""Hyperparameter modules: what is tuned."""

from bestresponse.hyper._bounded import Bounded, HalfLine, Interval, LogRange
from bestresponse.hyper._example_weights import ExampleWeights
from bestresponse.hyper._reweighting import ReweightingNetwork
from bestresponse.hyper._weight_decay import WeightDecay

__all__ = [
    "Bounded",
    "ExampleWeights",
    "HalfLine",
    "Interval",
    "LogRange",
    "ReweightingNetwork",
    "WeightDecay",
]
