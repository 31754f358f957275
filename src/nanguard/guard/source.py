"""Which lines are the user's own, and which belong to libraries."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from types import CodeType, FrameType

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths["stdlib"], paths["platstdlib"], paths["purelib"], paths["platlib"], *site.getsitepackages()}
    user = site.getusersitepackages()
    folders.add(user)
    return tuple(os.path.join(os.path.abspath(folder), "") for folder in folders)


_LIBRARIES = _library_folders()
_SITE = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
_known: dict[str, bool] = {}


def is_users(filename: str) -> bool:
    """Whether a file holds the user's own code: not nanguard, the standard library or an installed package.

    The folder of the script that runs is the user's even below a folder of installed packages.
    """
    known = _known.get(filename)
    if known is None:
        known = _known[filename] = _is_users(filename)
    return known


def _is_users(filename: str) -> bool:
    if filename.startswith("<") and not filename.startswith("<ipython"):
        return filename in ("<stdin>", "<string>")
    path = os.path.abspath(filename)
    if path.startswith(_PACKAGE):
        return False
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    if main and os.path.abspath(main) == path:
        return True
    if any(part in path for part in _SITE) or "__autograph_generated_file" in path:
        return False
    return not path.startswith(_LIBRARIES)


_users_code: dict[CodeType, bool] = {}


def place(frame: FrameType | None) -> tuple[CodeType, int] | None:
    """The innermost place of the user's on a stack of live frames, as code object and line."""
    while frame is not None:
        code = frame.f_code
        known = _users_code.get(code)
        if known is None:
            known = _users_code[code] = is_users(code.co_filename)
        if known:
            return code, frame.f_lineno
        frame = frame.f_back
    return None


def stack(frame: FrameType | None) -> list[tuple[str, int, str]]:
    """A stack of live frames, outermost first, as file, line and function."""
    lines = []
    while frame is not None:
        lines.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return lines[::-1]
