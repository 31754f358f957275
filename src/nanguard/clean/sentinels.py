"""Numbers and words that stand for a missing cell: replaced where they are named, proposed where they look it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanguard.clean.categories import Categories
from nanguard.clean.histogram import Histogram
from nanguard.clean.options import Options

Floats = NDArray[np.float64]

# What people write for "nothing", in lower case.
WORDS = (
    "",
    "?",
    "-",
    "--",
    ".",
    "na",
    "n/a",
    "nan",
    "none",
    "null",
    "nil",
    "missing",
    "unknown",
    "#n/a",
    "(null)",
    "inf",
    "-inf",
)
# Repeated digits, the ends of integer types, and what instruments and databases write.
_NINES = [10.0**digits - 1 for digits in range(1, 9)]
_ENDS = [
    1.0,
    32767.0,
    32768.0,
    2147483647.0,
    2147483648.0,
    99.9,
    999.9,
    9999.9,
    999.25,
    1e20,
    1e30,
    1e36,
    9.969209968386869e36,
]
_FAMILIAR = np.array([sign * number for number in (*_NINES, *_ENDS) for sign in (1, -1)])
_FAMILIAR = _FAMILIAR[_FAMILIAR != 1]


def without(rows: Floats, names: tuple[str, ...], options: Options) -> Floats:
    """The rows with NaN for every number that stands for a missing cell; the same array if none is named."""
    if not options.sentinels:
        return rows
    rows = rows.copy(order="F")
    for place, name in enumerate(names):
        for number in options.sentinels_of(name):
            rows[rows[:, place] == number, place] = np.nan
    return rows


def proposed(histogram: Histogram) -> list[tuple[float, int]]:
    """Numbers of a column that look like a missing cell, with their counts, never assumed to be one.

    Such a number is the column's smallest or largest, came at least twice, is familiar (-1, -999, 9999, the end of an
    integer type), and lies apart: beyond the far end of all others by more than their interquartile range, or for -1
    alone below numbers that are none of them negative.
    """
    if len(histogram.bins) < 3:
        return []
    found = []
    values, counts = histogram.values, histogram.counts
    for place, neighbour in ((0, 1), (-1, -2)):
        # The mean of equal numbers is theirs up to rounding.
        familiar = _FAMILIAR[np.abs(_FAMILIAR - values[place]).argmin()]
        number, count = float(familiar), int(counts[place])
        nearest = float(values[neighbour])
        if abs(values[place] - number) > 1e-12 * abs(number) or count < 2:
            continue
        others = Histogram(histogram.center)
        keep = np.arange(len(values)) != place % len(values)
        others.bins, others.counts, others.sums = histogram.bins[keep], counts[keep], histogram.sums[keep]
        low, high = others.quantiles([0.25, 0.75])
        lies_apart = abs(number - nearest) > max(high - low, 1.0)
        if lies_apart or (number == -1 and nearest >= 0 and high - low > 2):
            found.append((number, count))
    return found


def words(categories: Categories) -> list[tuple[str, int]]:
    """Values of a column of text that people write for "nothing", with their counts."""
    return [
        (value, count)
        for value, count in categories.common(len(categories.counts))
        if isinstance(value, str) and value.strip().lower() in WORDS
    ]
