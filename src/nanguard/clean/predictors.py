"""Filling by prediction, for frames and files: the rows most alike, and trees on what a Gaussian leaves unexplained."""

from __future__ import annotations

import abc
import dataclasses

import numpy as np
from numpy.typing import NDArray

from nanguard.clean import corrections, threads
from nanguard.clean import gaussian as normal
from nanguard.clean.corrections import Correction
from nanguard.clean.gaussian import Gaussian
from nanguard.clean.ranges import Range

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

METHODS = ("knn", "trees")

_BLOCK_BYTES = 1 << 23
_MOST_ROWS = 4096  # for trees: more make them slower and hardly better


class Predictor(abc.ABC):
    """Fills missing cells from the other cells of their row, by what it learnt of a sample of rows."""

    @abc.abstractmethod
    def fill(self, rows: Floats) -> Floats:
        """The rows with each NaN replaced.

        Args:
            rows: Shape (rows, columns), float64, missing cells as NaN, no infinities. They stay as they are.

        Returns:
            Rows of the same shape; a cell that was filled is within the range that its column had in the sample.
        """


def fit(
    rows: Floats,
    *,
    method: str = "trees",
    gaussian: Gaussian | None = None,
    num_neighbors: int = 5,
    seed: int = 0,
) -> Predictor:
    """Learns to fill cells from a sample of rows.

    Args:
        rows: Shape (rows, columns), missing cells as NaN, no infinities.
        method: "knn" or "trees".
        gaussian: What "trees" starts from; by default it is fitted to the rows.
        num_neighbors: Of "knn", how many rows give the mean. Scikit-learn's default.
        seed: Of the folds and draws of "trees". The same seed gives the same predictor.

    Returns:
        A predictor, which can be pickled.

    Raises:
        ValueError: If the method is not known, the rows are no matrix, or the Gaussian is of other columns.

    Example:

    >>> rows = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]])
    >>> fit(rows, method="knn", num_neighbors=2).fill(np.array([[1.4, np.nan]]))
    array([[ 1.4, 15. ]])
    """
    rows = np.asarray(rows, np.float64)
    if method not in METHODS:
        raise ValueError(f"`method` must be 'knn' or 'trees'. Received: method={method!r}.")
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"`rows` must be a matrix with at least one row. Received: shape {rows.shape}.")
    if num_neighbors < 1:
        raise ValueError(f"`num_neighbors` must be at least 1. Received: num_neighbors={num_neighbors}.")
    if gaussian is not None and len(gaussian.mean) != rows.shape[1]:
        raise ValueError(
            f"`gaussian` must be of the rows' columns. Received: {len(gaussian.mean)} and {rows.shape[1]} columns."
        )
    if method == "knn":
        return Neighbors.of(rows, num_neighbors)
    return Trees.of(rows, gaussian, seed)


@dataclasses.dataclass(frozen=True)
class Neighbors(Predictor):
    """The mean of a column over the rows of the sample that are most alike in the cells that both have.

    Distances are Euclidean over the cells that both rows have, each in standard deviations of its column, times the
    share of cells that they have. It is what scikit-learn's `KNNImputer` does with standardized columns; rows
    that share no cell are no neighbours, and a row that has none gets the column's mean.

    Args:
        mean: Shape (columns,).
        scale: Shape (columns,): standard deviations, 1 for a column that does not vary.
        donors: Shape (rows, columns): the sample in standard deviations, missing cells as NaN.
        range: What the columns lie between.
        num_neighbors: How many rows give the mean.
    """

    mean: Floats
    scale: Floats
    donors: Floats
    range: Range
    num_neighbors: int

    @classmethod
    def of(cls, rows: Floats, num_neighbors: int) -> Neighbors:
        """Keeps a sample of rows."""
        mean, scale = normal.moments(rows)
        return cls(mean, scale, (rows - mean) / scale, Range.of(rows), num_neighbors)

    def fill(self, rows: Floats) -> Floats:
        standard = (rows - self.mean) / self.scale
        is_missing = np.isnan(standard)
        filled = np.where(is_missing, 0.0, standard)
        touched = np.flatnonzero(is_missing.any(1))
        step = max(1, _BLOCK_BYTES // (8 * len(self.donors)))
        with threads.one():
            for start in range(0, len(touched), step):
                here = touched[start : start + step]
                distances = self._distances(standard[here])
                for column in np.flatnonzero(is_missing[here].any(0)):
                    wanted = np.flatnonzero(is_missing[here, column])
                    filled[here[wanted], column] = self._mean_of_nearest(distances[wanted], column)
        return self.range.put(rows, self.mean + self.scale * filled)

    def _distances(self, standard: Floats) -> Floats:
        """Squared distances to the donors, shape (rows, donors); infinite to one with no cell in common."""
        has, donor_has = (~np.isnan(standard)).astype(np.float64), (~np.isnan(self.donors)).astype(np.float64)
        own, donors = np.where(has > 0, standard, 0.0), np.where(donor_has > 0, self.donors, 0.0)
        squares = own**2 @ donor_has.T + has @ (donors**2).T - 2 * own @ donors.T
        shared = has @ donor_has.T
        return np.where(shared > 0, np.maximum(squares, 0.0) / np.maximum(shared, 1.0), np.inf)

    def _mean_of_nearest(self, distances: Floats, column: np.intp) -> Floats:
        donors = np.flatnonzero(~np.isnan(self.donors[:, column]))
        if not len(donors):
            return np.zeros(len(distances))
        distances = distances[:, donors]
        num_neighbors = min(self.num_neighbors, len(donors))
        nearest = np.argpartition(distances, num_neighbors - 1, axis=1)[:, :num_neighbors]
        is_near = np.isfinite(np.take_along_axis(distances, nearest, 1))
        sums = np.where(is_near, self.donors[donors[nearest], column], 0.0).sum(1)
        # Without a neighbour 0, the column's mean.
        return np.asarray(sums / np.maximum(is_near.sum(1), 1))


@dataclasses.dataclass(frozen=True)
class Trees(Predictor):
    """A Gaussian's conditional mean, corrected by trees and smooth functions of what the row's other cells are.

    The sample is cut into folds. Each row's cells are predicted by a Gaussian that has not seen the row, as if they
    were missing. Gradient boosting (scikit-learn's `HistGradientBoostingRegressor`) and ridge regressions with
    Gaussian kernels of three widths learn what that leaves unexplained, again fold by fold. They are blended by the
    weights, not negative and of sum 1 at most, that have the least error on rows that the models have not seen. A
    column in which they are of no help gets weights of 0, and stays the Gaussian's.

    Args:
        gaussian: The conditional mean.
        columns: For each column its correction, or None.
        range: What the columns lie between.

    References:
        Wolpert, *Stacked generalization*, Neural Networks 1992; Breiman, *Stacked regressions*, Machine Learning 1996.
    """

    gaussian: Gaussian
    columns: tuple[Correction | None, ...]
    range: Range

    @classmethod
    def of(cls, rows: Floats, gaussian: Gaussian | None, seed: int) -> Trees:
        """Fits a Gaussian, where none is given, and its corrections.

        Raises:
            UsageError: If scikit-learn is not installed.
        """
        random = np.random.default_rng(seed)
        whole = normal.fit(rows) if gaussian is None else gaussian
        drawn = rows[np.sort(random.permutation(len(rows))[:_MOST_ROWS])]
        corrections.require_sklearn()
        with threads.one():
            columns = corrections.fit((drawn - whole.mean) / whole.scale, whole.correlation, random)
        return cls(whole, columns, Range.of(rows))

    def fill(self, rows: Floats) -> Floats:
        # Within the range first too: it is what the corrections were fitted to.
        filled = self.range.put(rows, self.gaussian.fill(rows))
        is_missing = np.isnan(rows)
        standard = (filled - self.gaussian.mean) / self.gaussian.scale
        with threads.one():
            for place, correction in enumerate(self.columns):
                here = np.flatnonzero(is_missing[:, place])
                if correction is not None and len(here):
                    filled[here, place] += self.gaussian.scale[place] * correction.predict(standard[here])
        return self.range.put(rows, filled)
