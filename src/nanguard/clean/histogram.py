"""Quantiles of a stream: a histogram whose bins are the leading bits of a float, so that it can be added up exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Of a float32 the sign, the exponent and eight bits of the fraction: a bin is at most 1/256 of its distance from the
# centre wide.
_DROPPED = 15
_NUM_BINS = 1 << (32 - _DROPPED)
_HALF = _NUM_BINS // 2


class Histogram:
    """How often which numbers came, in bins that are narrow near a centre and wide far from it.

    A number falls into the bin of the leading 17 bits of its float32 distance from the centre: the sign, the exponent
        and eight
    bits of the fraction. So the bins do not depend on the data, histograms of the same centre add up exactly, in any
    order, and a quantile is within 1/256 of its distance from the centre. Each bin keeps the sum of its numbers:
    a value that stands alone in its bin, as integers near the centre do, is given back as it came.

    Only bins that hold something are kept: some thousand for a column of floats, 16 bytes each.

    Args:
        center: The number that the bins are narrowest around, such as a median of the first rows. Finite.

    Example:

    >>> histogram = Histogram(center=0.0)
    >>> histogram.add([1.0, 2.0, 2.0, 3.0])
    >>> histogram.quantiles([0.5, 1.0]).tolist()
    [2.0, 3.0]
    """

    __slots__ = ("bins", "center", "counts", "sums")

    def __init__(self, center: float = 0.0) -> None:
        if not np.isfinite(center):
            raise ValueError(f"`center` must be a finite number. Received: center={center}.")
        self.center = float(center)
        self.bins: NDArray[np.int32] = np.empty(0, np.int32)  # sorted as the numbers in them are
        self.counts: NDArray[np.int64] = np.empty(0, np.int64)
        self.sums: NDArray[np.float64] = np.empty(0, np.float64)  # of the distances from the centre

    @property
    def num_values(self) -> int:
        """How many numbers were added."""
        return int(self.counts.sum())

    def add(self, values: ArrayLike) -> None:
        """Adds numbers. They must be finite, in float64 or what converts to it."""
        # Plus zero: -0.0 would be the first of the negative numbers.
        distances = np.asarray(values, np.float64) - self.center + 0.0
        if not distances.size:
            return
        with np.errstate(over="ignore"):
            bits = distances.astype(np.float32).view(np.uint32)
        keys = (bits >> _DROPPED).astype(np.int64)
        counts = np.bincount(keys, minlength=_NUM_BINS)
        found = np.flatnonzero(counts)
        sums = np.bincount(keys, weights=distances, minlength=_NUM_BINS)[found]
        # The float format counts negative numbers from zero downwards.
        is_negative = found >= _HALF
        ranks = np.where(is_negative, _HALF - 1 - found, found)
        order = np.argsort(ranks)
        self._merge(ranks[order].astype(np.int32), counts[found][order], np.asarray(sums[order], np.float64))

    def merge(self, other: Histogram) -> None:
        """Adds what another histogram of the same centre holds.

        Raises:
            ValueError: If the centres differ: then the bins do too.
        """
        if other.center != self.center:
            raise ValueError(
                f"Histograms are merged around one centre. Received: {self.center} and {other.center}. "
                "Give all parts the same `center`."
            )
        self._merge(other.bins, other.counts, other.sums)

    def _merge(self, bins: NDArray[np.int32], counts: NDArray[Any], sums: NDArray[np.float64]) -> None:
        merged, places = np.unique(np.concatenate([self.bins, bins]), return_inverse=True)
        size = len(merged)
        all_counts = np.zeros(size, np.int64)
        all_sums = np.zeros(size, np.float64)
        # Each side names a bin once, so that indexing adds each number.
        for here, some_counts, some_sums in (
            (places[: len(self.bins)], self.counts, self.sums),
            (places[len(self.bins) :], counts, sums),
        ):
            all_counts[here] += some_counts
            all_sums[here] += some_sums
        self.bins, self.counts, self.sums = merged, all_counts, all_sums

    @property
    def values(self) -> NDArray[np.float64]:
        """The mean of the numbers of each bin, ascending."""
        return self.center + self.sums / self.counts

    def quantiles(self, shares: ArrayLike) -> NDArray[np.float64]:
        """The values below which the given shares of the numbers lie: the nearest that came, not one between two.

        Args:
            shares: Numbers from 0 to 1.

        Returns:
            A float64 array of the shape of `shares`; NaN where nothing was added.
        """
        shares = np.asarray(shares, np.float64)
        if not self.num_values:
            return np.full(shares.shape, np.nan)
        ends = np.cumsum(self.counts)
        ranks = np.clip(np.ceil(shares * ends[-1]), 1, ends[-1])
        return np.asarray(self.values[np.searchsorted(ends, ranks)])

    def within(self, low: float, high: float) -> NDArray[np.bool_]:
        """Which bins have their mean in a closed range."""
        return (self.values >= low) & (self.values <= high)

    def moments(self, low: float = -np.inf, high: float = np.inf) -> tuple[int, float, float]:
        """How many numbers lie in a range, their mean and their variance, so that no number outside of it moves them.

        The mean is exact but for the bins at the ends of the range; the variance leaves out what is within a bin, less
        than 1/100,000 of the squared distance from the centre.

        Returns:
            The count, the mean and the population variance; NaN for the latter two if the count is 0, and a variance
            of infinity if float64 does not hold it.
        """
        here = self.within(low, high)
        count = int(self.counts[here].sum())
        if not count:
            return 0, np.nan, np.nan
        mean = self.sums[here].sum() / count
        around = self.sums[here] / self.counts[here] - mean
        with np.errstate(over="ignore"):
            variance = np.dot(self.counts[here], around**2) / count
        return count, float(self.center + mean), float(variance)

    def deviation(self, around: float) -> float:
        """The median distance from a value, in units of the values: MAD, if that value is the median."""
        if not self.num_values:
            return np.nan
        distances = np.abs(self.values - around)
        order = np.argsort(distances, kind="stable")
        ends = np.cumsum(self.counts[order])
        return float(distances[order][np.searchsorted(ends, np.ceil(ends[-1] / 2))])

    @classmethod
    def of(cls, values: ArrayLike) -> Histogram:
        """The histogram of some finite numbers around their own median."""
        values = np.asarray(values, np.float64)
        made = cls(center_of(values))
        made.add(values)
        return made

    def __getstate__(self) -> tuple[Any, ...]:
        return self.center, self.bins, self.counts, self.sums

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.center, self.bins, self.counts, self.sums = state


def center_of(values: NDArray[np.float64]) -> float:
    """A middle value that is one of the values, so that integers stay integers; 0 if there is none."""
    return float(np.partition(values, len(values) // 2)[len(values) // 2]) if len(values) else 0.0
