"""Batches that were set aside: one file each, with the reason in it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import platform
import re
import secrets
import sys
import time
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanguard.errors import UsageError
from nanguard.guard import batches, tables

_SCHEMA = "nanguard.quarantine/1"
_MANIFEST = "manifest.json"
_INDEX = "index.jsonl"
_NAME = re.compile(r"step\d+-[0-9a-f]{12}-.*\.(npz|parquet)")
_DRAFT = re.compile(r"\..*\.([0-9a-f]{8})-(\d+)-([0-9a-f]{8})\.tmp")
# A draft of another machine, whose processes cannot be asked for, is taken for abandoned after a day.
_ABANDONED = 24 * 3600
# More than NumPy and zip write around a member, so that the bound is kept.
_HEADERS = 512
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
# Of this process: after a restart in a container another process had its number.
_TOKENS: set[str] = set()
# What a torn or forged file can raise on its way through zip, NumPy, JSON and the structure.
_TORN = (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, NotImplementedError, RuntimeError,
         zipfile.BadZipFile, zlib.error, RecursionError, OverflowError, MemoryError, ImportError)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One file of a quarantine.

    Args:
        path: The file.
        manifest: Step, epoch, rows, cause and the rest; empty if the file cannot be read.
        problem: Why it cannot be read, or None.
    """

    path: Path
    manifest: Mapping[str, Any]
    problem: str | None = None


class Quarantine:
    """A folder of batches that made a step non-finite.

    Each batch is one NPZ file (or Parquet, for a flat table), with a manifest inside: step, epoch, rows, cause, why.
    NPZ is what `numpy.load` opens. A file is written under another name, flushed to the disk, and takes its own name
    then, so that a process that is killed leaves whole files only; what it was writing is swept when the folder is next
    opened. `index.jsonl` is an overview for people and tools; the files are what counts, and it is made again from them
    where it lags behind.

    Several processes may share the folder. A batch that comes again, in each epoch or in a run that was resumed, is not
    stored twice: the manifest is that of the first time.

    A full disk, a folder that cannot be written or a batch that cannot be stored is told once, as a warning, and
    counted in `num_unstored`. Training goes on.

    Args:
        folder: Where the files go; made when the first one is written.
        max_bytes: Bound on the bytes of all files, `> 0`. 1 GiB: thousands of batches of an ordinary size, and no disk
            is filled.
        policy: What happens at the bound. "stop" stores nothing more, so that nothing that was set aside is lost
            without anybody's word; "oldest" removes the oldest.
        format: "npz", or "parquet" for batches that are one flat table, if pyarrow is there; other batches are NPZ then
            too.

    Raises:
        UsageError: If an argument is not one of these.

    Example:

    >>> import tempfile
    >>> quarantine = Quarantine(tempfile.mkdtemp())
    >>> batch = (np.array([[1.0, np.nan]]), np.array([0]))
    >>> path = quarantine.put(batch, step=7, epoch=0, rows=[0], cause="missing_value", why="x is NaN")
    >>> [(entry.manifest["step"], entry.manifest["cause"]) for entry in quarantine.entries()]
    [(7, 'missing_value')]
    >>> quarantine.load(path)[0]
    (array([[ 1., nan]]), array([0]))
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, max_bytes: int = 1 << 30, policy: str = "stop", format: str = "npz"
    ) -> None:
        if max_bytes < 1:
            raise UsageError(f"`max_bytes` must be positive. Received: {max_bytes}. Leave it out for 1 GiB.")
        for name, given, allowed in (("policy", policy, ("stop", "oldest")), ("format", format, ("npz", "parquet"))):
            if given not in allowed:
                raise UsageError(f"`{name}` must be {' or '.join(map(repr, allowed))}. Received: {given!r}.")
        self.folder = Path(folder)
        self.max_bytes, self.policy, self.format = max_bytes, policy, format
        self.num_stored = self.num_unstored = self.num_removed = 0
        self._token = secrets.token_hex(4)
        _TOKENS.add(self._token)
        self._counter = itertools.count()
        self._told: set[str] = set()
        self._stored: dict[bytes, Path] = {}  # what this process has stored, by its content
        self._sweep()

    def put(
        self,
        batch: Any,
        *,
        step: int,
        epoch: int | None = None,
        rows: Sequence[int] | None = None,
        cause: str | None = None,
        why: str | None = None,
        seen_in: Sequence[str] = (),
        capture: str | os.PathLike[str] | None = None,
    ) -> Path | None:
        """Stores a batch.

        Args:
            batch: Nested dicts, tuples and lists of arrays, eager tensors (ragged and sparse ones too), numbers,
                strings and None.
            step: Updates that had been made before.
            epoch: Epoch of `fit`, from 0; None outside.
            rows: Places within the batch that are to blame; None if they are not known.
            cause: The label of the cause, or None.
            why: One sentence for people, or None.
            seen_in: Where the non-finite number was seen: loss, gradients, weights, state.
            capture: The file that replays the step, or None.

        Returns:
            The file, or None if it could not be stored. Nothing is raised for that.
        """
        manifest = {
            "schema": _SCHEMA,
            "step": int(step),
            "epoch": None if epoch is None else int(epoch),
            "rows": None if rows is None else [int(row) for row in rows],
            "cause": cause,
            "why": why,
            "seen_in": list(seen_in),
            "capture": None if capture is None else os.fspath(capture),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "process": os.getpid(),
        }
        try:
            return self._put(batch, manifest)
        except Exception as error:
            # Whatever it is, a batch that cannot be set aside must not end the training that it did not end.
            self.num_unstored += 1
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            self._tell("failed", f"the batch of step {step} could not be stored in {self.folder}: {reason}.")
            return None

    def entries(self) -> list[Entry]:
        """Lists what is stored, oldest step first; a file that cannot be read is listed with its problem."""
        known = self._read_index()
        found, is_behind = [], len(known) == 0
        for path in self._files():
            line = known.pop(path.name, None)
            if line is not None and line["nbytes"] == _size(path):
                found.append(Entry(path, line["manifest"]))
                continue
            is_behind = True
            try:
                found.append(Entry(path, _overview(_read_manifest(path))))
            except _TORN as error:
                found.append(Entry(path, {}, f"{type(error).__name__}: {error}"))
        if known or (is_behind and found):
            with contextlib.suppress(OSError):
                lines = "".join(_line(entry.path, entry.manifest) for entry in found if entry.problem is None)
                self._write(self.folder / _INDEX, lambda stream: stream.write(lines.encode()))
        return found

    def load(self, path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
        """Reads a batch back; nothing is unpickled.

        Args:
            path: A file that `put` gave.

        Returns:
            The batch in its structure, tensors as tensors and arrays as arrays, to the last bit; and its manifest.

        Raises:
            UsageError: If it is no file of a quarantine, or was damaged.
        """
        path = Path(path)
        try:
            manifest = _read_manifest(path)
            return batches.unpack(manifest["structure"], _read_arrays(path, manifest)), manifest
        except _TORN as error:
            raise UsageError(
                f"{path} must be a whole file of a quarantine. Received: {type(error).__name__}: {error}. "
                "`entries()` lists those that can be read."
            ) from None

    def _put(self, batch: Any, manifest: dict[str, Any]) -> Path | None:
        structure, arrays = batches.pack(batch)
        manifest["structure"] = structure
        digest = hashlib.sha256(json.dumps(structure).encode())
        for array in arrays.values():
            digest.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
        self.folder.mkdir(parents=True, exist_ok=True)
        start = f"step{manifest['step']:08d}-{digest.hexdigest()[:12]}-"
        there = self._stored.get(digest.digest()) or next(
            (path for path in self._files() if path.name.startswith(start)), None
        )
        if there is not None and there.exists():
            return there
        columns = tables.columns(structure, arrays) if self.format == "parquet" else None
        ending = "npz" if columns is None else "parquet"
        if columns is not None:
            manifest["columns"] = list(columns)
        document = json.dumps(manifest, allow_nan=False)
        if not self._has_room(sum(array.nbytes + _HEADERS for array in arrays.values()) + len(document) + _HEADERS):
            self.num_unstored += 1
            return None
        path = self.folder / f"{start}{os.getpid()}-{self._token}-{next(self._counter):04d}.{ending}"
        if columns is None:
            self._write(path, lambda stream: _write_npz(stream, document, arrays))
        else:
            self._write(path, lambda stream: tables.write(stream, columns, document))
        self.num_stored += 1
        self._stored[digest.digest()] = path
        with contextlib.suppress(OSError), open(self.folder / _INDEX, "a", encoding="utf-8") as index:
            index.write(_line(path, manifest))
        return path

    def _has_room(self, nbytes: int) -> bool:
        files = sorted(self._files(), key=_age) if self.folder.is_dir() else []
        used = sum(_size(path) for path in files)
        if self.policy == "oldest" and nbytes <= self.max_bytes:
            while files and used + nbytes > self.max_bytes:
                oldest = files.pop(0)
                used -= _size(oldest)
                with contextlib.suppress(FileNotFoundError):
                    oldest.unlink()
                self.num_removed += 1
                self._tell(
                    "removed", f"{self.folder} is full ({self.max_bytes} bytes): the oldest batches are removed."
                )
        if used + nbytes <= self.max_bytes:
            return True
        self._tell(
            "full",
            f"{self.folder} holds {used} of {self.max_bytes} bytes, and a batch of {nbytes} more does not fit: it is "
            'counted and not stored. Allow more with `max_bytes`, or give `policy="oldest"`.',
        )
        return False

    def _write(self, path: Path, write: Any) -> None:
        draft = self.folder / f".{path.name}.{_HOST}-{os.getpid()}-{self._token}.tmp"
        try:
            with open(draft, "wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(draft, path)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
        # The name itself is safe only then. Some systems open no folder.
        with contextlib.suppress(OSError):
            handle = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def _sweep(self) -> None:
        """Removes what killed processes were writing."""
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                draft = _DRAFT.fullmatch(path.name)
                if draft is None:
                    continue
                host, process, token = draft.group(1), int(draft.group(2)), draft.group(3)
                is_gone = host == _HOST and not (token in _TOKENS if process == os.getpid() else _is_running(process))
                if is_gone or time.time() - path.stat().st_mtime > _ABANDONED:
                    with contextlib.suppress(OSError):
                        path.unlink()

    def _files(self) -> list[Path]:
        try:
            return sorted(path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _read_index(self) -> dict[str, dict[str, Any]]:
        found = {}
        with contextlib.suppress(OSError):
            for text in (self.folder / _INDEX).read_text(encoding="utf-8", errors="replace").splitlines():
                # The last line of a killed process may be half a line.
                with contextlib.suppress(ValueError, LookupError, TypeError):
                    line = json.loads(text)
                    found[line["file"]] = {"nbytes": line["nbytes"], "manifest": dict(line["manifest"])}
        return found

    def _tell(self, what: str, message: str) -> None:
        if what in self._told:
            return
        self._told.add(what)
        try:
            warnings.warn(f"quarantine: {message} Training goes on.", RuntimeWarning, stacklevel=3)
        except RuntimeWarning as warning:  # where warnings are errors
            print(f"nanguard: {warning}", file=sys.stderr)


def _write_npz(stream: Any, document: str, arrays: Mapping[str, np.ndarray]) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_MANIFEST, document)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _read_manifest(path: Path) -> dict[str, Any]:
    if path.suffix == ".parquet":
        document: Any = tables.document(path)
    else:
        with zipfile.ZipFile(path) as archive:
            _check_size(archive.getinfo(_MANIFEST), path)
            document = archive.read(_MANIFEST)
    manifest = json.loads(document)
    if not isinstance(manifest, dict) or manifest.get("schema") != _SCHEMA:
        raise ValueError(f"it has no manifest of schema {_SCHEMA}")
    return manifest


def _read_arrays(path: Path, manifest: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
    if path.suffix == ".parquet":
        return tables.arrays(path, manifest)
    found: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename == _MANIFEST:
                continue
            _check_size(info, path)
            with archive.open(info) as member:
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(member)
            if math.prod(shape) * dtype.itemsize > info.file_size:
                raise ValueError(f"{info.filename} says that it holds more than it does")
            with archive.open(info) as member:
                found[info.filename.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
    return found


def _check_size(info: zipfile.ZipInfo, path: Path) -> None:
    # Members are stored as they are: one that would grow when it is read was not written here.
    if info.file_size > path.stat().st_size:
        raise ValueError(f"{info.filename} says that it is larger than the file")


def _line(path: Path, manifest: Mapping[str, Any]) -> str:
    return json.dumps({"file": path.name, "nbytes": _size(path), "manifest": _overview(manifest)}) + "\n"


def _overview(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name not in ("structure", "columns")}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _age(path: Path) -> tuple[float, str]:
    try:
        return path.stat().st_mtime, path.name
    except OSError:
        return 0.0, path.name


def _is_running(process: int) -> bool:
    if os.name == "nt":
        return True  # signal 0 would end it there; its drafts wait for their day
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
