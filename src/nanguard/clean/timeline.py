"""Where in a table cells are missing: counts over equal stretches of rows, which grow as the table does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MAX_STRETCHES = 64


class Timeline:
    """Missing cells of each column in stretches of 2^k rows, at most 64 stretches in all.

    Stretches begin at multiples of their length, so that timelines of parts of a table add up to that of the whole.

    Args:
        size: The number of columns.
    """

    def __init__(self, size: int) -> None:
        self.shift = 0  # a stretch is 2^shift rows long
        self.num_rows: NDArray[np.int64] = np.zeros(0, np.int64)
        self.num_missing: NDArray[np.int64] = np.zeros((0, size), np.int64)

    def add(self, first_row: int, is_missing: NDArray[np.bool_]) -> None:
        """Takes in rows, shape (rows, columns), of which the first has the given number."""
        last = first_row + len(is_missing) - 1
        self._reach(last, self.shift)
        starts = np.arange(first_row >> self.shift, (last >> self.shift) + 1)
        edges = np.clip((starts << self.shift) - first_row, 0, None)
        self.num_rows[starts] += np.diff(np.append(edges, len(is_missing)))
        if is_missing.any():
            self.num_missing[starts] += np.add.reduceat(is_missing, edges, axis=0, dtype=np.int64)

    def merge(self, other: Timeline) -> None:
        """Takes in the timeline of other rows of the same table."""
        if not len(other.num_rows):
            return
        self._reach((len(other.num_rows) << other.shift) - 1, max(self.shift, other.shift))
        places = np.arange(len(other.num_rows)) >> (self.shift - other.shift)
        np.add.at(self.num_rows, places, other.num_rows)
        np.add.at(self.num_missing, places, other.num_missing)

    def shares(self) -> NDArray[np.float64]:
        """Shape (stretches, columns): which share of each stretch's rows is missing; NaN where it has no rows."""
        with np.errstate(invalid="ignore"):
            return self.num_missing / self.num_rows[:, None]

    def select(self, places: Sequence[int]) -> Timeline:
        """The timeline of some of the columns."""
        made = Timeline(len(places))
        made.shift, made.num_rows = self.shift, self.num_rows.copy()
        made.num_missing = self.num_missing[:, list(places)]
        return made

    def _reach(self, last: int, shift: int) -> None:
        while last >> shift >= _MAX_STRETCHES:
            shift += 1
        size = max((last >> shift) + 1, -(-len(self.num_rows) // (1 << (shift - self.shift))))
        places = np.arange(len(self.num_rows)) >> (shift - self.shift)
        num_rows = np.zeros(size, np.int64)
        num_missing = np.zeros((size, self.num_missing.shape[1]), np.int64)
        np.add.at(num_rows, places, self.num_rows)
        np.add.at(num_missing, places, self.num_missing)
        self.shift, self.num_rows, self.num_missing = shift, num_rows, num_missing
