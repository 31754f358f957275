"""The command line: which command, with which arguments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nanguard import __version__
from nanguard.cli import _data
from nanguard.errors import UsageError

if TYPE_CHECKING:
    from nanguard.cli._run import Instruments

_RUN = """\
Runs a script under watch, as `python` would run it. When a loss, a gradient, a weight or a piece of state stops
being finite, it stops the script, replays that one step, and prints where the number was born, from which rows,
why, and what cures it. Everything after SCRIPT or MODULE goes to the script.
"""
_RUN_EPILOG = """\
The exit code is 0 if all was finite, 1 if an incident was found, 2 if the script could not be run, and the
script's own if it ended with another by itself.
"""
_REPLAY = """\
Runs a captured step again, here: without the script, its data or the model's code. Prints what `nanguard run` printed
of it. A capture may come from a stranger: nothing in it is unpickled, and one with an op that may reach files,
processes, the network or Python is refused.
"""
_REPLAY_EPILOG = """\
The exit code is 1 if an incident was found, 0 if the step is an ordinary one, and 2 if the capture cannot be replayed.
"""
_EXPLAIN = "Says of a hazard what it is, why it bites and how to cure it. Without a name, lists all."


def main(argv: Sequence[str] | None = None, *, instruments: Instruments | None = None) -> int:
    """Runs the command.

    Args:
        argv: The arguments after the command's name. Defaults to those that the process was started with.
        instruments: What `run` is to watch and replay with. Defaults to the guard and the replay.

    Returns:
        The exit code.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser, run_parser = _parsers()
    try:
        if argv[:1] == ["run"]:
            own, rest = _split(argv[1:])
            options = run_parser.parse_args(own)
            if options.module is None and options.script is None:
                run_parser.error("a SCRIPT or -m MODULE is needed")
            from nanguard.cli._run import Target, run

            target = Target(options.module or options.script, tuple(rest), as_module=options.module is not None)
            return run(
                target,
                json_path=options.json,
                capture_path=options.capture,
                force=options.force,
                instruments=instruments,
            )
        options = parser.parse_args(argv)
        if options.command in ("scan", "clean"):
            from nanguard.cli import _scan

            command = _scan.scan if options.command == "scan" else _scan.clean
            return command(options)
        if options.command == "replay":
            from nanguard.cli._replay import replay

            return replay(options.capture, json_path=options.json, force=options.force)
        from nanguard.cli._explain import explain

        return explain(options.hazard)
    except UsageError as error:
        print(f"nanguard: error: {error}", file=sys.stderr)
        return 2


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(
        prog="nanguard", description="Finds where a TensorFlow or Keras training turned NaN, and why."
    )
    parser.add_argument("--version", action="version", version=f"nanguard {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    run = commands.add_parser(
        "run",
        help="train under watch; explain the first NaN or Inf",
        description=_RUN,
        epilog=_RUN_EPILOG,
        usage="nanguard run [--json FILE] [--capture FILE] [--force] (SCRIPT | -m MODULE) [ARGUMENT ...]",
        allow_abbrev=False,
    )
    run.add_argument("--json", metavar="FILE", help="write the report to FILE as JSON")
    run.add_argument("--capture", metavar="FILE", help="write the failed step to FILE, for `nanguard replay`")
    run.add_argument("--force", action="store_true", help="overwrite a FILE that exists")
    run.add_argument("-m", dest="module", metavar="MODULE", help="run a module, as `python -m` does")
    run.add_argument("script", nargs="?", metavar="SCRIPT", help="a script, or a folder or zip file with a __main__.py")
    replay = commands.add_parser(
        "replay",
        help="run a captured step again",
        description=_REPLAY,
        epilog=_REPLAY_EPILOG,
        usage="nanguard replay [--json FILE] [--force] CAPTURE",
        allow_abbrev=False,
    )
    replay.add_argument("--json", metavar="FILE", help="write the report to FILE as JSON")
    replay.add_argument("--force", action="store_true", help="overwrite a FILE that exists")
    replay.add_argument("capture", metavar="CAPTURE", help="a file that `nanguard run --capture` or the guard wrote")
    _data.add_parsers(commands)
    explain = commands.add_parser(
        "explain", help="what a hazard is, why it bites, how to cure it", description=_EXPLAIN, allow_abbrev=False
    )
    explain.add_argument("hazard", nargs="?", metavar="HAZARD", help="code or name, such as NG101")
    return parser, run


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Parts our own arguments, up to the script or module, from the script's, which may look like ours."""
    own = 0
    while own < len(arguments):
        argument = arguments[own]
        if argument in ("-m", "--"):
            own += 2
            break
        if argument.startswith("-m") or not argument.startswith("-"):
            own += 1
            break
        own += 2 if argument in ("--json", "--capture") else 1
    return list(arguments[:own]), list(arguments[own:])
