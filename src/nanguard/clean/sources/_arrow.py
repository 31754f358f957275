"""Arrow types and what they are to nanguard; Arrow batches as matrices."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nanguard.clean.block import Schema
from nanguard.clean.sources._messages import listed, shown
from nanguard.clean.sources._needs import need
from nanguard.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

# Of a field: the array that a column is a part of, its place there, and the dtype that Arrow does not have.
ARRAY, PLACE, DTYPE = b"nanguard.array", b"nanguard.place", b"nanguard.dtype"
_WORDS = {"double": "float64", "float": "float32", "halffloat": "float16"}


@dataclasses.dataclass(frozen=True)
class ArrowSchema(Schema):
    """The columns of a table with their Arrow types.

    Attributes:
        arrow: The columns as Arrow has them, or None: they are made when they are asked for, so that a matrix of
            NumPy's needs no Arrow.
        is_matrix: Whether they are the columns of one nameless array.
    """

    arrow: Any = None
    is_matrix: bool = False


def arrow_of(schema: Schema) -> pa.Schema:
    """The Arrow types of a table; made of the words for its types where it did not come as Arrow."""
    pa = need("pyarrow")
    if isinstance(schema, ArrowSchema) and schema.arrow is not None:
        return schema.arrow
    is_matrix = isinstance(schema, ArrowSchema) and schema.is_matrix
    return pa.schema([_field(name, schema.types.get(name, "float64"), is_matrix) for name in schema.names])


def _field(name: str, word: str, is_matrix: bool) -> pa.Field:
    pa = need("pyarrow")
    metadata = {ARRAY: b"", PLACE: name.encode()} if is_matrix else {}
    try:
        kind = pa.type_for_alias({"float16": "halffloat"}.get(word, word))
    except ValueError:  # a small number of ml_dtypes
        kind = pa.float32()
        metadata[DTYPE] = word.encode()
    return pa.field(name, kind, metadata=metadata or None)


def role_of(kind: pa.DataType) -> str:
    """The field of `Schema` that a column of an Arrow type goes to."""
    types = need("pyarrow").types
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind):
        return "numbers"
    if types.is_null(kind):  # a column that is missing as a whole
        return "numbers"
    if types.is_dictionary(kind) or types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "categories"
    return "datetimes" if types.is_temporal(kind) else "others"


def word_of(field: pa.Field) -> str:
    """A column's type in NumPy's words where it has one, such as `float64`."""
    if field.metadata and DTYPE in field.metadata:
        return str(field.metadata[DTYPE].decode())
    word = str(field.type)
    return _WORDS.get(word, word)


def schema_of(schema: pa.Schema, name: str) -> ArrowSchema:
    """The columns by kind.

    Raises:
        UsageError: If two have the same name.
    """
    names = tuple(schema.names)
    check_names(names, name)
    roles: dict[str, list[str]] = {"numbers": [], "categories": [], "datetimes": [], "others": []}
    for field in schema:
        roles[role_of(field.type)].append(field.name)
    numbers, categories, datetimes, others = map(tuple, roles.values())
    types = {field.name: word_of(field) for field in schema}
    return ArrowSchema(names, numbers, categories, datetimes, others, types, arrow=schema)


def check_names(names: Sequence[str], source: str) -> None:
    """Refuses a table without columns, or with two of one name."""
    if not names:
        raise UsageError(f"{source} has no columns.")
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise UsageError(f"{source} has two columns named {twice!r}. Rename one of them.")


def chosen_names(names: Sequence[str], columns: Sequence[str] | None, source: str) -> list[str]:
    """The columns to read, of those that there are.

    Raises:
        UsageError: If there is no such column.
    """
    if columns is None:
        return list(names)
    known = set(names)
    for name in columns:
        if name not in known:
            raise UsageError(f"{source} has no column {name!r}. It has {listed(names)}.")
    return list(columns)


def numbers_of(batch: pa.RecordBatch, schema: Schema) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The columns of numbers as a matrix in Fortran order, NaN where a cell is null, and how many nulls each has."""
    numbers = set(schema.numbers)
    matrix = np.empty((batch.num_rows, len(numbers)), np.float64, order="F")
    num_nulls = np.zeros(len(numbers), np.int64)
    columns = (column for name, column in zip(schema.names, batch.columns, strict=True) if name in numbers)
    for place, column in enumerate(columns):
        num_nulls[place] = column.null_count
        _fill(matrix[:, place], column)
    return matrix, num_nulls


def _fill(target: NDArray[np.float64], column: pa.Array) -> None:
    """Writes a column of numbers into one of a matrix.

    Its memory is read as it is: `to_numpy` makes a copy first where there are nulls, which takes four times as long.
    """
    types = need("pyarrow").types
    if not len(column) or not (types.is_integer(column.type) or types.is_floating(column.type)):
        target[...] = floats_of(column)
        return
    valid, values = column.buffers()
    size = column.offset + len(column)
    np.copyto(target, np.frombuffer(values, column.type.to_pandas_dtype(), count=size)[column.offset :])
    if column.null_count:
        first = column.offset >> 3  # the byte of the first row's bit
        bits = np.unpackbits(np.frombuffer(valid, np.uint8)[first : (size + 7) >> 3], bitorder="little")
        start = column.offset & 7
        np.putmask(target, bits[start : start + len(column)] == 0, np.nan)


def floats_of(column: pa.Array) -> NDArray[Any]:
    """A column of numbers as a NumPy array of some float or integer dtype, NaN where a cell is null."""
    pa = need("pyarrow")
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif pa.types.is_decimal(kind) or pa.types.is_null(kind):
        column = column.cast(pa.float64())
    return np.asarray(column.to_numpy(zero_copy_only=False))


def viewless(kind: pa.DataType) -> pa.DataType:
    """The type that holds the same in one piece of memory: Arrow itself can do little with views, which polars has."""
    pa = need("pyarrow")
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, viewless(kind.value_type), kind.ordered)
    if pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(kind) else kind


def without_views(array: pa.Array) -> pa.Array:
    """An array in the type that `viewless` gives."""
    pa = need("pyarrow")
    kind = viewless(array.type)
    if kind == array.type:
        return array
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(
            array.indices, array.dictionary.cast(kind.value_type), ordered=kind.ordered
        )
    return array.cast(kind)


def joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Several batches as one."""
    return batches[0] if len(batches) == 1 else need("pyarrow").concat_batches(batches)


def conform(batch: pa.RecordBatch, schema: pa.Schema, source: str, first_row: int) -> pa.RecordBatch:
    """A batch with its columns in the order and the types of a schema.

    Raises:
        UsageError: If a column is missing, is not known, or does not fit.
    """
    pa = need("pyarrow")
    if batch.schema == schema:
        return batch.replace_schema_metadata(None) if batch.schema.metadata else batch
    check_same_columns(batch.schema.names, schema.names, f"{source}, row {first_row}")
    columns = []
    for field in schema:
        column = batch.column(field.name)
        columns.append(column if column.type == field.type else cast(column, field, source, first_row))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def check_same_columns(names: Sequence[str], expected: Sequence[str], source: str) -> None:
    """Refuses a part of a table whose columns are not those of the first part."""
    if missing := [name for name in expected if name not in set(names)]:
        raise UsageError(f"{source} has no column {missing[0]!r}, which the rows before it have.")
    if added := [name for name in names if name not in set(expected)]:
        raise UsageError(f"{source} has a column {added[0]!r}, which the rows before it do not have.")


def cast(column: pa.Array, field: pa.Field, source: str, first_row: int) -> pa.Array:
    """A column in another type, without loss.

    Raises:
        UsageError: If a value does not fit; names its row.
    """
    pa = need("pyarrow")
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        row = first_row + _first_misfit(column, field.type)
        raise UsageError(
            f"{source}, row {row}, column {field.name!r}: {shown(column[row - first_row].as_py())} is no "
            f"{word_of(field)}, as the rows before it are."
        ) from error


def _first_misfit(column: pa.Array, kind: pa.DataType) -> int:
    """The place of the first value that cannot be cast, by bisection."""
    pa = need("pyarrow")
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            column.slice(low, middle - low).cast(kind)
            low = middle
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            high = middle
    return low


# What a column turns into where its first rows were narrower than a later one.
def wider(kind: pa.DataType, *, than: pa.DataType | None = None) -> pa.DataType | None:
    """The type of the same role that a column of a type is read as once a value does not fit it, or None.

    Args:
        kind: The type so far.
        than: The type of the value, where that is known: one that holds both is chosen.
    """
    pa = need("pyarrow")
    if than is not None:
        return _common(kind, than)
    if pa.types.is_null(kind) or pa.types.is_integer(kind):
        return pa.float64()
    if pa.types.is_date(kind) or (pa.types.is_timestamp(kind) and kind.unit != "ns"):
        return pa.timestamp("ns", tz=getattr(kind, "tz", None))
    return None


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    pa = need("pyarrow")
    if pa.types.is_null(one) or pa.types.is_null(other):
        return other if pa.types.is_null(one) else one
    if role_of(one) != role_of(other):
        return None
    if pa.types.is_boolean(one) or pa.types.is_boolean(other):
        return None
    try:
        merged = pa.unify_schemas([pa.schema([("", one)]), pa.schema([("", other)])], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None
    return merged.field(0).type
