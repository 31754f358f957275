"""Columns that say which cells of another column were missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nanguard.clean.sources._needs import need
from nanguard.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa


def schema_with(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """A schema with columns of 0 and 1 (int8) after its own.

    Raises:
        UsageError: If one would have the name of a column.
    """
    pa = need("pyarrow")
    for name in names:
        if name in schema.names:
            raise UsageError(f"The indicator {name!r} would have the name of a column. Rename the column.")
    return pa.schema([*schema, *(pa.field(name, pa.int8()) for name in names)])


def batch_with(batch: pa.RecordBatch, schema: pa.Schema, is_missing: NDArray[np.bool_]) -> pa.RecordBatch:
    """A batch with such columns.

    Args:
        batch: The columns before.
        schema: What `schema_with` gave.
        is_missing: Shape (rows, indicators).
    """
    pa = need("pyarrow")
    added = [pa.array(column.astype(np.int8)) for column in is_missing.T]
    return pa.RecordBatch.from_arrays([*batch.columns, *added], schema=schema)
