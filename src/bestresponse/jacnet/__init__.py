"""Functions learned by their Jacobian: integration, structures with guarantees, inverses."""

from bestresponse.jacnet._antiderivative import Cells, Knots, Table
from bestresponse.jacnet._bilipschitz import BiLipschitz
from bestresponse.jacnet._certificate import Certificate, Sampled, search
from bestresponse.jacnet._compose import Compose
from bestresponse.jacnet._conditioned import Conditioned
from bestresponse.jacnet._convex_gradient import ConvexGradient
from bestresponse.jacnet._fields import (
    CauchyRiemann,
    DefinitePlusSkew,
    Exponential,
    FieldActivation,
    Free,
    Gram,
    KroneckerProduct,
    LowerUpper,
    SpectralCap,
    Tanh,
)
from bestresponse.jacnet._holomorphic import Holomorphic
from bestresponse.jacnet._integral1d import Lipschitz1d, Monotone1d
from bestresponse.jacnet._line_integral import line_integral
from bestresponse.jacnet._linear import KroneckerLinear, Permutation, Rotation
from bestresponse.jacnet._path_integral import Annealing, PathIntegral
from bestresponse.jacnet._paths import AXES, STRAIGHT, Path
from bestresponse.jacnet._potential import Potential
from bestresponse.jacnet._potentials import ConvexPotential, InputConvex, LogSumExp, Ridge
from bestresponse.jacnet._quadrature import (
    ClenshawCurtis,
    GaussKronrod,
    GaussLegendre,
    Integral,
    Rule,
)
from bestresponse.jacnet._slopes import Exp, Interval, Slope, Softplus, Square
from bestresponse.jacnet._structure import Conservativity, Structure
from bestresponse.jacnet._triangular import Triangular

__all__ = [
    "AXES",
    "STRAIGHT",
    "Annealing",
    "BiLipschitz",
    "CauchyRiemann",
    "Cells",
    "Certificate",
    "ClenshawCurtis",
    "Compose",
    "Conditioned",
    "Conservativity",
    "ConvexGradient",
    "ConvexPotential",
    "DefinitePlusSkew",
    "Exp",
    "Exponential",
    "FieldActivation",
    "Free",
    "GaussKronrod",
    "GaussLegendre",
    "Gram",
    "Holomorphic",
    "InputConvex",
    "Integral",
    "Interval",
    "Knots",
    "KroneckerLinear",
    "KroneckerProduct",
    "Lipschitz1d",
    "LogSumExp",
    "LowerUpper",
    "Monotone1d",
    "Path",
    "PathIntegral",
    "Permutation",
    "Potential",
    "Ridge",
    "Rotation",
    "Rule",
    "Sampled",
    "Slope",
    "Softplus",
    "SpectralCap",
    "Square",
    "Structure",
    "Table",
    "Tanh",
    "Triangular",
    "line_integral",
    "search",
]
