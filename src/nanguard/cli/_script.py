"""Running somebody's script in this process, so that it sees what it would see under plain `python`."""

from __future__ import annotations

import builtins
import contextlib
import difflib
import io
import os
import pkgutil
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader, SourcelessFileLoader
from types import CodeType, ModuleType, TracebackType

from nanguard.errors import UsageError

INTERRUPTED = 130
_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")


@dataclass(frozen=True)
class Target:
    """What to run.

    Args:
        name: Path of a script, or of a folder or zip file with a `__main__.py`; or the name of a module.
        args: Arguments for it.
        as_module: Whether `name` is a module's.
    """

    name: str
    args: tuple[str, ...] = ()
    as_module: bool = False


@dataclass(frozen=True)
class Ending:
    """How a script ended.

    Args:
        code: The exit code that it asked for, as a shell sees it.
        error: The exception that ended it, unless it was `sys.exit`.
    """

    code: int
    error: BaseException | None = None


def check(target: Target) -> None:
    """Makes sure that there is something to run, as far as can be told without running it.

    Raises:
        UsageError: If there is not.
    """
    if target.as_module:
        return
    path = target.name
    if not os.path.exists(path):
        raise UsageError(f"there is no script {path}.{_nearest(path)}")
    if os.path.isdir(path):
        if not any(os.path.exists(os.path.join(path, name)) for name in ("__main__.py", "__main__.pyc")):
            raise UsageError(f"{path} is a folder without a __main__.py. Give the script itself: {path}/SCRIPT.")
    else:
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}.") from error


def _nearest(path: str) -> str:
    folder, name = os.path.split(path)
    try:
        names = os.listdir(folder or os.curdir)
    except OSError:
        return ""
    near = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {os.path.join(folder, near[0])}?" if near else ""


def execute(target: Target, *, is_stopped: Callable[[], bool] = lambda: False) -> Ending:
    """Runs the target as `__main__` and shows an exception that ends it as `python` does, without our frames.

    Args:
        target: What to run.
        is_stopped: Asked after the script has ended by Ctrl-C: whether it was we who did that.

    Returns:
        How it ended.

    Raises:
        UsageError: If there is no such module, or nothing to run in it.
    """
    main = _fresh_main()
    try:
        if target.as_module:
            _set_argv("-m", target.args)
            _set_path(os.getcwd(), replaces=True)
            _run_as_main(target.name, alter_argv=True)
        elif pkgutil.get_importer(target.name) is not None:
            _set_argv(target.name, target.args)
            _set_path(os.path.join(os.getcwd(), target.name), replaces=not _is_safe_path())
            _run_as_main("__main__", alter_argv=False)
        else:
            _set_argv(target.name, target.args)
            _set_path(os.path.dirname(os.path.realpath(target.name)), replaces=True)
            exec(_load(target.name, main), main.__dict__)
    except SystemExit as error:
        return Ending(_exit_code(error))
    except UsageError:
        raise
    except BaseException as error:
        code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
        if code != INTERRUPTED or not is_stopped():
            _show(error)
        return Ending(code, error)
    return Ending(0)


def _fresh_main() -> ModuleType:
    """Puts an empty `__main__` in the place of ours, where `pickle` and `multiprocessing` look for the script."""
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    if sys.version_info < (3, 14):
        main.__annotations__ = {}
    sys.modules["__main__"] = main
    return main


def _set_argv(first: str, args: tuple[str, ...]) -> None:
    sys.argv[:] = [first, *args]


def _set_path(folder: str, *, replaces: bool) -> None:
    """Puts `folder` first on the module search path, where Python had put the folder of our own command."""
    if not replaces:
        sys.path.insert(0, folder)
    elif not _is_safe_path():
        sys.path[0] = folder


def _is_safe_path() -> bool:
    return bool(getattr(sys.flags, "safe_path", False) or sys.flags.isolated)


def _load(path: str, main: ModuleType) -> CodeType:
    # Since 3.9 Python makes the main script's path absolute, and leaves it as it is otherwise.
    full = os.path.join(os.getcwd(), path)
    loader_type = SourcelessFileLoader if path.endswith(".pyc") else SourceFileLoader
    loader = loader_type("__main__", full)
    main.__dict__.update(__file__=full, __loader__=loader, __package__=None, __spec__=None, __cached__=None)
    if isinstance(loader, SourcelessFileLoader):
        code = loader.get_code("__main__")
        if code is None:
            raise UsageError(f"{path} holds no code.")
        return code
    with io.open_code(full) as stream:
        return compile(stream.read(), full, "exec", dont_inherit=True)


def _run_as_main(name: str, *, alter_argv: bool) -> None:
    try:
        # What the interpreter itself calls for `-m` and for a folder; so the traceback is the same too.
        runpy._run_module_as_main(name, alter_argv)  # type: ignore[attr-defined]
    except SystemExit as error:
        cause = error.__context__
        if type(cause).__module__ == "runpy":  # its own error, told apart from an exit of the script
            raise UsageError(f"{cause}.") from cause
        raise


def _exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    print(error.code, file=sys.stderr)
    return 1


def _show(error: BaseException) -> None:
    _hide_own_frames(error, set())
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    sys.excepthook(type(error), error, error.__traceback__)


def _hide_own_frames(error: BaseException | None, seen: set[int]) -> None:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    error.__traceback__ = _without_own_frames(error.__traceback__)
    _hide_own_frames(error.__cause__, seen)
    _hide_own_frames(error.__context__, seen)
    for part in getattr(error, "exceptions", ()):
        if isinstance(part, BaseException):
            _hide_own_frames(part, seen)


def _without_own_frames(trace: TracebackType | None) -> TracebackType | None:
    kept = []
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(_PACKAGE):
            kept.append(trace)
        trace = trace.tb_next
    for here, following in zip(kept, [*kept[1:], None], strict=False):
        here.tb_next = following
    return kept[0] if kept else None
