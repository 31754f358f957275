"""Writing a report to a file, so that a reader finds either the old file or the whole new one."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from typing import Any, Protocol

from nanguard.errors import UsageError


class HasJson(Protocol):
    """A report of any kind."""

    def to_json(self) -> dict[str, Any]:
        """All of it in plain values."""


def check_target(path: str, *, force: bool = False, what: str = "the report") -> None:
    """Makes sure, before the long run, that the report can be written after it.

    Args:
        path: Where the report is to go.
        force: Whether a file that is there already may be overwritten.
        what: What is to be written, for messages.

    Raises:
        UsageError: If there is a file and `force` is False, if `path` is a folder, or if nothing can be written there.
    """
    if os.path.isdir(path):
        raise UsageError(f"{what} cannot be written to {path}: it is a folder. Give a file, such as report.json.")
    if not _is_ordinary(path):
        return
    if os.path.lexists(path) and not force:
        raise UsageError(f"{path} exists. To overwrite it, add --force.")
    trial = _beside(os.path.realpath(path))
    try:
        with open(trial, "x", encoding="utf-8"):
            pass
        os.unlink(trial)
    except OSError as error:
        raise UsageError(f"{what} cannot be written to {path}: {error.strerror}.") from error


def write(report: HasJson, path: str) -> None:
    """Writes a report as JSON, by way of a file beside it that then takes its name.

    Args:
        report: What to write.
        path: Where to; what is there is overwritten.

    Raises:
        OSError: If it cannot be written. A file that was there is then still whole.
    """
    document = json.dumps(report.to_json(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    # A name that was given in bytes that are not UTF-8 comes as lone surrogates, which UTF-8 cannot say.
    content = document.encode("utf-8", "backslashreplace")
    if not _is_ordinary(path):
        with open(path, "wb") as stream:
            stream.write(content)
        return
    target = os.path.realpath(path)
    draft = _beside(target)
    try:
        with open(draft, "xb") as stream:
            stream.write(content)
        os.replace(draft, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def _is_ordinary(path: str) -> bool:
    # A pipe or a device such as /dev/stdout has to be written into: a file that took its name would replace it.
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True


def _beside(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{os.getpid()}.tmp")
