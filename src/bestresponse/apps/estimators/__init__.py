"""Structures with known Jacobians as scikit-learn estimators."""

from bestresponse.apps.estimators._additive import Additive, table_over
from bestresponse.apps.estimators._calibrator import Calibrator
from bestresponse.apps.estimators._lipschitz import LipschitzRegressor
from bestresponse.apps.estimators._monotone import MonotoneRegressor
from bestresponse.apps.estimators._transport import TransportMap, sliced_distance

__all__ = [
    "Additive",
    "Calibrator",
    "LipschitzRegressor",
    "MonotoneRegressor",
    "TransportMap",
    "sliced_distance",
    "table_over",
]
