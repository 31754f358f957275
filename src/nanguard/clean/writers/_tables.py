"""Parquet and CSV files."""

from __future__ import annotations

import contextlib
import gzip
from typing import TYPE_CHECKING, Any

from nanguard.clean.sources import _arrow
from nanguard.clean.sources._needs import need
from nanguard.clean.writers._writer import Writer, draft, is_nested, plain, refuse, sync_file

if TYPE_CHECKING:
    import pyarrow as pa

# Rows that are gathered for one row group, if they come in smaller batches.
_GROUP_ROWS = 65_536
_GROUP_BYTES = 1 << 25


class ParquetWriter(Writer):
    """A Parquet file, a row group for each batch that is not small."""

    def _start(self) -> None:
        pq = need("pyarrow.parquet")
        self._stream = draft(self._draft)
        texts = [
            field.name for field in self.schema if _arrow.role_of(field.type) == "categories" or is_nested(field.type)
        ]
        self._file = pq.ParquetWriter(
            self._stream,
            self.schema.remove_metadata(),
            # Every reader has it. Writing lz4 takes as long, zstd 1.7 times, none two thirds for a file a third larger.
            compression="snappy",
            # Values are handed on in larger runs than by default, 1024, which saves a seventh of the time.
            write_batch_size=8192,
            # A dictionary of floats is as long as the column: it takes time to make, and is thrown away.
            use_dictionary=texts or False,
        )
        self._held: list[pa.RecordBatch] = []

    def _add(self, batch: pa.RecordBatch) -> None:
        self._held.append(batch)
        num_rows = sum(each.num_rows for each in self._held)
        if 2 * num_rows > _GROUP_ROWS or sum(each.nbytes for each in self._held) > _GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        pa = need("pyarrow")
        if self._held:
            self._file.write_table(pa.Table.from_batches(self._held), row_group_size=_GROUP_ROWS)
            self._held = []

    def _end(self) -> None:
        self._write_group()
        if self.notes:
            self._file.add_key_value_metadata(self.notes)
        self._file.close()
        sync_file(self._stream)
        self._stream.close()

    def _stop(self) -> None:
        with contextlib.suppress(Exception):
            self._file.close()
        self._stream.close()


class CsvWriter(Writer):
    """A CSV file, packed if its name ends in `.gz`. A null is an empty cell, and text stands in quotation marks."""

    def __init__(self, path: str, schema: pa.Schema) -> None:
        super().__init__(path, schema)
        refuse(path, schema, lambda kind: not is_nested(kind), "a CSV file")
        self._schema = plain(schema)

    def _start(self) -> None:
        csv = need("pyarrow.csv")
        self._stream = draft(self._draft)
        self._packed: Any = None
        sink: Any = self._stream
        if self.path.endswith(".gz"):
            # Level 9, the default, takes far longer for a percent or two. Without a time, equal rows give equal files.
            sink = self._packed = gzip.GzipFile(fileobj=self._stream, mode="wb", compresslevel=6, mtime=0)
        delimiter = "\t" if ".tsv" in self.path.rpartition("/")[2] else ","
        self._file = csv.CSVWriter(sink, self._schema, write_options=csv.WriteOptions(delimiter=delimiter))

    def _add(self, batch: pa.RecordBatch) -> None:
        self._file.write_batch(_arrow.conform(batch, self._schema, self.path, self.num_rows))

    def _end(self) -> None:
        self._file.close()
        if self._packed is not None:
            self._packed.close()
        sync_file(self._stream)
        self._stream.close()

    def _stop(self) -> None:
        for each in (self._file, self._packed, self._stream):
            with contextlib.suppress(Exception):
                each.close()
