"""`bestresponse VERB --flag VALUE`: flags, help and defaults come from the settings dataclasses."""

from __future__ import annotations

import dataclasses
import functools
import io
import operator
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from itertools import dropwhile, takewhile
from typing import Annotated, Any

_NEEDS_APPS = (
    "The command line needs more packages than the library; install them with: "
    "pip install 'bestresponse[apps]'"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code.

    0 is success, 1 a run that ended in an error `Result` or a check that was not passed, 2 bad
    input, 128 + n a run that was stopped by signal n after it wrote a checkpoint.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without × must not end a run
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        import tyro  # noqa: F401
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
        command = _parsed(arguments)
        if hasattr(command, "check"):
            command.check(_given(command, arguments))
        ended = command.run()
    except InputError as error:
        errors.print(f"bestresponse: {error}")
        return 2
    except SolveError as error:
        errors.print(f"bestresponse: {error.result.name}: {error}")
        return 1
    except KeyboardInterrupt:
        errors.print("bestresponse: Stopped; the last checkpoint, if there is one, is kept.")
        return 130
    except Interrupted as stop:
        errors.print(f"bestresponse: {stop}")
        return 128 + stop.signal_number
    return 0 if getattr(ended, "ok", True) else 1


def _parsed(arguments: Sequence[str]) -> Any:
    """The settings that the arguments spell; a mistake in them is bad input like any other."""
    import tyro

    from bestresponse._errors import InputError

    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(
                _commands(), args=arguments or ["--help"], prog="bestresponse",
                description="Nested optimization for PyTorch. (--version tells the version.)",
                config=(
                    tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes,
                    tyro.conf.FlagCreatePairsOff,
                ),
            )  # fmt: skip
    except SystemExit as stop:
        if not stop.code:
            raise
        command = _understood(arguments)
        raise InputError(f"{_first_line(said.getvalue())}; see {command} --help.") from None


def _understood(arguments: Sequence[str]) -> str:
    """The command as far as it is one, whose help is worth reading."""
    from bestresponse.apps.experiments import EXPERIMENTS

    verbs: dict[str, tuple[str, ...]] = {
        "tune": (), "check": (), "distill": (), "list": (), "jacnet": ("fit", "predict"),
        "experiment": tuple(each.verb for each in EXPERIMENTS),
    }  # fmt: skip
    words = [word for word in arguments if not word.startswith("-")]
    if not words or words[0] not in verbs:
        return "bestresponse"
    return " ".join(["bestresponse", words[0], *(w for w in words[1:2] if w in verbs[words[0]])])


def _first_line(box: str) -> str:
    """The first sentence in the parser's framed message."""
    # with or without a frame: a title, rules or blank lines, then the message
    lines = [line.strip("│╭╮╰╯─-+| ") for line in box.splitlines()]
    after_title = dropwhile(lambda line: not line, lines[1:])
    text = " ".join(takewhile(bool, after_title))
    return text.rstrip(".:; ") or "The arguments are not understood"


def _commands() -> Any:
    import tyro

    from bestresponse.apps.check import Check
    from bestresponse.apps.distill import Distill
    from bestresponse.apps.experiments import EXPERIMENTS
    from bestresponse.apps.jacnet import JacNetFit, JacNetPredict
    from bestresponse.apps.listing import List
    from bestresponse.apps.tune import Tune

    experiments: Any = functools.reduce(
        operator.or_,
        (Annotated[each, tyro.conf.subcommand(each.verb)] for each in EXPERIMENTS),
    )
    jacnet: Any = (
        Annotated[JacNetFit, tyro.conf.subcommand("fit")]
        | Annotated[JacNetPredict, tyro.conf.subcommand("predict")]
    )
    learned = "Functions learned by their Jacobian, from columns of a CSV file."
    words = "Reproduce what the papers show, each with its figures in a run folder."
    return (
        Annotated[Tune, tyro.conf.subcommand("tune")]
        | Annotated[Check, tyro.conf.subcommand("check")]
        | Annotated[Distill, tyro.conf.subcommand("distill")]
        | Annotated[experiments, tyro.conf.subcommand("experiment", description=words)]
        | Annotated[jacnet, tyro.conf.subcommand("jacnet", description=learned)]
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
