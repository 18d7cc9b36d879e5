"""`bestresponse experiment hessian-picture`: what the approximate inverses look like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

import bestresponse as br
from bestresponse._errors import InputError
from bestresponse.apps import _options
from bestresponse.apps.experiments._experiment import Experiment, Findings, Pulse
from bestresponse.apps.experiments.inverse._accuracy_problems import AccuracyProblem, logistic
from bestresponse.apps.experiments.inverse._explicit import softmax_hessian
from bestresponse.apps.experiments.inverse._hessian_report import Picture, sections
from bestresponse.operators import LinearOperator
from bestresponse.solvers import DirectSolver

_SIDE = 512  # pixels of a picture, about
_SECONDS_OF_EIGH = 1.3 / 2000**3  # for each entry, cubed: to say how long one waits


@dataclass(frozen=True)
class HessianPicture(Experiment):
    """The inner Hessian of logistic regression, its inverse, and what is taken for the inverse.

    KFAC's inverse and the Neumann series with several numbers of products, as pictures (largest
    magnitude of each square of entries, clipped) and as distances. On MNIST the matrices are
    7,850 × 7,850, half a gigabyte each; the whole takes five to ten minutes and 4 gigabytes.
    """

    data: str = "digits"
    """Labelled data: `digits` (bundled), or a file or folder as in `bestresponse tune`."""
    rows: int = 1000
    """Training examples; the next half as many are the validation examples."""
    decay: float = 1e-3
    """The decays are drawn around this value, one for each weight."""
    products: tuple[int, ...] = (1, 20, 400)
    """Products of the Neumann series, with a step size of 1 / (largest eigenvalue)."""
    seed: int = 0
    """Of the decays."""

    verb: ClassVar[str] = "hessian-picture"
    title: ClassVar[str] = "The inverse Hessian and its stand-ins"

    def check(self, given: set[str] | None = None) -> None:
        """Refuse numbers that make no sense."""
        _options.check_positive(self, "rows", "decay")
        _options.check_not_negative(self, "seed")
        if not self.products or min(self.products) < 0:
            raise InputError("--products needs one or more numbers from 0 on.")

    @property
    def steps(self) -> int:
        """Fit, Hessian, eigenvalues, inverse, two of KFAC, the series and the identity."""
        return 7 + len(self.products)

    def measure(self, pulse: Pulse) -> Findings:
        """One matrix after the other, so that few are in memory at once."""
        problem = logistic(
            self.data, self.seed, self.rows, self.rows // 2, self.decay, say=pulse.say
        ).in_double()
        pulse.step("fitted")
        spectrum = _Spectrum.of(problem, pulse)
        pictures = []
        for name, matrix, response in self._matrices(problem, spectrum, pulse):
            pictures.append(spectrum.judged(name, matrix, response))
            pulse.step(name)
        headline: dict[str, float | None] = {
            f"{_key(picture.name)}_{figure}": getattr(picture, figure)
            for picture in pictures[1:]
            for figure in ("distance", "cosine")
        }
        condition = float(spectrum.values[-1] / spectrum.values[0])
        headline["condition_number"] = condition
        best = min(pictures[1:], key=lambda picture: picture.distance)
        verdict = (
            f"Nearest to the inverse of the {len(spectrum.values):,} × {len(spectrum.values):,} "
            f"Hessian is {best.name}, at a relative distance of {best.distance:.2f}; its condition "
            f"number is {condition:,.0f}."
        )
        curves: dict[str, Any] = {
            "eigenvalues": spectrum.values.tolist(),
            "response": {picture.name: picture.response.tolist() for picture in pictures},
        }
        body = sections(spectrum.hessian, spectrum.values, pictures)
        return Findings(verdict, headline, body, curves)

    def _matrices(
        self, problem: AccuracyProblem, spectrum: _Spectrum, pulse: Pulse
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """The inverse first, then what stands for it; each with its vᵀMv, where v are those of A.

        All but KFAC have the eigenvectors of A.
        """
        inverse, lr = 1 / spectrum.values, 1 / spectrum.values[-1]
        yield "inverse", spectrum.function(inverse), inverse
        exact = br.KFAC(damping=1e-9, rows=self.rows, draws=None, rank=None)
        for name, solver in (("KFAC, exact factors", exact), ("KFAC", br.KFAC())):
            pulse.say(name)
            matrix = _matrix_of(solver, problem)
            yield name, matrix, spectrum.along(matrix)
        for count in self.products:
            name = f"Neumann, {count} product{'' if count == 1 else 's'}"
            pulse.say(name)
            response = inverse * (1 - (1 - lr * spectrum.values) ** (count + 1))
            yield name, spectrum.function(response), response
        yield "identity", torch.diag(lr.expand_as(inverse)), lr.expand_as(inverse)


@dataclass(frozen=True)
class _Spectrum:
    """The Hessian by its eigenvectors, and what it is needed for.

    Attributes:
        values: eigenvalues, ascending.
        vectors: one a column.
        hessian: as a picture.
        problem: in float64.
    """

    values: Tensor
    vectors: Tensor
    hessian: Tensor
    problem: AccuracyProblem

    @classmethod
    def of(cls, problem: AccuracyProblem, pulse: Pulse) -> _Spectrum:
        """From explicit formulas."""
        point = problem.point
        network = problem.objective(point.log_decays).at(point.weights)
        matrix = softmax_hessian(network, point.log_decays.exp(), pulse.say)
        pulse.step("Hessian")
        size = len(matrix)
        seconds = _SECONDS_OF_EIGH * size**3
        pulse.say(f"eigenvalues of {size:,} × {size:,} entries, about {seconds:.0f} s")
        picture = _picture(matrix)
        values, vectors = torch.linalg.eigh(matrix)
        pulse.step("eigenvalues")
        return cls(values, vectors, picture, problem)

    def function(self, values: Tensor) -> Tensor:
        """The matrix with the same eigenvectors and other eigenvalues."""
        return (self.vectors * values) @ self.vectors.T

    def along(self, matrix: Tensor) -> Tensor:
        """vᵀMv for each eigenvector."""
        return ((matrix @ self.vectors) * self.vectors).sum(0)

    def judged(self, name: str, matrix: Tensor, response: Tensor) -> Picture:
        """How far a matrix is from the inverse."""
        # ‖M − A⁻¹‖² = ‖M‖² − 2⟨M, A⁻¹⟩ + ‖A⁻¹‖², and ⟨M, A⁻¹⟩ needs the diagonal VᵀMV only
        inner, norm = float(response @ (1 / self.values)), float((1 / self.values).norm())
        own = float(matrix.norm())
        square = own**2 - 2 * inner + norm**2
        return Picture(
            name=name,
            image=_picture(matrix),
            response=response,
            distance=max(square, 0.0) ** 0.5 / norm,
            cosine=inner / (own * norm),
            hypergradient_cosine=self._hypergradient_cosine(matrix),
        )

    def _hypergradient_cosine(self, matrix: Tensor) -> float:
        point = self.problem.point
        found = matrix @ self.problem.outer_gradient(point.weights)
        scale = point.log_decays.exp() * point.weights
        return float(F.cosine_similarity(scale * found, scale * point.solution, dim=0))


@dataclass(frozen=True)
class _Look(DirectSolver):
    """Keeps the matrix of another solver's inverse instead of solving."""

    solver: br.KFAC
    kept: list[Tensor] = field(default_factory=list)

    def solve(
        self, operator: LinearOperator, vector: Tensor
    ) -> tuple[Tensor, br.Result, Tensor | None]:
        """The right-hand side as it is; the matrix is what counts."""
        inverse = self.solver.inverse(self.solver.build(operator), operator)
        self.kept.append(inverse.as_matrix())
        return vector, br.Result.success, None


def _matrix_of(solver: br.KFAC, problem: AccuracyProblem) -> Tensor:
    """A preconditioner's approximate inverse, (n, n), in the order of the model's parameters."""
    look = _Look(solver)
    method = br.Implicit(look, curvature=problem.gauss_newton())
    problem.nested(method)(problem.inner_batch, problem.outer_batch)
    return look.kept[0]


def _picture(matrix: Tensor) -> Tensor:
    """Magnitudes, the largest of each square of entries."""
    side = -(-len(matrix) // _SIDE)
    return F.max_pool2d(matrix.abs()[None], side, ceil_mode=True)[0].float()


def _key(name: str) -> str:
    return name.lower().replace(",", "").replace(" ", "_")
