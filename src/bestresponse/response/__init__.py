"""Learned best responses: what the weights become at other hyperparameters."""

from bestresponse.response._conv2d import Conv2d
from bestresponse.response._dropout import Dropout
from bestresponse.response._embedding import Embedding
from bestresponse.response._forms import MLP, Affine, Factorized
from bestresponse.response._hypernetwork import HyperNetwork
from bestresponse.response._linear import Linear
from bestresponse.response._lstm import LSTM
from bestresponse.response._perturbation import Perturbation
from bestresponse.response._presets import (
    CODE_GLOBAL,
    CODE_LOCAL,
    PAPER_GLOBAL,
    PAPER_LOCAL,
    Preset,
)
from bestresponse.response._replay import Replay
from bestresponse.response._sampling import Global, Local, Sampling, Simplified, Uniform
from bestresponse.response._schedule import Schedule
from bestresponse.response._self_tuning import SelfTuning

__all__ = [
    "CODE_GLOBAL",
    "CODE_LOCAL",
    "LSTM",
    "MLP",
    "PAPER_GLOBAL",
    "PAPER_LOCAL",
    "Affine",
    "Conv2d",
    "Dropout",
    "Embedding",
    "Factorized",
    "Global",
    "HyperNetwork",
    "Linear",
    "Local",
    "Perturbation",
    "Preset",
    "Replay",
    "Sampling",
    "Schedule",
    "SelfTuning",
    "Simplified",
    "Uniform",
]
