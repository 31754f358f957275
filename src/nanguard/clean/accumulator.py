"""What is learnt of a table's numbers in one pass: one object that can be added up, sent and stored."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanguard.clean.histogram import Histogram, center_of
from nanguard.clean.timeline import Timeline

Floats = NDArray[np.float64]

# A number this many interquartile ranges from the pilot's median is held to be no measurement; it takes no part in
# products.
_REACH = 1e4
# The rows kept whole: enough for the covariance of some dozen columns, and never more memory than this.
SAMPLE_ROWS = 16_384
_SAMPLE_BYTES = 1 << 26
_COUNTS = ("num_nulls", "num_nans", "num_posinf", "num_neginf")


class Accumulator:
    """Counts, ranges, quantiles, products of columns and a sample of rows, of the rows seen so far.

    Each accumulator of a table is made with the same centres and reach, from a *pilot*: its first rows. Then any split
    of the rows and any order of merging gives the same result, up to the rounding of sums. Sums are float64 and taken
    around the centres, so that a variance is right at an offset of 1e8. NaN and infinities are counted, and reach no
    sum. A number beyond the reach, such as 1e30 among heights, is counted in its histogram and left out of the
    products.

    Args:
        names: The columns' names.
        centers: Shape (columns,): a middle value of each column.
        reach: Shape (columns,): how far from the centre a number may be to take part in products. Units of the column.
        with_products: Whether sums of products of all pairs of columns are kept, of which correlations are made. They
            take three matrix products a block.

    Example:

    >>> rows = np.array([[1.0, 2.0], [2.0, np.nan], [3.0, 6.0]])
    >>> whole = Accumulator.pilot(["a", "b"], rows)
    >>> whole.update(rows, first_row=0)
    >>> whole.num_missing.tolist()
    [0, 1]
    """

    def __init__(
        self, names: Sequence[str], centers: ArrayLike, reach: ArrayLike, *, with_products: bool = True
    ) -> None:
        self.names = tuple(names)
        self.centers = np.asarray(centers, np.float64)
        self.reach = np.asarray(reach, np.float64)
        size = len(self.names)
        self.num_rows = 0
        self.num_nulls = np.zeros(size, np.int64)  # missing in the file's own way
        self.num_nans = np.zeros(size, np.int64)
        self.num_posinf = np.zeros(size, np.int64)
        self.num_neginf = np.zeros(size, np.int64)
        self.min = np.full(size, np.inf)
        self.max = np.full(size, -np.inf)
        self.histograms = [Histogram(center) for center in self.centers]
        self.timeline = Timeline(size)
        self.with_products = with_products
        # Of each pair of columns, over the rows that have both: how many, the sum of the first, the sum of the product.
        shape = (size, size) if with_products else (0, 0)
        self.pairs = np.zeros(shape)
        self.pair_sums = np.zeros(shape)
        self.pair_products = np.zeros(shape)
        self.sample = Sample(size)

    @classmethod
    def pilot(cls, names: Sequence[str], rows: Floats, *, with_products: bool = True) -> Accumulator:
        """An empty accumulator whose centres and reach come from a table's first rows, shape (rows, columns)."""
        centers, reach = [], []
        for column in np.asarray(rows, np.float64).T:
            known = column[np.isfinite(column)]
            center = center_of(known)
            centers.append(center)
            reach.append(_REACH * _spread(known, center))
        return cls(names, centers, reach, with_products=with_products)

    def empty(self) -> Accumulator:
        """An accumulator of no rows that can be merged with this one."""
        return Accumulator(self.names, self.centers, self.reach, with_products=self.with_products)

    def select(self, names: Sequence[str]) -> Accumulator:
        """What this one has learnt of some of its columns, in the order given."""
        places = [self.names.index(name) for name in names]
        made = Accumulator(names, self.centers[places], self.reach[places], with_products=self.with_products)
        made.num_rows = self.num_rows
        for name in (*_COUNTS, "min", "max"):
            setattr(made, name, getattr(self, name)[places].copy())
        made.histograms = [copy.deepcopy(self.histograms[place]) for place in places]
        made.timeline = self.timeline.select(places)
        if self.with_products:
            for name in ("pairs", "pair_sums", "pair_products"):
                setattr(made, name, getattr(self, name)[np.ix_(places, places)].copy())
        made.sample.numbers, made.sample.rows = self.sample.numbers.copy(), self.sample.rows[:, places].copy()
        return made

    # -- rows in

    def update(self, rows: Floats, *, first_row: int, num_nulls: ArrayLike | None = None) -> None:
        """Takes in rows.

        Args:
            rows: Shape (rows, columns), float64, missing cells as NaN; by columns (Fortran order) is fastest.
            first_row: The number of the first of these rows in the table. Each row has to have a number of its own, for
                which the sample is drawn.
            num_nulls: Shape (columns,): how many of the NaNs of each column are null in the table.
        """
        rows = np.asarray(rows, np.float64)
        num_rows, size = rows.shape
        if size != len(self.names):
            raise ValueError(f"Rows must have {len(self.names)} columns. Received: shape {rows.shape}.")
        if not num_rows:
            return
        is_finite = np.isfinite(rows)
        nulls = np.zeros(size, np.int64) if num_nulls is None else np.asarray(num_nulls, np.int64)
        self.num_rows += num_rows
        self.num_nulls += nulls
        for place in range(size):
            self._update_column(place, rows[:, place], is_finite[:, place], int(nulls[place]))
        self.timeline.add(first_row, ~is_finite)
        if self.with_products:
            self._update_products(rows, is_finite)
        self.sample.add(first_row, rows)

    def _update_column(self, place: int, column: Floats, is_finite: NDArray[np.bool_], num_nulls: int) -> None:
        known = column if is_finite.all() else column[is_finite]
        if len(known) < len(column):
            num_nans = int(np.isnan(column).sum())
            num_posinf = int((column == np.inf).sum())
            self.num_nans[place] += num_nans - num_nulls
            self.num_posinf[place] += num_posinf
            self.num_neginf[place] += len(column) - len(known) - num_nans - num_posinf
        if len(known):
            self.min[place] = min(self.min[place], known.min())
            self.max[place] = max(self.max[place], known.max())
            self.histograms[place].add(known)

    def _update_products(self, rows: Floats, is_finite: NDArray[np.bool_]) -> None:
        around = rows - self.centers
        with np.errstate(invalid="ignore"):
            is_near = is_finite & (np.abs(around) <= self.reach)
        around[~is_near] = 0.0
        near = is_near.astype(np.float64)
        self.pairs += near.T @ near
        self.pair_sums += around.T @ near
        self.pair_products += around.T @ around

    def merge(self, other: Accumulator) -> None:
        """Takes in what another accumulator of the same table has seen.

        Raises:
            ValueError: If the two were not made from the same pilot.
        """
        if self.names != other.names:
            raise ValueError(f"Accumulators are merged column by column. Received: {self.names} and {other.names}.")
        if not (np.array_equal(self.centers, other.centers) and np.array_equal(self.reach, other.reach)):
            raise ValueError("Accumulators to be merged must come from one pilot. Make them with its `empty()`.")
        self.num_rows += other.num_rows
        for name in _COUNTS:
            getattr(self, name)[...] += getattr(other, name)
        np.minimum(self.min, other.min, out=self.min)
        np.maximum(self.max, other.max, out=self.max)
        for mine, theirs in zip(self.histograms, other.histograms, strict=True):
            mine.merge(theirs)
        self.timeline.merge(other.timeline)
        self.pairs += other.pairs
        self.pair_sums += other.pair_sums
        self.pair_products += other.pair_products
        self.sample.merge(other.sample)

    # -- what was learnt

    @property
    def num_missing(self) -> NDArray[np.int64]:
        """Shape (columns,): null and NaN cells."""
        return self.num_nulls + self.num_nans

    @property
    def num_infinite(self) -> NDArray[np.int64]:
        """Shape (columns,): infinite cells of either sign."""
        return self.num_posinf + self.num_neginf

    @property
    def num_finite(self) -> NDArray[np.int64]:
        """Shape (columns,): cells that hold a number."""
        return self.num_rows - self.num_missing - self.num_infinite

    def covariance(self) -> tuple[Floats, Floats]:
        """Means and covariances from the pairs of columns, each over the rows that have both.

        Returns:
            The means, shape (columns,), and the covariance, shape (columns, columns), which need not be positive
            definite where cells are missing. A column without numbers has its centre for a mean and no variance.
        """
        if not self.with_products:
            raise ValueError("Products were not kept. Make the accumulator with `with_products=True`.")
        pairs = np.maximum(self.pairs, 1)
        sums = self.pair_sums / pairs
        products = self.pair_products / pairs - sums * sums.T
        return self.centers + np.diag(sums), products


class Sample:
    """Some rows of a table, drawn at random by their number: the same ones in whatever order the rows come.

    Args:
        size: The number of columns.
        limit: How many rows to keep at most.
    """

    def __init__(self, size: int, limit: int | None = None) -> None:
        self.limit = limit or max(256, min(SAMPLE_ROWS, _SAMPLE_BYTES // (8 * max(size, 1))))
        self.numbers: NDArray[np.int64] = np.empty(0, np.int64)
        self.rows: Floats = np.empty((0, size))

    def add(self, first_row: int, rows: Floats) -> None:
        """Offers rows of which the first has the given number."""
        numbers = np.arange(first_row, first_row + len(rows), dtype=np.int64)
        if len(self.numbers) >= self.limit:
            is_drawn = draw(numbers) <= draw(self.numbers).max()
            numbers, rows = numbers[is_drawn], rows[is_drawn]
        self._take(numbers, rows)

    def merge(self, other: Sample) -> None:
        """Offers the rows of another sample."""
        self._take(other.numbers, other.rows)

    def _take(self, numbers: NDArray[np.int64], rows: Floats) -> None:
        if not len(numbers):
            return
        numbers = np.concatenate([self.numbers, numbers])
        if len(numbers) > self.limit:
            kept = np.sort(np.argpartition(draw(numbers), self.limit - 1)[: self.limit])
        else:
            kept = np.arange(len(numbers))
        rows = np.concatenate([self.rows, rows])[kept]
        order = np.argsort(numbers[kept], kind="stable")
        self.numbers, self.rows = numbers[kept][order], rows[order]


def draw(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A pseudo-random number for each row number: the mixing function of SplitMix64 (Steele et al., OOPSLA 2014)."""
    x = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _spread(known: Floats, center: float) -> float:
    """A robust width of some numbers: the interquartile range, or what else there is if most are one number."""
    if not len(known):
        return np.inf
    low, high = np.quantile(known, [0.25, 0.75])
    widths = (high - low, float(np.median(np.abs(known - center)[known != center])) if (known != center).any() else 0.0)
    width = max(widths)
    return float(width) if width > 0 else np.inf
