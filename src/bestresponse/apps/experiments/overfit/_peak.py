"""Peak memory of a training, for a process that does nothing else."""

from __future__ import annotations

import gc

import torch

import bestresponse as br
from bestresponse.apps._examples import Examples
from bestresponse.apps._training import Training
from bestresponse.apps.experiments.overfit._run import RECIPES, Pace, Roles, plain, tuned
from bestresponse.data import Dataset, Split


def peak_of(model: str, kind: str, shape: tuple[int, ...], classes: int, images: int) -> int | None:
    """Bytes from before the network is made to after its second hyperparameter step."""
    roles = _noise(shape, classes, images)
    _run(model, kind, roles)  # kernels are loaded
    gc.collect()
    memory = br.diagnostics.PeakMemory()
    _run(model, kind, roles)
    return memory.read()


def _run(model: str, kind: str, roles: Roles) -> None:
    recipe = RECIPES[model]
    training: Training = (
        plain(recipe, roles, 0)
        if kind == "plain"
        else tuned(recipe, roles, Pace(interval=2, lr=0.1, most=4), 0)[0]
    )
    training.step = recipe.warmup
    training.advance(training.step + 4, lambda: True)


def _noise(shape: tuple[int, ...], classes: int, images: int) -> Roles:
    """Random images: what a network takes does not depend on what it sees."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(2 * images)
    data = Dataset(
        torch.randint(256, (len(rows), *shape), generator=generator, dtype=torch.uint8),
        rows % classes,
        tuple(str(k) for k in range(classes)),
        "noise",
        "Random images.",
    )
    train, validation = (
        Examples(Split(data, part), data.labels[part], torch.device("cpu"))
        for part in rows.split(images)
    )
    return Roles(train, validation, validation, shape, classes)
