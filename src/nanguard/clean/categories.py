"""What is learnt of columns that hold no numbers: how often which value came, and from when to when dates go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

# A column of more values than this is text, and no value of it is common.
MAX_VALUES = 10_000


class Categories:
    """How often each value of a column came. Those of parts of a table add up, in any order, to that of the whole.

    Attributes:
        num_rows: Rows seen.
        num_nulls: Rows without a value.
        counts: How often each value came; empty once there were more than 10,000.
        is_text: Whether there were more.
    """

    def __init__(self) -> None:
        self.num_rows = 0
        self.num_nulls = 0
        self.counts: dict[Any, int] = {}
        self.is_text = False

    def add(self, column: pa.Array) -> None:
        """Takes in some rows of the column."""
        import pyarrow.compute as pc

        self.num_rows += len(column)
        self.num_nulls += column.null_count
        if self.is_text:
            return
        counted = pc.value_counts(column.drop_null())
        values = counted.field("values")
        if hasattr(values, "dictionary"):
            values = values.cast(values.type.value_type)
        self._add(dict(zip(values.to_pylist(), counted.field("counts").to_pylist(), strict=True)))

    def merge(self, other: Categories) -> None:
        """Takes in what another one has seen of other rows."""
        self.num_rows += other.num_rows
        self.num_nulls += other.num_nulls
        self.is_text |= other.is_text
        self._add(other.counts)

    def _add(self, counts: dict[Any, int]) -> None:
        if not self.is_text:
            for value, count in counts.items():
                self.counts[value] = self.counts.get(value, 0) + count
            self.is_text = len(self.counts) > MAX_VALUES
        if self.is_text:
            self.counts = {}

    @property
    def num_values(self) -> int | None:
        """How many different values came; None if more than are kept."""
        return None if self.is_text else len(self.counts)

    def common(self, number: int) -> list[tuple[Any, int]]:
        """The most frequent values with their counts, equal counts in the order of the values."""
        return sorted(self.counts.items(), key=lambda pair: (-pair[1], str(pair[0])))[:number]

    @property
    def mode(self) -> Any:
        """The most frequent value, or None."""
        return self.common(1)[0][0] if self.counts else None


class Times:
    """From when to when a column of dates, times or durations goes.

    Attributes:
        num_rows: Rows seen.
        num_nulls: Rows without a value.
        first, last: The earliest and the latest value, or None.
    """

    def __init__(self) -> None:
        self.num_rows = 0
        self.num_nulls = 0
        self.first: Any = None
        self.last: Any = None

    def add(self, column: pa.Array) -> None:
        """Takes in some rows of the column."""
        import pyarrow.compute as pc

        ends = pc.min_max(column)
        self._take(len(column), column.null_count, _plain(ends["min"]), _plain(ends["max"]))

    def merge(self, other: Times) -> None:
        """Takes in what another one has seen of other rows."""
        self._take(other.num_rows, other.num_nulls, other.first, other.last)

    def _take(self, num_rows: int, num_nulls: int, first: Any, last: Any) -> None:
        self.num_rows += num_rows
        self.num_nulls += num_nulls
        if first is not None:
            self.first = first if self.first is None else min(self.first, first)
            self.last = last if self.last is None else max(self.last, last)


def _plain(scalar: Any) -> Any:
    """An Arrow value as Python's own; nanoseconds, which Python's times lack, as NumPy's."""
    if not scalar.is_valid:
        return None
    try:
        return scalar.as_py()
    except ValueError:
        unit = getattr(scalar.type, "unit", "ns")
        kind = "m8" if str(scalar.type).startswith("duration") else "M8"
        return np.array(scalar.value, f"{kind}[{unit}]")[()]
