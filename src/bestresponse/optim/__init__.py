"""Pure, differentiable optimizers for unrolling: trees in, trees out."""

from bestresponse.optim._adam import Adam
from bestresponse.optim._base import Optimizer, Setting, State
from bestresponse.optim._from_torch import FromTorch, from_torch
from bestresponse.optim._sgd import SGD, Momentum

__all__ = ["SGD", "Adam", "FromTorch", "Momentum", "Optimizer", "Setting", "State", "from_torch"]
