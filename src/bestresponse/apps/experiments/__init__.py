"""Experiments: what the papers show, one a file, each with its figures in a run folder."""

from bestresponse.apps.experiments._experiment import Experiment
from bestresponse.apps.experiments.cleaning import DataCleaning
from bestresponse.apps.experiments.hessian_picture import HessianPicture
from bestresponse.apps.experiments.hypernet_global import HypernetGlobal
from bestresponse.apps.experiments.hypernet_local import HypernetLocal
from bestresponse.apps.experiments.inverse_comparison import InverseComparison
from bestresponse.apps.experiments.jacnet_abs import JacNetAbs
from bestresponse.apps.experiments.jacnet_conservation import JacNetConservation
from bestresponse.apps.experiments.jacnet_exp import JacNetExp
from bestresponse.apps.experiments.jacnet_invertible import JacNetInvertible
from bestresponse.apps.experiments.jacnet_kronecker import JacNetKronecker
from bestresponse.apps.experiments.language import Language
from bestresponse.apps.experiments.overfit import Overfit
from bestresponse.apps.experiments.split import ValidationShare
from bestresponse.apps.experiments.stn_regression import SelfTuningRegression
from bestresponse.apps.experiments.unroll_versus_implicit import UnrollVersusImplicit

EXPERIMENTS: tuple[type[Experiment], ...] = (
    InverseComparison,
    HessianPicture,
    UnrollVersusImplicit,
    DataCleaning,
    Overfit,
    ValidationShare,
    JacNetExp,
    JacNetAbs,
    JacNetInvertible,
    JacNetConservation,
    JacNetKronecker,
    Language,
    SelfTuningRegression,
    HypernetGlobal,
    HypernetLocal,
)
