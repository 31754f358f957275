"""The way back for rows that were set aside."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nanguard.clean import sources, writers
from nanguard.clean.quarantine._aside import ADDED, NUM_KEPT, ROW, rows_of
from nanguard.clean.sources import _arrow
from nanguard.clean.sources._files import kind_of
from nanguard.clean.sources._needs import need
from nanguard.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

# In a TFRecord file, lists that all have the same length are read as columns.
_ADDED = re.compile(rf"({'|'.join(ADDED)})(_\d+)?")


def restore(clean: str, quarantine: str, output: str, *, force: bool = False) -> int:
    """Puts rows that were set aside back in their places.

    Both files are read once, side by side. The clean file has kept the order of its rows, so the number of a clean row
    is told by how many rows were set aside before it. Rows from the quarantine have their original values, the others
    are as they were cleaned; a column that cleaning made one of floats is one of floats.

    Args:
        clean: The clean file.
        quarantine: The file of the rows that were set aside.
        output: Where all rows go.
        force: Whether a file that is there already may be overwritten.

    Returns:
        How many rows the output has.

    Raises:
        UsageError: If the two files do not belong together, or the output cannot be written.

    Example:

    >>> import tempfile
    >>> import pyarrow as pa
    >>> aside = {"a": [9.0], "nanguard_row": [1]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     kept, out, whole = (f"{folder}/{name}.parquet" for name in ("kept", "out", "whole"))
    ...     for path, rows in ((kept, {"a": [1.0, 3.0]}), (out, aside)):
    ...         batch = pa.record_batch(rows)
    ...         with writers.open(path, batch.schema) as writer:
    ...             writer.write(batch)
    ...     num_rows = restore(kept, out, whole)
    ...     numbers = next(sources.open(whole).blocks()).numbers[:, 0].tolist()
    >>> num_rows, numbers
    (3, [1.0, 9.0, 3.0])
    """
    bad = _Aside(quarantine)
    good = None if _is_without_examples(clean) else _opened_clean(clean, bad)
    if good is None and not bad.types:
        raise UsageError(f"{clean} and {quarantine} have no rows.")
    schema = bad.schema if good is None else bad.completed(good.arrow_schema)
    num_clean = 0

    def clean_rows(source: sources.Source) -> Iterator[pa.RecordBatch]:
        nonlocal num_clean
        for block in source.blocks():
            num_clean += len(block)
            yield _arrow.conform(rows_of(block, source.schema), schema, clean, block.first_row)

    kept = iter(()) if good is None else clean_rows(good)
    with writers.open(output, schema, force=force) as writer:
        for batch in _merged(kept, bad.rows(schema), f"{clean} and {quarantine}"):
            writer.write(batch)
        if bad.num_kept not in (None, num_clean):
            raise UsageError(
                f"{clean} has {num_clean:,} rows, and had {bad.num_kept:,} when {quarantine} was written: they do not "
                "belong together, or one was changed."
            )
    return writer.num_rows


class _Aside:
    """The file of the rows that were set aside.

    Attributes:
        types: The Arrow types of the source's columns, by name.
        num_kept: How many rows were kept when it was written, if it says so.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.num_kept: int | None = None
        self._source: sources.Source | None = None
        self.types: dict[str, Any] = {}
        if _is_without_examples(path):  # no row was set aside
            return
        self._source = sources.open(path, may_be_empty=True)
        schema = self._source.arrow_schema
        if ROW not in schema.names:
            raise UsageError(f"{path} holds no rows that were set aside: it has no column {ROW!r}.")
        self.types = {field.name: field.type for field in schema if not _ADDED.fullmatch(field.name)}
        if kind_of(path) == "parquet":
            notes = need("pyarrow.parquet").read_metadata(path).metadata or {}
            self.num_kept = int(notes[NUM_KEPT.encode()]) if NUM_KEPT.encode() in notes else None

    @property
    def schema(self) -> pa.Schema:
        """The columns of the source."""
        return need("pyarrow").schema(list(self.types.items()))

    def completed(self, schema: pa.Schema) -> pa.Schema:
        """The columns of the clean file, with types for those that hold nothing there."""
        is_null = need("pyarrow").types.is_null
        return need("pyarrow").schema(
            [f.with_type(self.types[f.name]) if is_null(f.type) and f.name in self.types else f for f in schema]
        )

    def rows(self, schema: pa.Schema) -> Iterator[tuple[NDArray[np.int64], pa.RecordBatch]]:
        """The rows with their numbers, as batches of a schema. A column that cleaning added is null."""
        pa = need("pyarrow")
        last = -1
        for block in self._source.blocks() if self._source is not None else ():
            numbers = np.asarray(block.column(ROW).to_numpy(zero_copy_only=False), np.int64)
            if (np.diff(numbers, prepend=last) <= 0).any():
                raise UsageError(f"{self.path}: the rows are not in the order of {ROW!r}, in which they were written.")
            last = int(numbers[-1])
            columns = [
                _arrow.cast(block.column(field.name), field, self.path, block.first_row)
                if field.name in self.types
                else pa.nulls(len(block), field.type)
                for field in schema
            ]
            yield numbers, pa.RecordBatch.from_arrays(columns, schema=schema)


def _is_without_examples(path: str) -> bool:
    """Whether it is a TFRecord file of no rows, which says nothing of its columns."""
    return kind_of(path) == "tfrecord" and os.path.isfile(path) and not os.path.getsize(path)


def _opened_clean(path: str, bad: _Aside) -> sources.Source:
    if kind_of(path) != "csv":
        found = sources.open(path, may_be_empty=True)
    else:
        # A CSV file has no types: text that looks like a number, or like a date, is text all the same. A column that
        # held no fraction may hold some now.
        known = sources.open(path, may_be_empty=True).schema.names
        pinned = {name: kind for name, kind in map(_as_text, bad.types.items()) if name in known and kind is not None}
        found = sources.open(path, dtypes=pinned, may_be_empty=True)
        for _ in found.blocks():
            pass  # only then the types of the others are known
    for name in bad.types:
        if name not in found.schema.names:
            raise UsageError(f"{path} has no column {name!r}, which {bad.path} has: they do not belong together.")
    return found


def _as_text(column: tuple[str, pa.DataType]) -> tuple[str, pa.DataType | None]:
    """A column with the type that its text in a CSV file is of for certain, or None."""
    pa = need("pyarrow")
    name, kind = column
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_float16(kind):
        return name, pa.float32()
    is_open = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_null, pa.types.is_duration, pa.types.is_nested)
    return name, None if any(is_kind(kind) for is_kind in is_open) else kind


def _merged(
    good: Iterator[pa.RecordBatch], bad: Iterator[tuple[NDArray[np.int64], pa.RecordBatch]], names: str
) -> Iterator[pa.RecordBatch]:
    """Two files as one, of which no more than a batch of each is held."""
    num_good = num_bad = 0  # given out so far
    clean = next(good, None)
    aside = next(bad, None)
    while clean is not None or aside is not None:
        if aside is None:
            assert clean is not None
            yield clean
            clean = next(good, None)
            continue
        numbers, rows = aside
        # How many clean rows come before each.
        before = numbers - num_bad - np.arange(len(numbers))
        num_left = 0 if clean is None else clean.num_rows
        end = num_good + num_left
        if clean is None and before[-1] > end:
            raise UsageError(
                f"{names} do not belong together: row {int(numbers[np.searchsorted(before, end, 'right')])} was set "
                f"aside, and only {num_good:,} clean rows are there."
            )
        if clean is None or before[-1] < end:  # the batch goes in as a whole
            num_taken = int(before[-1]) - num_good
            yield _interleaved(None if clean is None else clean.slice(0, num_taken), rows, before - num_good)
            clean = None if clean is None else clean.slice(num_taken)
            num_good, num_bad = num_good + num_taken, num_bad + len(numbers)
            aside = next(bad, None)
        else:
            count = int(np.searchsorted(before, end, "left"))
            yield _interleaved(clean, rows.slice(0, count), before[:count] - num_good)
            aside = numbers[count:], rows.slice(count)
            num_good, num_bad = end, num_bad + count
            clean = next(good, None)


def _interleaved(clean: pa.RecordBatch | None, rows: pa.RecordBatch, at: NDArray[np.int64]) -> pa.RecordBatch:
    """Clean rows with others in between, each before the clean row of the given place."""
    pa = need("pyarrow")
    if clean is None or not clean.num_rows:
        return rows
    if not rows.num_rows:
        return clean
    order = np.insert(np.arange(clean.num_rows), at, clean.num_rows + np.arange(rows.num_rows))
    return pa.concat_batches([clean, rows]).take(pa.array(order))
