"""Paths: what a file is by its name, and several files as one table."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nanguard.clean.block import Block
from nanguard.clean.sources import _arrow, _npz
from nanguard.clean.sources._csv import CsvOptions, CsvSource
from nanguard.clean.sources._needs import need
from nanguard.clean.sources._parquet import ParquetSource
from nanguard.clean.sources._source import Source
from nanguard.clean.sources._tfrecord import TfrecordSource
from nanguard.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

_KINDS = (
    ("csv", re.compile(r"\.(csv|tsv|txt)(\.(gz|bz2|zst|lz4))?$", re.IGNORECASE)),
    ("parquet", re.compile(r"\.(parquet|pq|parq)$", re.IGNORECASE)),
    ("npz", re.compile(r"\.npz$", re.IGNORECASE)),
    ("npy", re.compile(r"\.npy$", re.IGNORECASE)),
    # Shards are called name.tfrecord-00000-of-00010.
    ("tfrecord", re.compile(r"\.tfrecords?(-\d+-of-\d+)?(\.gz)?$", re.IGNORECASE)),
)
KNOWN = ".csv, .tsv, .csv.gz, .parquet, .tfrecord, .npz or .npy"


def kind_of(path: str) -> str | None:
    """The format of a file, by its name."""
    return next((kind for kind, pattern in _KINDS if pattern.search(path)), None)


def path(
    given: str,
    *,
    columns: Sequence[str] | None,
    label: str | None,
    batch_rows: int,
    options: CsvOptions,
    may_be_empty: bool = False,
) -> Source:
    """The source of a file, a folder or a pattern such as `logs/*.csv`."""
    files = _listed(given)
    kinds = {kind_of(file) for file in files}
    if len(kinds) > 1:
        one, other = files[0], next(file for file in files if kind_of(file) != kind_of(files[0]))
        raise UsageError(
            f"{given} has files of more than one kind, such as {one} and {other}. Give one kind: *.parquet"
        )
    kind = kinds.pop()
    if kind != "csv" and (options.dtypes or options.delimiter or options.encoding != "utf-8"):
        raise UsageError(f"{given} is no CSV file: types, delimiter and encoding are its own.")
    sources = [
        _file(file, kind, columns=columns, label=label, batch_rows=batch_rows, options=options) for file in files
    ]
    return sources[0] if len(sources) == 1 else Files(given, sources)


def _listed(given: str) -> list[str]:
    if os.path.isdir(given):
        names = sorted(name for name in os.listdir(given) if not name.startswith((".", "_")))
        files = [os.path.join(given, name) for name in names]
        files = [file for file in files if os.path.isfile(file) and kind_of(file)]
        if not files:
            raise UsageError(f"{given} has no files that are known: {KNOWN}.")
        return files
    if not os.path.lexists(given):
        files = sorted(file for file in glob.glob(given, recursive=True) if os.path.isfile(file))
        if not files:
            is_pattern = glob.has_magic(given)
            raise UsageError(f"{given} matches no file." if is_pattern else f"{given} does not exist.")
    else:
        files = [given]
    for file in files:
        if kind_of(file) is None:
            raise UsageError(f"{file} is of no kind that is known by its name: {KNOWN}.")
    return files


def _file(
    file: str,
    kind: str | None,
    *,
    columns: Sequence[str] | None,
    label: str | None,
    batch_rows: int,
    options: CsvOptions,
) -> Source:
    try:
        if os.path.getsize(file) == 0:
            raise UsageError(f"{file} is empty.")
        if kind == "csv":
            return CsvSource(file, options, columns=columns, batch_rows=batch_rows)
        if kind == "parquet":
            return ParquetSource(file, columns=columns, batch_rows=batch_rows)
        if kind == "tfrecord":
            return TfrecordSource(file, columns=columns, batch_rows=batch_rows)
        read = _npz.npz if kind == "npz" else _npz.npy
        return read(file, columns=columns, label=label, batch_rows=batch_rows)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}.") from error


class Files(Source):
    """Several files that have the same columns, one after the other.

    Args:
        name: What messages call them together.
        sources: The files' own sources, at least one.

    Raises:
        UsageError: If their columns differ.
    """

    def __init__(self, name: str, sources: Sequence[Source]) -> None:
        self.name, self.sources = name, tuple(sources)
        first = sources[0]
        self.labels, self.weights = first.labels, first.weights
        for other in sources[1:]:
            _check_columns(first, other)
        counts = [each.num_rows for each in sources]
        self.num_rows = None if any(count is None for count in counts) else sum(count or 0 for count in counts)
        for each in sources:
            each.may_be_empty = True
        self._settle()

    @property
    def arrow_schema(self) -> pa.Schema:
        return self._arrow_schema

    def _settle(self) -> None:
        """The columns with types that hold what all files have."""
        pa = need("pyarrow")
        fields = []
        for field in self.sources[0].arrow_schema:
            kind = field.type
            for other in self.sources[1:]:
                theirs = other.arrow_schema.field(field.name).type
                common = kind if theirs == kind else _arrow.wider(kind, than=theirs)
                if common is None:
                    mine, its = (each.schema.types[field.name] for each in (self.sources[0], other))
                    raise UsageError(
                        f"{other.name}, column {field.name!r} is {its}, and {mine} in {self.sources[0].name}. "
                        f"{_way_out(other, field.name)}"
                    )
                kind = common
            fields.append(field.with_type(kind))
        self._arrow_schema = pa.schema(fields)
        self.schema = _arrow.schema_of(self._arrow_schema, self.name)

    def _blocks(self) -> Iterator[Block]:
        before = 0
        for source in self.sources:
            num_rows = 0
            known = source.arrow_schema
            for block in source.blocks():
                if source.arrow_schema != known:  # while it was read a column became wider
                    known = source.arrow_schema
                    self._settle()
                yield self.placed(block, source, before)
                num_rows += len(block)
            before += num_rows
        self._settle()

    def placed(self, block: Block, source: Source, before: int) -> Block:
        """A block of one of the files as a block of the whole table.

        Args:
            block: The block.
            source: The file that it is from.
            before: The number of the file's first row in the table.
        """
        batch, numbers, num_nulls = block.batch, block.numbers, block.num_nulls
        if batch is not None and batch.schema != self._arrow_schema:
            batch = _arrow.conform(batch, self._arrow_schema, source.name, block.first_row)
        if source.schema.numbers != self.schema.numbers:
            order = [source.schema.numbers.index(name) for name in self.schema.numbers]
            numbers, num_nulls = np.asfortranarray(numbers[:, order]), num_nulls[order]
        return dataclasses.replace(
            block, numbers=numbers, num_nulls=num_nulls, batch=batch, first_row=before + block.first_row
        )


def _check_columns(first: Source, other: Source) -> None:
    mine, theirs = first.schema.names, other.schema.names
    for name in mine:
        if name not in theirs:
            raise UsageError(f"{other.name} has no column {name!r}, which {first.name} has.")
    for name in theirs:
        if name not in mine:
            raise UsageError(f"{other.name} has a column {name!r}, which {first.name} does not have.")


def _way_out(source: Source, name: str) -> str:
    if isinstance(source, CsvSource):
        return f"To read it as text everywhere, add --dtype {name}=string."
    return "Give them one type."
