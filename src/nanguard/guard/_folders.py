"""Checkpoints on disk: a folder each, which is there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

_FINISHED = "checkpoint-"
_WRITING = ".writing-"
_REMOVING = ".removing-"
RECORD = "checkpoint.json"
SCHEMA = "nanguard.checkpoint/1"


def numbered(directory: Path) -> list[tuple[int, Path]]:
    """Gives the number and the path of each checkpoint of the directory, oldest first."""
    found = []
    for path in directory.glob(f"{_FINISHED}*"):
        number = path.name.removeprefix(_FINISHED)
        if number.isdigit():
            found.append((int(number), path))
    return sorted(found)


def sweep(directory: Path) -> None:
    """Removes what a killed run left half-written or half-removed."""
    for pattern in (f"{_WRITING}*", f"{_REMOVING}*"):
        for path in directory.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def write(directory: Path, record: dict[str, Any], write_state: Callable[[Path], None], keep: int) -> Path:
    """Writes a checkpoint under the next number and removes all but the newest `keep`.

    The folder is written under another name, flushed to the disk, and renamed: under its own name it is always whole.

    Args:
        directory: Where the checkpoints are; made if it is not there.
        record: What goes into the JSON file.
        write_state: Writes the tensors into the folder that it is given.
        keep: How many checkpoints stay.

    Returns:
        The checkpoint's folder.
    """
    directory.mkdir(parents=True, exist_ok=True)
    before = numbered(directory)
    number = before[-1][0] + 1 if before else 1
    writing = directory / f"{_WRITING}{number:08d}"
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir()
    write_state(writing)
    files = {path.name: path.stat().st_size for path in sorted(writing.iterdir())}
    body = json.dumps({"schema": SCHEMA, **record, "files": files}, allow_nan=False)
    text = json.dumps({"crc32": zlib.crc32(body.encode()), "body": body}) + "\n"
    (writing / RECORD).write_text(text, encoding="utf-8")
    for path in writing.iterdir():
        _flush(path)
    _flush(writing)
    finished = directory / f"{_FINISHED}{number:08d}"
    os.rename(writing, finished)
    _flush(directory)
    for _, path in before[: len(before) + 1 - keep]:
        _remove(path)
    return finished


def read(path: Path) -> dict[str, Any]:
    """Gives the record of a checkpoint.

    Raises:
        ValueError: If the folder is damaged: a file is missing, cut off or changed.
    """
    try:
        outer = json.loads((path / RECORD).read_text(encoding="utf-8"))
        body = outer["body"]
        if zlib.crc32(body.encode()) != outer["crc32"]:
            raise ValueError(f"{RECORD} was changed")
        record: dict[str, Any] = json.loads(body)
        for name, size in record["files"].items():
            if (path / name).stat().st_size != size:
                raise ValueError(f"{name} has {(path / name).stat().st_size} bytes and should have {size}")
    except (OSError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if record["schema"] != SCHEMA:
        raise ValueError(f"its schema is {record['schema']}, and this version reads {SCHEMA}")
    return record


def _remove(path: Path) -> None:
    # Renamed first: a folder that is half removed must not look like a checkpoint.
    doomed = path.with_name(_REMOVING + path.name)
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folder
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
