"""Rows that were set aside: a file of their own, with where they were and why they left; and their way back."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nanguard.clean import sources, writers
from nanguard.clean.block import Block, Schema
from nanguard.clean.sources import _arrow
from nanguard.clean.sources._files import kind_of
from nanguard.clean.sources._needs import need
from nanguard.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

ROW, FILE, COLUMNS, REASONS, VALUES = (
    "nanguard_row",
    "nanguard_file",
    "nanguard_columns",
    "nanguard_reasons",
    "nanguard_values",
)
ADDED = (ROW, FILE, COLUMNS, REASONS, VALUES)
# In a TFRecord file, lists that all have the same length are read as columns.
_ADDED = re.compile(rf"({'|'.join(ADDED)})(_\d+)?")
_NUM_ROWS, _NUM_KEPT = "nanguard.num_rows", "nanguard.num_kept"


class Why(Protocol):
    """Which rows of a block leave, and why."""

    is_bad: NDArray[np.bool_]

    def of(self, rows: NDArray[np.intp]) -> tuple[list[list[str]], list[list[str]]]:
        """For each of some rows of the block the columns that are to blame, and the reasons."""


class Quarantine:
    """Writes the rows that leave. All of their columns are as they were, and five are added.

    `nanguard_row` is the row's number in the whole source, from 0, and `nanguard_file` the file it is from;
    `nanguard_columns` are the columns that are to blame, `nanguard_values` what they hold, as text, where `null` is a
    missing cell; `nanguard_reasons` say why the row left.

    Args:
        path: Where to, or None: the rows are counted then, and not kept.
        schema: The columns of the source.
        beside: Where the rows that stay go. Both files get their names together, once both are whole and their rows add
            up to all.
        force: Whether a file that is there already may be overwritten.

    Attributes:
        num_seen: Rows of all blocks.
        num_rows: Rows that left.
    """

    def __init__(
        self, path: str | None, schema: Schema, *, beside: writers.Writer | None = None, force: bool = False
    ) -> None:
        self.path, self._beside = path, beside
        self.num_seen = self.num_rows = 0
        self._writer: writers.Writer | None = None
        if path is None:
            return
        if beside is not None and os.path.realpath(path) == os.path.realpath(beside.path):
            raise UsageError(f"{path} is where the clean rows go. Name another file for those that are set aside.")
        if kind_of(path) not in ("parquet", "tfrecord"):
            raise UsageError(f"{path}: rows are set aside in a .parquet or .tfrecord file.")
        self._source_schema = schema
        self._schema = schema_with_reasons(_arrow.arrow_of(schema), path)
        self._writer = writers.open(path, self._schema, force=force)

    def __enter__(self) -> Quarantine:
        if self._writer is not None:
            self._writer.__enter__()
        return self

    def write(self, block: Block, reasons: Why) -> None:
        """Takes the rows of a block that leave. Every block is to be shown, if none of its rows leaves too.

        Args:
            block: The rows as they came.
            reasons: Which of them leave, and why.
        """
        places = np.flatnonzero(reasons.is_bad)
        self.num_seen += len(block)
        self.num_rows += len(places)
        if self._writer is not None and len(places):
            self._writer.write(self._batch(block, places, reasons))

    def _batch(self, block: Block, places: NDArray[np.intp], reasons: Why) -> pa.RecordBatch:
        pa = need("pyarrow")
        rows = rows_of(block, self._source_schema).take(pa.array(places))
        blamed, why = reasons.of(places)
        found = {name: rows.column(name).to_pylist() for name in {name for names in blamed for name in names}}
        values = [[_text(found[name][row]) for name in names] for row, names in enumerate(blamed)]
        texts = pa.list_(pa.string())
        added = [
            pa.array(block.first_row + places, pa.int64()),
            pa.array([block.file] * len(places), pa.string()),
            pa.array(blamed, texts),
            pa.array(why, texts),
            pa.array(values, texts),
        ]
        return pa.RecordBatch.from_arrays([*rows.columns, *added], schema=self._schema)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        parts = [each for each in (self._beside, self._writer) if each is not None]
        if kind is not None:
            for each in parts:
                each.discard()
            return
        try:
            self._check()
            if self._writer is not None and self._beside is not None:
                kept = self._beside.num_rows
                self._writer.notes = {_NUM_ROWS: str(self.num_seen), _NUM_KEPT: str(kept)}
            for each in parts:
                each.finish()
            for each in parts:
                each.commit()
        except BaseException:
            for each in parts:
                each.discard()
            raise

    def _check(self) -> None:
        if self._beside is not None and self._beside.num_rows + self.num_rows != self.num_seen:
            raise UsageError(
                f"{self._beside.path} got {self._beside.num_rows:,} rows and {self.num_rows:,} were set aside, of "
                f"{self.num_seen:,}. This is a fault of nanguard's. Nothing was written."
            )


def open(path: str | None, schema: Schema, *, beside: writers.Writer | None = None, force: bool = False) -> Quarantine:
    """Makes a quarantine, to be used in a `with` statement inside that of the clean file's writer.

    Args:
        path: A .parquet or .tfrecord file, or None to count only.
        schema: The columns of the source.
        beside: The clean file's writer: both files get their names together or not at all.
        force: Whether a file that is there already may be overwritten.

    Raises:
        UsageError: If the file exists and `force` is False, cannot hold a column, or is the clean file.

    Example:

    >>> import tempfile
    >>> from nanguard.clean.rows import Reasons
    >>> block = Block(np.array([[1.0], [1e30], [3.0]]), np.zeros(1, np.int64), None, 0)
    >>> schema = Schema(("a",), ("a",))
    >>> reasons = Reasons(3, schema.names)
    >>> reasons.add("outlier", np.array([False, True, False]), block.numbers > 1e3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with open(f"{folder}/bad.parquet", schema) as aside:
    ...         aside.write(block, reasons)
    ...     found = next(sources.open(f"{folder}/bad.parquet").blocks())
    >>> found.column("nanguard_row").to_pylist(), found.column("nanguard_values").to_pylist()
    ([1], [['1e+30']])
    """
    return Quarantine(path, schema, beside=beside, force=force)


def schema_with_reasons(schema: pa.Schema, path: str) -> pa.Schema:
    """The columns of the source and those that are added.

    Raises:
        UsageError: If the source has columns of these names: it is a quarantine itself.
    """
    pa = need("pyarrow")
    if taken := [name for name in ADDED if name in schema.names]:
        raise UsageError(f"{path}: the rows have a column {taken[0]!r} already. Rename it first.")
    texts = pa.list_(pa.string())
    kinds = (pa.int64(), pa.string(), texts, texts, texts)
    return pa.schema([*schema, *(pa.field(name, kind) for name, kind in zip(ADDED, kinds, strict=True))])


def rows_of(block: Block, schema: Schema) -> pa.RecordBatch:
    """The rows of a block as they came, as Arrow."""
    if block.batch is not None:
        return _arrow.conform(block.batch, _arrow.arrow_of(schema), block.file or "the source", block.first_row)
    return writers.cleaned_batch(block, schema, block.numbers, np.zeros(block.numbers.shape, np.bool_))


def _text(value: Any) -> str:
    """A cell as text; a float in as many digits as tell it from its neighbours."""
    return "null" if value is None else str(value)


# -- the way back


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
    >>> aside = {"a": [9.0], ROW: [1], FILE: [None], COLUMNS: [["a"]], REASONS: [["outlier"]], VALUES: [["9.0"]]}
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
    good = _opened_clean(clean, bad)
    schema = good.arrow_schema
    num_clean = 0

    def clean_rows() -> Iterator[pa.RecordBatch]:
        nonlocal num_clean
        for block in good.blocks():
            num_clean += len(block)
            yield rows_of(block, good.schema)

    with writers.open(output, schema, force=force) as writer:
        for batch in _merged(clean_rows(), bad.rows(schema), f"{clean} and {quarantine}"):
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
        names: The columns of the source.
        types: Their Arrow types.
        num_kept: How many rows were kept when it was written, if it says so.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.num_kept: int | None = None
        self._source: sources.Source | None = None
        self.types: dict[str, Any] = {}
        if kind_of(path) == "tfrecord" and os.path.isfile(path) and not os.path.getsize(path):
            return  # no row was set aside
        self._source = sources.open(path, may_be_empty=True)
        schema = self._source.arrow_schema
        if ROW not in schema.names:
            raise UsageError(f"{path} holds no rows that were set aside: it has no column {ROW!r}.")
        self.types = {field.name: field.type for field in schema if not _ADDED.fullmatch(field.name)}
        if kind_of(path) == "parquet":
            notes = need("pyarrow.parquet").read_metadata(path).metadata or {}
            self.num_kept = int(notes[_NUM_KEPT.encode()]) if _NUM_KEPT.encode() in notes else None

    @property
    def names(self) -> list[str]:
        return list(self.types)

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
    for name in bad.names:
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
