"""Frames of any library that narwhals knows, and Arrow's own tables, streams and data sets."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nanguard.clean.sources import _arrow
from nanguard.clean.sources._chunks import Chunks, chunked
from nanguard.clean.sources._messages import reason, shown
from nanguard.clean.sources._needs import need
from nanguard.clean.sources._parquet import ParquetSource
from nanguard.clean.sources._source import ArrowSource, Source
from nanguard.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa


class FrameSource(ArrowSource):
    """A frame in memory, cut as it is read. An index is no column.

    Args:
        name: What messages call it.
        frame: A narwhals frame.
        columns: Which columns to read, or all.
        batch_rows: How many rows a block has at most.
    """

    def __init__(self, name: str, frame: Any, *, columns: Sequence[str] | None, batch_rows: int) -> None:
        _arrow.check_names([str(each) for each in frame.columns], name)
        if any(not isinstance(each, str) for each in frame.columns):
            frame = frame.rename({each: str(each) for each in frame.columns})
        self._frame = frame.select(_arrow.chosen_names(frame.columns, columns, name))
        self.name = name
        super().__init__(name, self._arrow_schema_of(batch_rows), batch_rows=batch_rows)
        self.num_rows = len(frame)

    def _arrow_schema_of(self, batch_rows: int) -> pa.Schema:
        """The types of whole columns: of a column of objects the first rows need not tell."""
        pa, nw = need("pyarrow"), need("narwhals")
        fields = []
        for column in self._frame.columns:
            is_plain = self._frame[column].dtype != nw.Object
            part = self._frame[column].head(batch_rows) if is_plain else self._frame[column]
            fields.append(pa.field(column, self._converted(part, column).type))
        return pa.schema(fields)

    def _converted(self, series: Any, column: str) -> Any:
        pa = need("pyarrow")
        try:
            return series.to_arrow()
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            low, high = 0, len(series)
            while high - low > 1:
                middle = (low + high) // 2
                try:
                    series[:middle].to_arrow()
                    low = middle
                except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
                    high = middle
            raise UsageError(
                f"{self.name}, row {low}, column {column!r}: {shown(series[low])} does not go with the values "
                f"before it: {reason(error)}"
            ) from error

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for start in range(0, self.num_rows or 0, self.batch_rows):
            # The index of a pandas frame comes along as a column.
            table = self._frame[start : start + self.batch_rows].to_arrow().select(self._frame.columns)
            table = table.combine_chunks()
            for batch in table.to_batches():
                yield _arrow.conform(batch, self.arrow_schema, self.name, start)


class BatchSource(ArrowSource):
    """Arrow batches of one schema, such as those of a stream or of a data set of Arrow's.

    Args:
        name: What messages call it.
        schema: Their schema.
        make: Gives the batches.
        columns: Which columns to read, or all.
        batch_rows: How many rows a block has at most.
    """

    def __init__(
        self,
        name: str,
        schema: pa.Schema,
        make: Callable[[], Iterable[pa.RecordBatch]],
        *,
        columns: Sequence[str] | None,
        batch_rows: int,
    ) -> None:
        pa = need("pyarrow")
        _arrow.check_names(schema.names, name)
        self._names = _arrow.chosen_names(schema.names, columns, name)
        chosen = pa.schema([schema.field(each) for each in self._names])
        super().__init__(name, chosen, batch_rows=batch_rows)
        self._make = make

    def _batches(self) -> Iterator[pa.RecordBatch]:
        pa = need("pyarrow")
        num_rows = 0
        try:
            for batch in self._make():
                yield batch.select(self._names)
                num_rows += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{self.name} cannot be read after row {num_rows}: {reason(error)}") from error


def frame(rows: Any, *, columns: Sequence[str] | None, batch_rows: int) -> Source | None:
    """The source of a frame, a lazy frame, a table, a stream or a data set of Arrow's; None if it is none."""
    library = type(rows).__module__.partition(".")[0]
    if library in ("builtins", "numpy", "tensorflow", "keras", "torch", "jax"):
        return None
    name = f"{library}.{type(rows).__name__}"
    if library == "pyarrow" and (made := _of_arrow(name, rows, columns, batch_rows)) is not None:
        return made
    if library == "pandas" and hasattr(rows, "columns"):  # said here in our own words
        _arrow.check_names([str(each) for each in rows.columns], name)
    if library == "dask" and hasattr(rows, "get_partition"):
        return _of_dask(name, rows, columns, batch_rows)
    nw = _narwhals(rows)
    if nw is None:
        return _of_stream(name, rows, columns, batch_rows)
    if hasattr(nw, "collect"):
        return _of_lazy(name, nw, columns, batch_rows)
    return FrameSource(name, nw, columns=columns, batch_rows=batch_rows)


def _of_arrow(name: str, rows: Any, columns: Sequence[str] | None, batch_rows: int) -> Source | None:
    pa = need("pyarrow")
    if isinstance(rows, pa.RecordBatchReader):
        return _of_stream(name, rows, columns, batch_rows)
    if isinstance(rows, (pa.Table, pa.RecordBatch)):
        table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        made = BatchSource(
            name, table.schema.remove_metadata(), table.to_batches, columns=columns, batch_rows=batch_rows
        )
        made.num_rows = table.num_rows
        return made
    if type(rows).__module__.startswith(("pyarrow.dataset", "pyarrow._dataset")):

        def batches() -> Any:
            return rows.scanner(
                columns=columns, batch_size=batch_rows, batch_readahead=1, fragment_readahead=1, use_threads=False
            ).to_batches()

        return BatchSource(name, rows.schema.remove_metadata(), batches, columns=columns, batch_rows=batch_rows)
    return None


def _of_stream(name: str, rows: Any, columns: Sequence[str] | None, batch_rows: int) -> Source | None:
    """The source of anything that speaks Arrow's stream protocol."""
    if not hasattr(rows, "__arrow_c_stream__"):
        return None
    pa = need("pyarrow")
    is_reader = isinstance(rows, pa.RecordBatchReader)
    try:
        reader = rows if is_reader else pa.RecordBatchReader.from_stream(rows)
    except pa.ArrowInvalid:  # a stream of arrays, and not of rows
        return None
    make = (lambda: reader) if is_reader else (lambda: pa.RecordBatchReader.from_stream(rows))
    made = BatchSource(name, reader.schema.remove_metadata(), make, columns=columns, batch_rows=batch_rows)
    made.is_replayable = not is_reader
    return made


def _of_dask(name: str, rows: Any, columns: Sequence[str] | None, batch_rows: int) -> Source:
    """A frame of Dask is computed one partition at a time."""
    chosen = rows[_arrow.chosen_names(list(rows.columns), columns, name)]

    def partitions() -> Iterator[Any]:
        for place in range(chosen.npartitions):
            yield chosen.get_partition(place).compute()

    return chunked(name, Chunks(partitions), batch_rows=batch_rows)


def _of_lazy(name: str, lazy: Any, columns: Sequence[str] | None, batch_rows: int) -> Source:
    """A query runs once, into a file of its own that goes with the source: it needs no memory for the result."""
    chosen = _arrow.chosen_names(lazy.collect_schema().names(), columns, name)
    folder = _Folder()
    path = os.path.join(folder.path, "query.parquet")
    lazy = lazy.select(chosen)
    try:
        lazy.sink_parquet(path)
    except (NotImplementedError, AttributeError):  # a library that narwhals cannot ask for it
        collected = lazy.collect(backend="pyarrow")
        need("pyarrow.parquet").write_table(collected.to_native(), path)
    return ParquetSource(path, columns=chosen, batch_rows=batch_rows, name=name, kept=folder)


class _Folder:
    """A folder for temporary files that goes when it is no longer needed."""

    def __init__(self) -> None:
        self.path = tempfile.mkdtemp(prefix="nanguard-")
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _narwhals(rows: Any) -> Any:
    nw = need("narwhals")
    try:
        made = nw.from_native(rows, allow_series=True)
    except TypeError:
        return None
    except nw.exceptions.NarwhalsError as error:
        raise UsageError(f"{type(rows).__name__}: {reason(error)}") from error
    return made.to_frame() if isinstance(made, nw.Series) else made
