"""Learned best responses: what the weights become at other hyperparameters."""

from bestresponse.response._conv2d import Conv2d
from bestresponse.response._dropout import Dropout
from bestresponse.response._embedding import Embedding
from bestresponse.response._linear import Linear
from bestresponse.response._lstm import LSTM
from bestresponse.response._perturbation import Perturbation
from bestresponse.response._replay import Replay
from bestresponse.response._schedule import Schedule
from bestresponse.response._self_tuning import SelfTuning

__all__ = [
    "LSTM",
    "Conv2d",
    "Dropout",
    "Embedding",
    "Linear",
    "Perturbation",
    "Replay",
    "Schedule",
    "SelfTuning",
]
