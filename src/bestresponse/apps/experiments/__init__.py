"""Experiments: what the papers show, one a file, each with its figures in a run folder."""

from bestresponse.apps.experiments._experiment import Experiment
from bestresponse.apps.experiments.cleaning import DataCleaning
from bestresponse.apps.experiments.hypernet.classes import HypernetClasses
from bestresponse.apps.experiments.hypernet.global_curve import HypernetGlobal
from bestresponse.apps.experiments.hypernet.local import HypernetLocal
from bestresponse.apps.experiments.hypernet.many import HypernetDepth, HypernetLarge
from bestresponse.apps.experiments.hypernet.predict import HypernetPredict
from bestresponse.apps.experiments.inverse.comparison import InverseComparison
from bestresponse.apps.experiments.inverse.hessian_picture import HessianPicture
from bestresponse.apps.experiments.inverse.unroll_versus_implicit import UnrollVersusImplicit
from bestresponse.apps.experiments.jacnet.abs import JacNetAbs
from bestresponse.apps.experiments.jacnet.conservation import JacNetConservation
from bestresponse.apps.experiments.jacnet.exp import JacNetExp
from bestresponse.apps.experiments.jacnet.invertible import JacNetInvertible
from bestresponse.apps.experiments.jacnet.kronecker import JacNetKronecker
from bestresponse.apps.experiments.language import Language
from bestresponse.apps.experiments.overfit import Overfit
from bestresponse.apps.experiments.split import ValidationShare
from bestresponse.apps.experiments.stn.cnn import SelfTuningCNN
from bestresponse.apps.experiments.stn.language import SelfTuningLanguage
from bestresponse.apps.experiments.stn.mlp import SelfTuningMLP
from bestresponse.apps.experiments.stn.regression import SelfTuningRegression

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
    SelfTuningMLP,
    SelfTuningLanguage,
    SelfTuningCNN,
    HypernetGlobal,
    HypernetLocal,
    HypernetLarge,
    HypernetDepth,
    HypernetClasses,
    HypernetPredict,
)
