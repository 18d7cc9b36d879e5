"""`check`: the chosen method beside exact solves, unrolling, and retraining."""

from __future__ import annotations

from collections.abc import Callable

from bestresponse._errors import InputError
from bestresponse._nested import Nested, next_problem
from bestresponse._problem import Batches
from bestresponse._purify import Batch
from bestresponse.diagnostics._examination import Examination, Settings
from bestresponse.diagnostics._randomness import other_streams_kept
from bestresponse.diagnostics._report import Check
from bestresponse.diagnostics._shrink import shrunk


def check(
    nested: Nested,
    inner_batch: Batch | Batches = (),
    outer_batch: Batch = (),
    *,
    rows: int | None = None,
    keep: Callable[[str], bool] | None = None,
    settle: bool | None = None,
    directions: int = 3,
    limit: int = 3000,
    seconds: float = 60.0,
    tolerance: float = 0.05,
    seed: int = 0,
) -> Check:
    """Whether the method of `nested` gives the right hypergradient on this problem, and why not.

    It is compared with exact solves at the same weights (with the same curvature and damping, with
    the Hessian, without damping, at the minimum nearby: so that the error falls into its parts),
    with unrolled gradient descent, and with the truth: central differences of the outer loss
    through *retraining*, that is, solving the inner problem again at λ ± ε along some directions.
    References are computed in float64 wherever the closures can be run in it.

    Nothing of the user's changes, `nested` included: the check is of the next call, with the
    randomness that it will draw.

    Args:
        nested: the problem, with the method to be checked.
        inner_batch: as for a call.
        outer_batch: as for a call.
        rows: shrink the problem to the first so many rows of its batches: of every tensor that is
            as long as the first one of its batch.
        keep: shrink the problem to the parameters whose names satisfy this; the others, and the
            hyperparameters that then decide nothing, are held where they are.
        settle: check at the minimum near the live weights instead of at the weights themselves;
            None does so if `rows` is given, since no weights were trained on so few.
        directions: random directions of retraining, beside those of the hypergradients at hand.
        limit: weights above which a dense solve gives way to one by conjugate gradients.
        seconds: about how long it may take; what there was no time for is said in the table.
        tolerance: relative error up to which the check is passed.
        seed: of the random directions.

    Returns:
        A table of references that ends in one sentence; `.ok` says whether the method agrees with
        retraining.

    Raises:
        InputError: for settings, closures or batches that cannot be used.

    Example:
        >>> import torch, bestresponse as br
        >>> model, target = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
        >>> _ = model.weight.data.fill_(1.0), target.weight.data.fill_(2.0)
        >>> x = torch.ones(1, 1)
        >>> nested = br.Nested(  # ½(2w − λ)² has the Hessian 4
        ...     params=model, hyper=target,
        ...     inner=lambda: 0.5 * (2 * model(x) - target(x)).square().sum(),
        ...     outer=lambda: model(x).square().sum(),
        ...     method=br.Implicit(br.Scale(1.0)),
        ... )
        >>> found = br.check(nested)
        >>> found.ok, found.cause.name, round(found.error, 3)
        (False, 'solver', 3.0)
        >>> nested.method = br.Implicit(br.Scale(0.25))
        >>> br.check(nested).ok
        True
    """
    for name, value in (("rows", rows), ("directions", directions)):
        if value is not None and value < 1:
            raise InputError(f"{name}={value} is too few; use 1 or more.")
    for name, number in (("seconds", seconds), ("tolerance", tolerance)):
        if not number > 0:
            raise InputError(f"{name}={number} is not positive; use {_USUAL[name]}, say.")
    settings = Settings(
        settle=rows is not None if settle is None else settle,
        directions=directions,
        limit=limit,
        seconds=seconds,
        tolerance=tolerance,
        seed=seed,
    )
    with other_streams_kept(), next_problem(nested, inner_batch, outer_batch) as problem:
        return Examination(nested.method, shrunk(problem, rows, keep), settings).result()


_USUAL = {"seconds": 60, "tolerance": 0.05}
