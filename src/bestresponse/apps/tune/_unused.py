"""Which settings of `bestresponse tune` have no effect beside the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bestresponse.apps.tune._groups import GROUPS

if TYPE_CHECKING:
    from bestresponse.apps.tune._settings import TuneSettings

_NETWORK = ("augment_depth", "augment_width", "augment_regularizer")
_SOLVER = ("solver", "solver_steps", "solver_lr", "damping")
_IMPLICIT = (*_SOLVER, "unroll_steps", "interval", "inner_batch", "patience")
_SELF_TUNING = ("centred", "augment", "sigma", "entropy", "train_steps", "valid_steps", "grid")


def unused(settings: TuneSettings) -> dict[str, str]:
    """Fields that have no effect, with the reason."""
    idle: dict[str, str] = {}
    for name, group in GROUPS.items():
        if name not in settings.groups:
            idle |= dict.fromkeys(group.settings, f"{name} is not tuned")
    if settings.method == "self-tuning":
        return _beside_self_tuning(settings) | idle
    if settings.augmentation == "transforms":
        reason = "--augmentation transforms has no such setting"
        idle |= {name: idle.get(name, reason) for name in _NETWORK}
    idle |= dict.fromkeys(_SELF_TUNING, f"--method {settings.method} learns no response")
    return idle | _beside_solver(settings)


def _beside_self_tuning(settings: TuneSettings) -> dict[str, str]:
    idle = dict.fromkeys(_IMPLICIT, "--method self-tuning takes no hypergradient")
    idle |= dict.fromkeys(
        ("decay_per", "dropout_per"), "--method self-tuning has one for the model or layer"
    )
    idle |= dict.fromkeys(("augmentation", *_NETWORK), "--method self-tuning has --augment")
    if "augment" not in settings.groups:
        idle["augment"] = "augment is not tuned"
    return idle


def _beside_solver(settings: TuneSettings) -> dict[str, str]:
    if settings.method == "unroll":
        return dict.fromkeys(_SOLVER, "--method unroll solves no linear system")
    idle = {"unroll_steps": f"--method {settings.method} unrolls nothing"}
    reason = f"--solver {settings.solver} has no such setting"
    if settings.solver in ("scale", "dense"):
        idle["solver_steps"] = reason
    if settings.solver in ("cg", "dense"):
        idle["solver_lr"] = reason
    if settings.solver == "scale":
        idle["damping"] = reason
    return idle
