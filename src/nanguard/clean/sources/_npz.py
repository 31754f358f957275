"""NumPy's files: `.npy`, and `.npz` whose members are read as streams."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nanguard.clean.sources._chunks import Chunks, ChunkSource, chunked
from nanguard.clean.sources._messages import reason
from nanguard.errors import UsageError

_CHUNK_BYTES = 1 << 24


def npy(path: str, *, columns: Sequence[str] | None, label: str | None, batch_rows: int) -> ChunkSource:
    """The source of one array in a `.npy` file."""
    with open(path, "rb") as stream:
        reader = _Reader(stream, path)
        size = os.fstat(stream.fileno()).st_size
        if size < stream.tell() + reader.num_bytes:
            num_rows = (size - stream.tell()) // max(reader.row_bytes, 1)
            raise UsageError(f"{path} is cut off after row {num_rows} of {reader.num_rows}.")
        num_rows = reader.num_rows
    chunks = Chunks(functools.partial(_npy_chunks, path, batch_rows))
    made = chunked(path, chunks, columns=columns, label=label, batch_rows=batch_rows, file=path)
    made.num_rows = num_rows
    return made


def _npy_chunks(path: str, batch_rows: int) -> Iterator[Any]:
    with open(path, "rb") as stream:
        reader = _Reader(stream, path)
        yield from reader.chunks(_size(batch_rows, reader.row_bytes))


def npz(path: str, *, columns: Sequence[str] | None, label: str | None, batch_rows: int) -> ChunkSource:
    """The source of an archive of arrays that have the same number of rows."""
    names, num_rows = _members(path, columns)
    chunks = Chunks(functools.partial(_npz_chunks, path, names, batch_rows))
    made = chunked(path, chunks, columns=columns, label=label, batch_rows=batch_rows, file=path)
    made.num_rows = num_rows
    return made


def _npz_chunks(path: str, names: Sequence[str], batch_rows: int) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        archive = stack.enter_context(_archive(path))
        readers = []
        for name in names:
            stream = stack.enter_context(archive.open(f"{name}.npy"))
            reader = _Reader(stream, f"{path}, {name!r}")
            if reader.is_by_columns:  # rows of it are not in one piece: it is laid out on the disk first
                spool = stack.enter_context(tempfile.TemporaryFile())
                with _told(f"{path}, {name!r}"):
                    shutil.copyfileobj(stream, spool, 1 << 20)
                reader.move_to(spool)
            readers.append(reader)
        # All arrays of an archive are cut alike.
        size = _size(batch_rows, sum(reader.row_bytes for reader in readers))
        for together in zip(*(reader.chunks(size) for reader in readers), strict=True):
            # A lone array is a table of its own, whose columns are called by their place.
            yield together[0] if len(archive.namelist()) == 1 else dict(zip(names, together, strict=True))


def _size(batch_rows: int, row_bytes: int) -> int:
    """How many rows are read at once."""
    return max(1, min(batch_rows, _CHUNK_BYTES // max(row_bytes, 1)))


def _members(path: str, columns: Sequence[str] | None) -> tuple[list[str], int]:
    with _archive(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        if columns is not None and len(names) > 1:  # the others need not even have rows
            names = [name for name in names if any(c == name or c.startswith(f"{name}_") for c in columns)] or names
        if not names:
            raise UsageError(f"{path} holds no arrays.")
        lengths = {}
        for name in names:
            with archive.open(f"{name}.npy") as stream:
                lengths[name] = _Reader(stream, f"{path}, {name!r}").num_rows
    first = names[0]
    for name, length in lengths.items():
        if length != lengths[first]:
            raise UsageError(f"{path} has {lengths[first]} rows in {first!r} and {length} in {name!r}.")
    return names, lengths[first]


def _archive(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise UsageError(f"{path} is no NPZ file, or not all of it is there: {reason(error)}") from error


@contextlib.contextmanager
def _told(name: str, row: int | None = None) -> Iterator[None]:
    """Turns what an archive that is damaged raises into one line."""
    try:
        yield
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise UsageError(f"{name} is damaged{'' if row is None else f' after row {row}'}: {reason(error)}") from error
    except Exception as error:
        if type(error).__module__ not in ("zlib", "_lzma", "lzma", "bz2"):
            raise
        raise UsageError(f"{name} is damaged{'' if row is None else f' after row {row}'}: {reason(error)}") from error


class _Reader:
    """Reads an array of a stream that stands at the array's start, some rows at a time.

    Args:
        stream: Where from.
        name: What messages call it.
    """

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream, self._name = stream, name
        try:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self._shape, self._by_columns, self._dtype = read(stream)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UsageError(f"{name} is no array of NumPy, or not all of it is there: {reason(error)}") from error
        if self._dtype.hasobject:
            raise UsageError(f"{name} holds Python objects, which are not loaded. Save it with a dtype of its own.")
        if not self._shape:
            raise UsageError(f"{name} is a single value. To leave it out, name the others with --columns.")
        self.num_rows = self._shape[0]
        self.row_bytes = math.prod(self._shape[1:]) * self._dtype.itemsize
        self.num_bytes = self.num_rows * self.row_bytes
        self._start = 0
        with contextlib.suppress(OSError, AttributeError):
            self._start = stream.tell()

    @property
    def is_by_columns(self) -> bool:
        """Whether the array is laid out column by column."""
        return bool(self._by_columns) and len(self._shape) > 1

    def move_to(self, spool: IO[bytes]) -> None:
        """Goes on with a copy of what followed the header."""
        self._stream, self._start = spool, 0

    def chunks(self, size: int) -> Iterator[NDArray[Any]]:
        """The array's rows in pieces of some rows."""
        # An array of no rows still has columns.
        for first in range(0, max(self.num_rows, 1), size):
            count = min(size, self.num_rows - first)
            with _told(self._name, first):
                yield self._columns(first, count) if self.is_by_columns else self._rows(first, count)

    def _rows(self, first: int, count: int) -> NDArray[Any]:
        content = self._stream.read(count * self.row_bytes)
        if len(content) < count * self.row_bytes:
            raise EOFError(f"it ends after row {first + len(content) // max(self.row_bytes, 1)} of {self.num_rows}")
        return np.frombuffer(content, self._dtype).reshape(count, *self._shape[1:])

    def _columns(self, first: int, count: int) -> NDArray[Any]:
        size = self._dtype.itemsize
        made = np.empty((math.prod(self._shape[1:]), count), self._dtype)
        for place, column in enumerate(made):
            self._stream.seek(self._start + (place * self.num_rows + first) * size)
            content = self._stream.read(count * size)
            if len(content) < count * size:
                raise EOFError(f"it ends in column {place}")
            column[...] = np.frombuffer(content, self._dtype)
        return made.T.reshape(count, *self._shape[1:]) if len(self._shape) == 2 else made.T
