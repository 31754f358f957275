"""What the numbers of columns lie between: where a prediction is kept."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Range:
    """What a column's numbers lie between; infinite where none were seen."""

    low: Floats
    high: Floats

    @classmethod
    def of(cls, rows: Floats) -> Range:
        """The range of the cells that are there."""
        is_missing = np.isnan(rows)
        low = np.where(is_missing, np.inf, rows).min(0)
        high = np.where(is_missing, -np.inf, rows).max(0)
        is_seen = low <= high
        return cls(np.where(is_seen, low, -np.inf), np.where(is_seen, high, np.inf))

    def put(self, rows: Floats, filled: Floats) -> Floats:
        """The rows, with what was filled in the place of each NaN, moved into the range."""
        return np.where(np.isnan(rows), np.clip(filled, self.low, self.high), rows)
