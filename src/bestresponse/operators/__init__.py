"""Linear maps on flat vectors: the inner Hessian, its stand-ins, and their sums and scalings."""

from bestresponse.operators._base import LinearOperator
from bestresponse.operators._compiled import Compiled
from bestresponse.operators._curvature import Hessian
from bestresponse.operators._difference import Differences
from bestresponse.operators._factors import Factors, LayerFactors, layer_factors
from bestresponse.operators._gauss_newton import (
    OutputCurvature,
    OutputHessian,
    Penalized,
    PulledBack,
    Scores,
)
from bestresponse.operators._gram import WoodburyInverse, squared_lengths
from bestresponse.operators._kronecker import Kronecker
from bestresponse.operators._linearize import Linearization
from bestresponse.operators._matrix import Diagonal, Identity, Matrix
from bestresponse.operators._outputs import Outputs, check_outputs

__all__ = [
    "Compiled",
    "Diagonal",
    "Differences",
    "Factors",
    "Hessian",
    "Identity",
    "Kronecker",
    "LayerFactors",
    "LinearOperator",
    "Linearization",
    "Matrix",
    "OutputCurvature",
    "OutputHessian",
    "Outputs",
    "Penalized",
    "PulledBack",
    "Scores",
    "WoodburyInverse",
    "check_outputs",
    "layer_factors",
    "squared_lengths",
]
