"""Some rows of a table on their way through scan, cleaning and files."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa


@dataclasses.dataclass(frozen=True)
class Schema:
    """The columns of a table, in its order.

    Attributes:
        names: All columns.
        numbers: Those that hold numbers: what the matrix of a block has, in its order. Booleans are numbers 0 and 1.
        categories: Those that hold text or values of a dictionary.
        datetimes: Those that hold dates, times or durations.
        others: What is passed through and not looked at, such as lists.
        types: Each column's type in the words of its source, by name, such as `int64`, `float32` or `timestamp[ns]`.
    """

    names: tuple[str, ...]
    numbers: tuple[str, ...]
    categories: tuple[str, ...] = ()
    datetimes: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    types: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive rows of a table.

    Attributes:
        numbers: Shape (rows, columns of `Schema.numbers`), float64 in Fortran order. A missing cell is NaN.
        num_nulls: Shape (columns of `Schema.numbers`,): how many of the NaNs of each column are null in the source,
            int64.
        batch: The rows as they came, of all columns: what is not changed goes out as it is, an integer of 64 bits too.
            None for a source that is one matrix of floats.
        first_row: The number of the first row in the whole source, from 0.
        file: The file that the rows are from, or None.
        first_row_in_file: The number of the first row in that file, from 0.
    """

    numbers: NDArray[np.float64]
    num_nulls: NDArray[np.int64]
    batch: pa.RecordBatch | None
    first_row: int
    file: str | None = None
    first_row_in_file: int = 0

    def __len__(self) -> int:
        return len(self.numbers)

    def column(self, name: str) -> Any:
        """A column as it came, a `pyarrow.Array`."""
        if self.batch is None:
            raise KeyError(name)
        return self.batch.column(name)
