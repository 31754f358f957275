"""Sources whose rows come as arrays: those of memory, of archives and of data sets."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nanguard.clean.block import Block
from nanguard.clean.sources import _arrow
from nanguard.clean.sources._arrays import Columns, batch_of, columns_of, is_matrix
from nanguard.clean.sources._source import ArrowSource, limited, regrouped_rows
from nanguard.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa


class Chunks:
    """Chunks of rows that can be looked at before they are read.

    Args:
        make: Gives the chunks, from the first on.

    Attributes:
        first: The first chunk, or None if there is none.
    """

    def __init__(self, make: Callable[[], Iterable[Any]]) -> None:
        self._make = make
        # Kept for the first reading: to start a data set anew can cost the filling of its buffers.
        started = iter(make())
        self.first = next(started, None)
        self._started: Iterator[Any] | None = itertools.chain([] if self.first is None else [self.first], started)

    def __getstate__(self) -> dict[str, Any]:
        return {"_make": self._make, "first": None, "_started": None}

    def __call__(self) -> Iterator[Any]:
        started, self._started = self._started, None
        self.first = None
        return iter(self._make()) if started is None else started


class ChunkSource(ArrowSource):
    """Rows in chunks of any size, each an array, a dict, a frame or a tuple of these (see `columns_of`).

    The first chunk tells the columns. Where a later one has fractions in a column of integers, the column is read as
    floats from there on.

    Args:
        name: What messages call it.
        chunks: The rows.
        columns: Which columns to read, or all.
        label: The name of a label that has none.
        batch_rows: How many rows a block has at most.
        file: The file that the rows are from.
    """

    def __init__(
        self,
        name: str,
        chunks: Chunks,
        *,
        columns: Sequence[str] | None = None,
        label: str | None = None,
        batch_rows: int,
        file: str | None = None,
    ) -> None:
        self.name = name
        self._chunks, self._columns, self._label = chunks, columns, label
        if chunks.first is None:
            raise UsageError(f"{name} has no rows.")
        made = self._parted(chunks.first)
        super().__init__(name, batch_of(made, source=name).schema, batch_rows=batch_rows, file=file)
        self.labels, self.weights = made.labels, made.weights

    def _parted(self, chunk: Any) -> Columns:
        made = columns_of(chunk, label=self._label, source=self.name)
        if self._columns is None:
            return made
        by_name = {column.name: column for column in made.columns}
        chosen = tuple(by_name[name] for name in _arrow.chosen_names(list(by_name), self._columns, self.name))
        kept = {column.name for column in chosen}
        return Columns(chosen, *(tuple(n for n in names if n in kept) for names in (made.labels, made.weights)))

    def _batches(self) -> Iterator[pa.RecordBatch]:
        num_rows = 0
        for chunk in self._chunks():
            batch = batch_of(self._parted(chunk), source=self.name, first_row=num_rows)
            self._widen(batch.schema)
            yield _arrow.conform(batch, self.arrow_schema, self.name, num_rows)
            num_rows += batch.num_rows

    def _widen(self, found: pa.Schema) -> None:
        """Takes on the types of a later chunk where they hold more."""
        if found == self.arrow_schema:
            return
        for place, field in enumerate(self.arrow_schema):
            other = found.field(field.name).type if field.name in found.names else field.type
            if other == field.type:
                continue
            kind = _arrow.wider(field.type, than=other)
            if kind is not None and kind != field.type and _arrow.role_of(kind) == _arrow.role_of(field.type):
                self._set_schema(self.arrow_schema.set(place, field.with_type(kind)))


class MatrixSource(ChunkSource):
    """Rows in chunks, each a matrix of floats: their blocks have no Arrow batch."""

    def __init__(
        self,
        name: str,
        chunks: Chunks,
        *,
        columns: Sequence[str] | None = None,
        label: str | None = None,
        batch_rows: int,
        file: str | None = None,
    ) -> None:
        self.name, self.file = name, file
        self._chunks = chunks
        first: Any = chunks.first
        self._width, self._dtype = first.shape[1], first.dtype
        if not self._width:
            raise UsageError(f"{name} has no columns.")
        names = [str(place) for place in range(self._width)]
        chosen = _arrow.chosen_names(names, columns, name)
        self._places = None if chosen == names else [int(each) for each in chosen]
        types = dict.fromkeys(chosen, self._dtype.name)
        self.schema = _arrow.ArrowSchema(tuple(chosen), tuple(chosen), types=types, is_matrix=True)
        self.batch_rows = limited(batch_rows, len(chosen))
        if label is not None:
            _arrow.chosen_names(chosen, [label], name)
            self.labels = (label,)

    @property
    def arrow_schema(self) -> pa.Schema:
        return _arrow.arrow_of(self.schema)

    def _blocks(self) -> Iterator[Block]:
        first_row = 0
        for rows in regrouped_rows(self._checked(), self.batch_rows):
            num_nulls = np.zeros(rows.shape[1], np.int64)
            yield Block(rows, num_nulls, None, first_row, self.file, first_row)
            first_row += len(rows)

    def _checked(self) -> Iterator[Any]:
        num_rows = 0
        for chunk in self._chunks():
            if getattr(chunk, "shape", ())[1:] != (self._width,):
                shape = getattr(chunk, "shape", type(chunk).__name__)
                raise UsageError(
                    f"{self.name}, row {num_rows}: rows of {self._width} numbers are expected, not {shape}."
                )
            yield chunk if self._places is None else chunk[:, self._places]
            num_rows += len(chunk)


def chunked(name: str, chunks: Chunks, **options: Any) -> ChunkSource:
    """The source of some chunks, by what the first of them is."""
    return (MatrixSource if is_matrix(chunks.first) else ChunkSource)(name, chunks, **options)


def of_memory(name: str, rows: Any, *, batch_rows: int, **options: Any) -> ChunkSource:
    """The source of arrays that are in memory as a whole, cut as it is read."""
    whole = rows if is_matrix(rows) else _settled(rows, name)
    num_rows = _length(whole)
    width = (
        1
        if is_matrix(whole) or not num_rows
        else len(columns_of(_cut(whole, slice(1)), label=None, source=name).columns)
    )
    size = limited(batch_rows, width)

    def chunks() -> Iterator[Any]:
        for start in range(0, max(num_rows, 1), size):
            yield _cut(whole, slice(start, start + size))

    made = chunked(name, Chunks(chunks), batch_rows=batch_rows, **options)
    made.num_rows = num_rows
    return made


def _settled(rows: Any, source: str, name: str | None = None) -> Any:
    """The rows with arrays of objects made Arrow, so that the type of a column is that of all its rows."""
    if isinstance(rows, tuple) and not hasattr(rows, "_fields"):
        return tuple(_settled(part, source) for part in rows)
    if isinstance(rows, dict):
        return {key: _settled(part, source, str(key)) for key, part in rows.items()}
    if isinstance(rows, list) or (isinstance(rows, np.ndarray) and rows.dtype.kind == "O" and rows.ndim == 1):
        made = columns_of(rows if name is None else {name: rows}, label=None, source=source)
        return batch_of(made, source=source).column(0) if len(made.columns) == 1 else np.asarray(rows)
    return rows


def _length(rows: Any) -> int:
    if isinstance(rows, tuple):
        return _length(rows[0])
    if isinstance(rows, dict):
        return _length(next(iter(rows.values()))) if rows else 0
    return len(rows)


def _cut(rows: Any, part: slice) -> Any:
    if isinstance(rows, tuple):
        return tuple(None if each is None else _cut(each, part) for each in rows)
    if isinstance(rows, dict):
        return {name: _cut(each, part) for name, each in rows.items()}
    return rows[part]
