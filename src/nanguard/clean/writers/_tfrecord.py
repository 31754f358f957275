"""TFRecord files of `tf.train.Example`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nanguard.clean.sources import _arrow
from nanguard.clean.sources._needs import need
from nanguard.clean.writers._npz import arrays_of
from nanguard.clean.writers._writer import Writer, draft, plain, refuse
from nanguard.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

# The fields of an Example in the wire format of protocol buffers: number << 3 | kind, where 2 is a run of bytes.
_KEY, _VALUE = b"\x0a", b"\x12"
_LISTS = {"bytes": b"\x0a", "float": b"\x12", "int64": b"\x1a"}


class TfrecordWriter(Writer):
    """A TFRecord file, one example for each row, packed if its name ends in `.gz`.

    An example has floats of 32 bits and no others: a float64 is rounded. A missing cell has no feature. Times are text.
    Columns that were one vector are one again.

    The examples are put together here and not by protobuf, which takes ten times as long; TensorFlow writes them.
    """

    def __init__(self, path: str, schema: pa.Schema) -> None:
        super().__init__(path, schema)
        refuse(path, schema, lambda kind: _list_of(kind) is not None, "a TFRecord file")
        # A matrix without a name has a feature for each column.
        nameless = arrays_of(schema).get("", [])
        self._arrays = {name: part for name, part in arrays_of(schema).items() if name} | {n: [n] for n in nameless}

    def _start(self) -> None:
        tf = need("tensorflow")
        draft(self._draft).close()  # TensorFlow would overwrite another's
        packing = "GZIP" if self.path.endswith(".gz") else ""
        self._file = tf.io.TFRecordWriter(self._draft, packing)

    def _add(self, batch: pa.RecordBatch) -> None:
        batch = _arrow.conform(batch, plain(batch.schema), self.path, self.num_rows)
        features = [_features(name, [batch.column(each) for each in part]) for name, part in self._arrays.items()]
        for entries in zip(*features, strict=True):
            content = b"".join(entries)
            self._file.write(_KEY + _varint(len(content)) + content)

    def _end(self) -> None:
        self._file.close()
        descriptor = os.open(self._draft, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _stop(self) -> None:
        with contextlib.suppress(Exception):
            self._file.close()


def _list_of(kind: pa.DataType) -> str | None:
    """The list of an example that holds values of an Arrow type."""
    types = need("pyarrow").types
    if types.is_floating(kind) or types.is_decimal(kind) or types.is_null(kind):
        return "float"
    if types.is_integer(kind) or types.is_boolean(kind):
        return "int64"
    if types.is_dictionary(kind):
        return _list_of(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return None if types.is_nested(kind.value_type) else _list_of(kind.value_type)
    if types.is_interval(kind) or types.is_duration(kind):
        return None
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind)
    return "bytes" if is_bytes or _arrow.role_of(kind) in ("categories", "datetimes") else None


def _features(name: str, columns: Sequence[pa.Array]) -> list[bytes]:
    """The entries of one feature, one for each row; nothing where the row lacks it."""
    kind = _list_of(columns[0].type)
    assert kind is not None
    key = _KEY + _run(name.encode())
    wrap: Callable[[Sequence[Any]], bytes] = {"float": _floats, "int64": _integers, "bytes": _texts}[kind]
    if kind == "float" and len(columns) == 1 and not _is_list(columns[0].type):
        return _float_features(key, columns[0])
    entries = []
    for values in _rows(columns):
        if values is None:
            entries.append(b"")
            continue
        if kind != "float" and None in values:
            raise UsageError(
                f"An example cannot hold {name!r} with a gap among its values. Write .parquet, or fill it."
            )
        value = _VALUE + _run(_LISTS[kind] + _run(wrap(values)))
        content = key + value
        entries.append(_KEY + _varint(len(content)) + content)
    return entries


def _float_features(key: bytes, column: pa.Array) -> list[bytes]:
    """The same for a column of floats, whose entries differ in four bytes only."""
    packed = _floats([0.0])[:-4]
    body = key + _VALUE + _run(_LISTS["float"] + _run(packed + bytes(4)))
    start = (_KEY + _varint(len(body)) + body)[:-4]
    content = np.ascontiguousarray(_arrow.floats_of(column), "<f4").tobytes()
    entries = [start + content[at : at + 4] for at in range(0, len(content), 4)]
    if column.null_count:
        for row in np.flatnonzero(~column.is_valid().to_numpy(zero_copy_only=False)):
            entries[row] = b""
    return entries


def _rows(columns: Sequence[pa.Array]) -> list[list[Any] | None]:
    """The values of each row; None where the row has none."""
    if len(columns) > 1:
        together = zip(*(_python(column) for column in columns), strict=True)
        return [None if all(value is None for value in row) else list(row) for row in together]
    values = _python(columns[0])
    return values if _is_list(columns[0].type) else [None if value is None else [value] for value in values]


def _python(column: pa.Array) -> list[Any]:
    pa = need("pyarrow")
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.string())
    return list(column.to_pylist())


def _is_list(kind: pa.DataType) -> bool:
    types = need("pyarrow").types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _floats(values: Sequence[Any]) -> bytes:
    with np.errstate(over="ignore"):
        # A vector with a gap keeps its length: None becomes NaN.
        return _KEY + _run(np.asarray(values, np.float64).astype("<f4").tobytes())


def _integers(values: Sequence[Any]) -> bytes:
    return _KEY + _run(b"".join(_varint(int(value) & 0xFFFF_FFFF_FFFF_FFFF) for value in values))


def _texts(values: Sequence[Any]) -> bytes:
    return b"".join(_KEY + _run(value.encode() if isinstance(value, str) else value) for value in values)


def _run(content: bytes) -> bytes:
    """Bytes after their length."""
    return _varint(len(content)) + content


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    made = bytearray()
    while number >= 0x80:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)
