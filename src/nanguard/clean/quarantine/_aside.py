"""Rows that are set aside: a file of their own, with where they were and why they left."""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nanguard.clean import writers
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
# What a Parquet file of such rows says beside its columns.
NUM_ROWS, NUM_KEPT = "nanguard.num_rows", "nanguard.num_kept"


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
                self._writer.notes = {NUM_ROWS: str(self.num_seen), NUM_KEPT: str(kept)}
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
    >>> from nanguard.clean import sources
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
