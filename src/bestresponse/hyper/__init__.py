"""Hyperparameter modules: what is tuned."""

from bestresponse.hyper._augment import augment
from bestresponse.hyper._augmentation import Augmentation
from bestresponse.hyper._augmentation_network import AugmentationNetwork
from bestresponse.hyper._bounded import Bounded, HalfLine, Integers, Interval, LogRange
from bestresponse.hyper._distilled import Distilled
from bestresponse.hyper._dropout import ConcreteDropout
from bestresponse.hyper._example_weights import ExampleWeights
from bestresponse.hyper._label_smoothing import LabelSmoothing
from bestresponse.hyper._layer_dropout import LayerDropout
from bestresponse.hyper._reweighting import ReweightingNetwork
from bestresponse.hyper._weight_decay import WeightDecay

__all__ = [
    "Augmentation",
    "AugmentationNetwork",
    "Bounded",
    "ConcreteDropout",
    "Distilled",
    "ExampleWeights",
    "HalfLine",
    "Integers",
    "Interval",
    "LabelSmoothing",
    "LayerDropout",
    "LogRange",
    "ReweightingNetwork",
    "WeightDecay",
    "augment",
]
