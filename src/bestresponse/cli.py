"""`bestresponse VERB --flag VALUE`: flags, help and defaults come from the settings dataclasses."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Annotated, Any

_NEEDS_APPS = (
    "The command line needs more packages than the library; install them with: "
    "pip install 'bestresponse[apps]'"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code.

    0 is success, 1 a run that ended in an error `Result`, 2 bad input, 128 + n a run that was
    stopped by signal n after it wrote a checkpoint.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        import tyro
        from rich.console import Console
    except ImportError:
        print(_NEEDS_APPS, file=sys.stderr)
        return 2
    if arguments in (["--version"], ["-V"]):
        return _version()
    from bestresponse import SolveError
    from bestresponse._errors import InputError
    from bestresponse.apps._interrupt import Interrupted

    errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    try:
        command = tyro.cli(
            _commands(), args=arguments or ["--help"], prog="bestresponse",
            description="Nested optimization for PyTorch.",
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )  # fmt: skip
        if hasattr(command, "check"):
            command.check(_given(command, arguments))
        command.run()
    except InputError as error:
        errors.print(f"bestresponse: {error}")
        return 2
    except SolveError as error:
        errors.print(f"bestresponse: {error.result.name}: {error}")
        return 1
    except Interrupted as stop:
        errors.print(f"bestresponse: {stop}")
        return 128 + stop.signal_number
    return 0


def _commands() -> Any:
    import tyro

    from bestresponse.apps.listing import List
    from bestresponse.apps.tune import Tune

    return (
        Annotated[Tune, tyro.conf.subcommand("tune")]
        | Annotated[List, tyro.conf.subcommand("list")]
    )


def _given(command: Any, arguments: Sequence[str]) -> set[str]:
    """The fields whose flags stand on the command line."""
    flags = {argument.split("=", 1)[0].replace("_", "-") for argument in arguments}
    names = {field.name for field in dataclasses.fields(command)}
    return {name for name in names if "--" + name.replace("_", "-") in flags}


def _version() -> int:
    import torch

    import bestresponse

    print(f"bestresponse {bestresponse.__version__} (torch {torch.__version__})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
