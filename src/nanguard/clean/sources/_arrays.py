"""Arrays of any kind as Arrow columns: what a batch in memory, of a data set or of an archive, is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nanguard.clean.sources import _arrow
from nanguard.clean.sources._messages import reason, shown
from nanguard.clean.sources._needs import need
from nanguard.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

LABEL, WEIGHT = "label", "sample_weight"


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of some rows.

    Attributes:
        name: Its name in the table.
        values: Shape (rows,), of NumPy or Arrow.
        array: The array that it is a part of, if that has several columns.
        place: Where in that array it is.
    """

    name: str
    values: Any
    array: str | None = None
    place: int = 0


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of some rows.

    Attributes:
        columns: All of them, in order.
        labels: The names of those that are labels.
        weights: The names of those that are sample weights.
    """

    columns: tuple[Column, ...]
    labels: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()


def is_matrix(rows: Any) -> bool:
    """Whether rows are one matrix of floats, which needs no Arrow."""
    plain = isinstance(rows, np.ndarray) and not isinstance(rows, np.ma.MaskedArray)
    return plain and rows.ndim == 2 and _is_float(rows.dtype) and rows.dtype.itemsize <= 8


def columns_of(rows: Any, *, label: str | None, source: str) -> Columns:
    """Parts rows into columns.

    Args:
        rows: An array of one or two dimensions, a structured array, a dict of arrays, a frame, or a tuple of features,
            labels and, if it has three parts, sample weights, each of which is one of these.
        label: What a label without a name is called; "label" if not given.
        source: What messages call it.

    Raises:
        UsageError: If it is none of these, or the parts have different numbers of rows.
    """
    if not isinstance(rows, tuple) or hasattr(rows, "_fields"):
        made = Columns(tuple(_parted("", rows, source)))
    elif len(rows) in (1, 2, 3):
        features = list(_parted("", rows[0], source))
        labels = list(_parted(label or LABEL, rows[1], source)) if len(rows) > 1 and rows[1] is not None else []
        weights = list(_parted(WEIGHT, rows[2], source)) if len(rows) > 2 and rows[2] is not None else []
        names = tuple(tuple(column.name for column in part) for part in (labels, weights))
        made = Columns((*features, *labels, *weights), *names)
    else:
        raise UsageError(f"{source} must be features, (features, labels) or these with weights, not {len(rows)} parts.")
    _arrow.check_names([column.name for column in made.columns], source)
    _check_lengths(made, source)
    return made


def _parted(name: str, rows: Any, source: str) -> Iterator[Column]:
    """The columns of one part; those of a nameless matrix are called by their place."""
    if isinstance(rows, Mapping):
        for key, values in rows.items():
            yield from _parted(f"{name}_{key}" if name else str(key), values, source)
    elif _is_arrow(rows):
        yield Column(name or "0", rows)
    elif (frame := _frame(rows)) is not None:
        for key in frame.column_names:
            yield Column(f"{name}_{key}" if name and len(frame.column_names) > 1 else name or key, frame.column(key))
    else:
        yield from _of_array(name, _as_array(rows, name, source), source)


def _of_array(name: str, array: NDArray[Any], source: str) -> Iterator[Column]:
    called = f"{source}, {name!r}" if name else source
    if array.dtype.names is not None:
        for field in array.dtype.names:
            yield from _of_array(f"{name}_{field}" if name else field, array[field], source)
    elif array.dtype.kind == "c":
        raise UsageError(f"{called} is {array.dtype}: complex numbers are not cleaned. Give real and imaginary part.")
    elif array.ndim == 1:
        yield Column(name or "0", array)
    elif array.ndim == 2 and array.shape[1] == 1 and name:
        yield Column(name, array[:, 0], name)
    elif array.ndim == 2:
        for place in range(array.shape[1]):
            yield Column(f"{name}_{place}" if name else str(place), array[:, place], name, place)
    else:
        raise UsageError(
            f"{called} has rows of the shape {array.shape[1:]}: a row must be a vector. Reshape it to (rows, columns), "
            "or give each step of a sequence as a row."
        )


def _as_array(rows: Any, name: str, source: str) -> NDArray[Any]:
    if isinstance(rows, np.ndarray):
        return rows
    try:
        array = np.asarray(rows)
    except ValueError as error:  # NumPy's word for rows of different lengths
        raise UsageError(f"{source}{f', {name!r},' if name else ''} has rows of different lengths.") from error
    if array.ndim == 0:
        raise UsageError(f"{source} is {shown(rows)}, of the type {type(rows).__name__}, which is no table.")
    return array


def _is_arrow(rows: Any) -> bool:
    return type(rows).__module__.startswith("pyarrow") and not hasattr(rows, "schema")


def _frame(rows: Any) -> Any:
    """A frame as an Arrow table, or None."""
    library = type(rows).__module__.partition(".")[0]
    if library == "pandas":
        pa = need("pyarrow")
        if type(rows).__name__ == "Series":
            return pa.table({str(0 if rows.name is None else rows.name): pa.Array.from_pandas(rows)})
        return pa.Table.from_pandas(rows, preserve_index=False)
    if hasattr(rows, "__arrow_c_stream__") or library == "pyarrow":
        pa = need("pyarrow")
        if isinstance(rows, pa.RecordBatch):
            return pa.Table.from_batches([rows])
        try:
            return pa.table(rows)
        except pa.ArrowInvalid:  # a series: a stream of values, and not of rows
            return pa.table({str(getattr(rows, "name", None) or 0): pa.chunked_array(rows)})
    return None


def _check_lengths(made: Columns, source: str) -> None:
    first = made.columns[0]
    for column in made.columns:
        if len(column.values) != len(first.values):
            raise UsageError(
                f"{source} has {len(first.values)} rows in {first.name!r} and {len(column.values)} in {column.name!r}."
            )


def batch_of(made: Columns, *, source: str, first_row: int = 0) -> pa.RecordBatch:
    """The columns as an Arrow batch whose fields know which array they are a part of.

    Raises:
        UsageError: If a value is not of the type of its column; names the row.
    """
    pa = need("pyarrow")
    arrays, fields = [], []
    for column in made.columns:
        array = _arrow_array(column, source, first_row)
        metadata: dict[bytes, bytes] = {}
        if column.array is not None:
            metadata |= {_arrow.ARRAY: column.array.encode(), _arrow.PLACE: str(column.place).encode()}
        if isinstance(column.values, np.ndarray) and _is_foreign(column.values.dtype):
            metadata[_arrow.DTYPE] = column.values.dtype.name.encode()
        arrays.append(array)
        fields.append(pa.field(column.name, array.type, metadata=metadata or None))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _arrow_array(column: Column, source: str, first_row: int) -> pa.Array:
    pa = need("pyarrow")
    values = column.values
    if isinstance(values, pa.ChunkedArray):
        chunks = [_arrow.without_views(chunk) for chunk in values.chunks]
        return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks) if chunks else pa.array([], values.type)
    if isinstance(values, pa.Array):
        return _arrow.without_views(values)
    mask = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    plain = np.asarray(values)
    if plain.dtype.kind == "O":
        if mask is not None:
            plain = plain.copy()
            plain[mask] = None
        return _of_objects(plain, column.name, source, first_row)
    if plain.dtype.kind == "T":  # NumPy's own text of any length
        plain = plain.astype(object)
    elif _is_foreign(plain.dtype):
        plain = plain.astype(np.float32)
    elif plain.dtype.kind == "f" and plain.dtype.itemsize > 8:
        plain = plain.astype(np.float64)
    elif plain.dtype.kind in "mM" and np.datetime_data(plain.dtype)[0] not in ("D", "s", "ms", "us", "ns"):
        plain = plain.astype(f"{plain.dtype.kind}8[s]")
    array = pa.array(plain, mask=mask)
    return as_text(array) if pa.types.is_binary(array.type) else array


def _of_objects(values: NDArray[Any], name: str, source: str, first_row: int) -> pa.Array:
    pa = need("pyarrow")
    try:
        array = pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        row = _first_odd(values)
        raise UsageError(
            f"{source}, row {first_row + row}, column {name!r}: {shown(values[row])} is of another type "
            f"than the values before it: {reason(error)}"
        ) from error
    return as_text(array) if pa.types.is_binary(array.type) else array


def _first_odd(values: NDArray[Any]) -> int:
    """The place of the first object that does not go with those before it, by bisection."""
    pa = need("pyarrow")
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            pa.array(values[:middle], from_pandas=True)
            low = middle
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            high = middle
    return low


def as_text(array: pa.Array) -> pa.Array:
    """Bytes as text, if they are."""
    pa = need("pyarrow")
    try:
        return array.cast(pa.string())
    except pa.ArrowInvalid:
        return array


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or _is_foreign(dtype)


def _is_foreign(dtype: np.dtype[Any]) -> bool:
    """Whether it is bfloat16 or another small number of ml_dtypes, which Arrow does not have."""
    return dtype.type.__module__.startswith("ml_dtypes")
