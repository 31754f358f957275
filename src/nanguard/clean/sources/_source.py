"""What all sources have in common: a schema, and blocks of some size."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nanguard.clean.block import Block, Schema
from nanguard.clean.sources import _arrow
from nanguard.clean.sources._needs import need
from nanguard.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 65_536
_BLOCK_BYTES = 5 << 20  # of the matrix of one block: a table of more than a dozen columns has blocks of fewer rows


class Source(abc.ABC):
    """A table that is read block by block. `open` makes one.

    Attributes:
        name: What messages call it: the path, or the kind of the object.
        schema: Its columns. A source of text may learn while it is read that a column of integers has fractions as
            well; the type in `schema.types` then changes to `float64`, the role of a column never.
        labels: The names of the columns that are labels.
        weights: The names of the columns that are sample weights.
        is_replayable: Whether `blocks` can be called more than once.
        num_rows: How many rows it has, where that is known without reading it, or None.
    """

    name: str
    schema: Schema
    labels: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    is_replayable: bool = True
    num_rows: int | None = None
    may_be_empty: bool = False
    _is_used: bool = False

    @property
    @abc.abstractmethod
    def arrow_schema(self) -> pa.Schema:
        """The columns' Arrow types: what a file that is written like this source has."""

    @abc.abstractmethod
    def _blocks(self) -> Iterator[Block]: ...

    def blocks(self) -> Iterator[Block]:
        """Reads the table from its first row on.

        Raises:
            UsageError: If something in it cannot be read, which names file, row and column; if it has no rows; or if it
                cannot be read a second time.
        """
        if self._is_used and not self.is_replayable:
            raise UsageError(
                f"{self.name} was read to its end, and cannot be read again. Give a list, or a function that makes it."
            )
        self._is_used = True
        return self._counted()

    def _counted(self) -> Iterator[Block]:
        num_rows = 0
        for block in self._blocks():
            num_rows += len(block)
            yield block
        if not num_rows and not self.may_be_empty:
            raise UsageError(f"{self.name} has no rows.")
        self.num_rows = num_rows

    def describe(self) -> str:
        """One line: what it is, its rows where they are known, its columns by kind."""
        rows = "rows not counted yet" if self.num_rows is None else _counted(self.num_rows, "row")
        kinds = (
            (self.schema.numbers, "number"),
            (self.schema.categories, "text"),
            (self.schema.datetimes, "time"),
            (self.schema.others, "other"),
        )
        parts = [_counted(len(names), word) for names, word in kinds if names]
        return f"{self.name}: {rows}, {_counted(len(self.schema.names), 'column')} ({', '.join(parts)})"


class ArrowSource(Source):
    """A source whose rows come as Arrow batches.

    Args:
        name: What messages call it.
        schema: The columns' Arrow types.
        batch_rows: How many rows a block has at most.
        file: The file that the rows are from.
    """

    def __init__(self, name: str, schema: pa.Schema, *, batch_rows: int, file: str | None = None) -> None:
        self.name = name
        self.file = file
        self._set_schema(schema)
        self.batch_rows = limited(batch_rows, len(self.schema.numbers))

    @property
    def arrow_schema(self) -> pa.Schema:
        return self._arrow_schema

    def _set_schema(self, schema: pa.Schema) -> None:
        fields = [field.with_type(_arrow.viewless(field.type)) for field in schema]
        self._arrow_schema = schema if fields == list(schema) else need("pyarrow").schema(fields)
        self._has_views = self._arrow_schema is not schema
        self.schema = _arrow.schema_of(self._arrow_schema, self.name)

    @abc.abstractmethod
    def _batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, in batches of any size, each of the columns of the schema in its order."""

    def _blocks(self) -> Iterator[Block]:
        first_row = 0
        for batch in regrouped(self._viewless(self._batches()), self.batch_rows):
            numbers, num_nulls = _arrow.numbers_of(batch, self.schema)
            yield Block(numbers, num_nulls, batch, first_row, self.file, first_row)
            first_row += batch.num_rows

    def _viewless(self, batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        if not self._has_views:
            return batches
        pa = need("pyarrow")
        return (
            pa.RecordBatch.from_arrays(
                [_arrow.without_views(each) for each in batch.columns], schema=self._arrow_schema
            )
            for batch in batches
        )


def limited(batch_rows: int, num_columns: int) -> int:
    """How many rows a block gets: fewer than asked for where rows are wide."""
    if batch_rows < 1:
        raise ValueError(f"`batch_rows` must be at least 1. Received: batch_rows={batch_rows}.")
    return max(1, min(batch_rows, _BLOCK_BYTES // (8 * max(num_columns, 1))))


def regrouped(batches: Iterable[pa.RecordBatch], num_rows: int) -> Iterator[pa.RecordBatch]:
    """Cuts large batches and joins small ones; batches of different types are not joined."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        for start in range(0, batch.num_rows, num_rows):
            piece = batch.slice(start, num_rows)
            if held and (count + piece.num_rows > num_rows or piece.schema != held[0].schema):
                yield _arrow.joined(held)
                held, count = [], 0
            held.append(piece)
            count += piece.num_rows
            # Nearly full is full: to fill it up would copy a large batch for the sake of a few rows.
            if 4 * count > 3 * num_rows:
                yield _arrow.joined(held)
                held, count = [], 0
    if held:
        yield _arrow.joined(held)


def regrouped_rows(arrays: Iterable[NDArray[Any]], num_rows: int) -> Iterator[NDArray[np.float64]]:
    """The same for matrices, which come out as float64 in Fortran order."""
    held: list[NDArray[Any]] = []
    count = 0
    for array in arrays:
        for start in range(0, len(array), num_rows):
            piece = array[start : start + num_rows]
            if held and count + len(piece) > num_rows:
                yield _matrix(held)
                held, count = [], 0
            held.append(piece)
            count += len(piece)
            if 4 * count > 3 * num_rows:
                yield _matrix(held)
                held, count = [], 0
    if held:
        yield _matrix(held)


def _matrix(pieces: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    made = np.empty((sum(map(len, pieces)), pieces[0].shape[1]), np.float64, order="F")
    return np.concatenate(pieces, out=made, casting="unsafe")


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
