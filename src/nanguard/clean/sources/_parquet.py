"""Parquet files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nanguard.clean.block import Block
from nanguard.clean.sources._arrow import check_names, chosen_names
from nanguard.clean.sources._messages import reason
from nanguard.clean.sources._needs import need
from nanguard.clean.sources._source import ArrowSource
from nanguard.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

# Without it the whole column of a row group is read at once, packed: of a file in one group that is the file.
_BUFFER = 1 << 18
_BATCH_BYTES = 1 << 26


class ParquetSource(ArrowSource):
    """A Parquet file, read within bounded memory whatever its row groups.

    Args:
        path: The file.
        columns: Which columns to read, or all.
        batch_rows: How many rows a block has at most.
        name: What messages call it, if that is not its path: the file then belongs to the source alone.
        kept: What lives as long as the source does.
        groups: Which row groups to read, one after the other; all if left out.
    """

    def __init__(
        self,
        path: str,
        *,
        columns: Sequence[str] | None,
        batch_rows: int,
        name: str | None = None,
        kept: object = None,
        groups: range | None = None,
    ) -> None:
        pq, pa = need("pyarrow.parquet"), need("pyarrow")
        try:
            with pq.ParquetFile(path) as file:
                found = file.schema_arrow.remove_metadata()
                metadata = file.metadata
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{path} is no Parquet file, or not all of it is there: {reason(error)}") from error
        check_names(found.names, path)
        schema = pa.schema([found.field(each) for each in chosen_names(found.names, columns, path)])
        super().__init__(name or path, schema, batch_rows=batch_rows, file=None if name else path)
        groups = range(metadata.num_row_groups) if groups is None else groups
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.num_rows = sum(sizes[group] for group in groups)
        self._groups, self._group_rows = groups, sizes
        self._path, self._names, self._kept = path, list(schema.names), kept
        row_bytes = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        if metadata.num_rows:
            self.batch_rows = max(1, min(self.batch_rows, _BATCH_BYTES * metadata.num_rows // max(row_bytes, 1)))

    def split(self, num_rows: int) -> list[ParquetSource]:
        """Sources of its row groups, each of which has at least so many rows but the last. They can be pickled."""
        if self._kept is not None:
            return [self]
        pieces, start, held = [], self._groups.start, 0
        for group in self._groups:
            held += self._group_rows[group]
            if held >= num_rows or group == self._groups[-1]:
                groups = range(start, group + 1)
                pieces.append(ParquetSource(self._path, columns=self._names, batch_rows=self.batch_rows, groups=groups))
                start, held = group + 1, 0
        return pieces or [self]

    def _blocks(self) -> Iterator[Block]:
        before = sum(self._group_rows[: self._groups.start])
        for block in super()._blocks():
            yield dataclasses.replace(block, first_row_in_file=before + block.first_row) if before else block

    def _batches(self) -> Iterator[pa.RecordBatch]:
        pq, pa = need("pyarrow.parquet"), need("pyarrow")
        num_rows = 0
        try:
            with pq.ParquetFile(self._path, pre_buffer=False, buffer_size=_BUFFER) as file:
                # One thread: with more, the same work takes more CPU time.
                for batch in file.iter_batches(
                    self.batch_rows, row_groups=list(self._groups), columns=self._names, use_threads=False
                ):
                    # A name with a dot may have brought others along; and they come in the file's order.
                    yield batch if batch.schema.names == self._names else batch.select(self._names)
                    num_rows += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{self.name} is damaged after row {num_rows}: {reason(error)}") from error
