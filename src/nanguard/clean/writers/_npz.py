"""NumPy's files. An array is written in one piece, so rows wait in a file of their own until all are there."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nanguard.clean.sources import _arrow
from nanguard.clean.sources._needs import need
from nanguard.clean.writers._writer import Writer, draft, plain, refuse, sync_file
from nanguard.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

_NAMELESS = "arr_0"  # what `numpy.savez` calls an array without a name


class NpzWriter(Writer):
    """An archive of arrays: one for each column, and one for the columns that were one array before.

    An integer that is missing cannot be held; a float is NaN, a time NaT, a text empty then.
    """

    def __init__(self, path: str, schema: pa.Schema) -> None:
        super().__init__(path, schema)
        refuse(path, schema, _is_fit, "a NumPy file")
        self._schema = plain(schema)
        self._arrays = arrays_of(schema)
        self._widths = {field.name: 1 for field in self._schema if _is_text(field.type)}
        self._spool_path = f"{self._draft}.rows"

    def _start(self) -> None:
        pa = need("pyarrow")
        self._stream = draft(self._draft)
        self._spool_stream = draft(self._spool_path)
        self._spool = pa.ipc.new_file(self._spool_stream, self._schema)

    def _add(self, batch: pa.RecordBatch) -> None:
        pc = need("pyarrow.compute")
        batch = _arrow.conform(batch, self._schema, self.path, self.num_rows)
        for field, column in zip(self._schema, batch.columns, strict=True):
            if field.name in self._widths:
                longest = pc.max(pc.utf8_length(column)).as_py() or 1
                self._widths[field.name] = max(self._widths[field.name], longest)
            elif column.null_count and _is_whole(field.type):
                row = self.num_rows + int(np.flatnonzero(~column.is_valid().to_numpy(zero_copy_only=False))[0])
                raise UsageError(
                    f"{self.path}, row {row}, column {field.name!r} is empty, and a NumPy file has no empty "
                    f"{field.type}. Fill it, or write .parquet."
                )
        self._spool.write_batch(batch)

    def _end(self) -> None:
        self._spool.close()
        self._spool_stream.close()
        if self.path.endswith(".npy"):
            self._write_array(self._stream, next(iter(self._arrays.values())))
        else:
            with zipfile.ZipFile(self._stream, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                for name, columns in self._arrays.items():
                    with archive.open(f"{name or _NAMELESS}.npy", "w", force_zip64=True) as member:
                        self._write_array(member, columns)
        sync_file(self._stream)
        self._stream.close()
        os.unlink(self._spool_path)

    def _write_array(self, stream: IO[bytes], columns: list[str]) -> None:
        dtypes = [self._dtype(name) for name in columns]
        dtype = np.result_type(*dtypes)
        is_matrix = len(columns) > 1 or self._is_part(columns[0])
        shape = (self.num_rows, len(columns)) if is_matrix else (self.num_rows,)
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(stream, header)
        for batch in self._read(columns):
            made = np.empty((batch.num_rows, len(columns)), dtype)
            for place, name in enumerate(columns):
                made[:, place] = _values(batch.column(name), dtypes[place])
            stream.write(made.tobytes())

    def _is_part(self, name: str) -> bool:
        return bool(self.schema.field(name).metadata and _arrow.ARRAY in self.schema.field(name).metadata)

    def _read(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        pa = need("pyarrow")
        places = sorted(self._schema.get_field_index(name) for name in columns)
        with pa.OSFile(self._spool_path) as stream:
            reader = pa.ipc.open_file(stream, options=pa.ipc.IpcReadOptions(included_fields=places, use_threads=False))
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)

    def _dtype(self, name: str) -> np.dtype[Any]:
        pa = need("pyarrow")
        kind = self._schema.field(name).type
        if name in self._widths:
            return np.dtype(f"U{self._widths[name]}")
        if pa.types.is_date(kind):
            return np.dtype("M8[D]")
        if pa.types.is_temporal(kind):
            return np.dtype(f"{'m8' if pa.types.is_duration(kind) else 'M8'}[{kind.unit}]")
        if pa.types.is_decimal(kind) or pa.types.is_null(kind):
            return np.dtype(np.float64)
        dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
        return dtype

    def _stop(self) -> None:
        for each in ("_spool", "_spool_stream", "_stream"):
            with contextlib.suppress(Exception):
                getattr(self, each).close()
        with contextlib.suppress(OSError):
            os.unlink(self._spool_path)


def arrays_of(schema: pa.Schema) -> dict[str, list[str]]:
    """The columns that make up each array, by its name."""
    found: dict[str, list[tuple[int, str]]] = {}
    for field in schema:
        metadata = field.metadata or {}
        array = metadata[_arrow.ARRAY].decode() if _arrow.ARRAY in metadata else field.name
        found.setdefault(array, []).append((int(metadata.get(_arrow.PLACE, 0)), field.name))
    return {array: [name for _, name in sorted(columns)] for array, columns in found.items()}


def _is_fit(kind: pa.DataType) -> bool:
    pa = need("pyarrow")
    role = _arrow.role_of(kind)
    if pa.types.is_dictionary(kind):
        return _is_fit(kind.value_type)
    return role != "others" and not pa.types.is_time(kind) and not pa.types.is_interval(kind)


def _is_text(kind: pa.DataType) -> bool:
    return _arrow.role_of(kind) == "categories"


def _is_whole(kind: pa.DataType) -> bool:
    pa = need("pyarrow")
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def _values(column: pa.Array, dtype: np.dtype[Any]) -> NDArray[Any]:
    pa = need("pyarrow")
    if dtype.kind == "U":
        return np.asarray(column.fill_null("").to_numpy(zero_copy_only=False)).astype(dtype)
    if dtype.kind in "mM":
        if pa.types.is_date64(column.type):
            column = column.cast(pa.date32())
        return np.asarray(column.to_numpy(zero_copy_only=False)).astype(dtype)
    if pa.types.is_boolean(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    return _arrow.floats_of(column)
