"""A multivariate normal fitted to rows with holes: what a missing cell is expected to be, and how odd a row is."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nanguard.clean import threads

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

# A correlation matrix gets this on its diagonal: columns that repeat each other then stay solvable, and a prediction
# moves by a millionth.
_RIDGE = 1e-6
_BLOCK_BYTES = 1 << 25
_MANY_COLUMNS = 256


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Means, scales and correlations of columns.

    A missing cell is filled by its conditional mean given the cells of its row that are there, `m - inv(P_mm) P_mo (o -
    m_o)` with the precision matrix P (Anderson, *An Introduction to Multivariate Statistical Analysis*, 2003, §2.5).
    Written with the precision matrix it is a system in the missing cells alone, which are few.

    Args:
        mean: Shape (columns,).
        scale: Shape (columns,): standard deviations, 1 for a column that does not vary.
        correlation: Shape (columns, columns), positive definite.
    """

    mean: Floats
    scale: Floats
    correlation: Floats

    def precision(self) -> Floats:
        """The inverse of the correlation matrix."""
        return self._precision

    @functools.cached_property
    def _precision(self) -> Floats:
        inverse = np.linalg.inv(self.correlation)
        return np.asarray((inverse + inverse.T) / 2)

    def fill(self, rows: Floats) -> Floats:
        """The rows with each NaN replaced by its conditional mean; a row of nothing but NaN gets the means."""
        is_missing = np.isnan(rows)
        if not is_missing.any():
            return rows.copy()
        standard = np.where(is_missing, 0.0, (rows - self.mean) / self.scale)
        for group in _groups(is_missing):
            _fill_group(standard, self.precision(), group)
        return np.where(is_missing, self.mean + self.scale * standard, rows)

    def distances(self, rows: Floats) -> Floats:
        """Squared Mahalanobis distances over the cells that are there, shape (rows,).

        Under a normal distribution it follows a chi-squared law with as many degrees of freedom as the row has cells.
        """
        standard = (self.fill(rows) - self.mean) / self.scale
        # With the missing cells at their conditional means, the whole row's distance is that of the cells that are
        # there.
        return np.asarray(np.einsum("ij,ij->i", standard @ self.precision(), standard))


def fit(rows: Floats, *, max_iterations: int = 100, tolerance: float = 1e-4) -> Gaussian:
    """Fits by expectation-maximization, the maximum of the likelihood of the cells that are there.

    Args:
        rows: Shape (rows, columns), missing cells as NaN, no infinities.
        max_iterations: When to stop at the latest.
        tolerance: Stop when no correlation or standardized mean moves by more.

    References:
        Dempster, Laird and Rubin, *Maximum likelihood from incomplete data via the EM algorithm*, JRSS B 1977; Little
        and Rubin, *Statistical Analysis with Missing Data*, 2019, §11.2.
    """
    rows = np.asarray(rows, np.float64)
    is_missing = np.isnan(rows)
    mean, scale = moments(rows)
    start = np.where(is_missing, 0.0, (rows - mean) / scale)
    varies = (start != 0).any(0)
    num_rows, size = start.shape
    groups = list(_groups(is_missing))
    center, covariance = np.zeros(size), _shrunk(start.T @ start / max(num_rows, 1), num_rows)
    # Two threads would wait for each other at each small matrix; large ones are worth them.
    with threads.one() if size < _MANY_COLUMNS else contextlib.nullcontext():
        for _ in range(max_iterations if groups else 1):
            standard = np.where(is_missing, 0.0, start - center)
            spread = np.zeros((size, size))
            precision = np.asarray(np.linalg.inv(covariance), np.float64)
            for group in groups:
                _fill_group(standard, precision, group, spread)
            standard += center
            new_center = standard.mean(0)
            around = standard - new_center
            new = _shrunk((around.T @ around + spread) / max(num_rows, 1), num_rows)
            moved = max(np.abs(new - covariance).max(), np.abs(new_center - center).max())
            center, covariance = new_center, new
            if moved < tolerance:
                break
    return of_moments(mean + scale * center, covariance * np.outer(scale * varies, scale * varies))


def of_moments(mean: Floats, covariance: Floats) -> Gaussian:
    """The Gaussian of a mean and a covariance that need not be positive definite, as one of pairs of columns is not.

    Eigenvalues of the correlation that are smaller than the most negative one is below zero are raised to that: by the
    noise that made one negative, another may be positive. Raised to zero alone (Higham, *Computing the nearest
    correlation matrix*, IMA Journal of Numerical Analysis 2002), a conditional mean would take noise for a dependence
    without error, and predict worse than the mean.
    """
    variance = np.diag(covariance)
    scale = np.sqrt(np.where(variance > 0, variance, 1.0))
    correlation = covariance / np.outer(scale, scale)
    correlation = (correlation + correlation.T) / 2
    np.fill_diagonal(correlation, 1.0)
    values, vectors = np.linalg.eigh(correlation)
    if values[0] < _RIDGE:
        correlation = (vectors * np.maximum(values, max(_RIDGE, -values[0]))) @ vectors.T
        diagonal = np.sqrt(np.diag(correlation))
        correlation /= np.outer(diagonal, diagonal)
    return Gaussian(np.asarray(mean), scale, np.asarray(correlation))


@dataclasses.dataclass(frozen=True)
class _Group:
    """Rows with the same number of missing cells, those of one pattern side by side."""

    columns: NDArray[np.intp]  # (patterns, missing): which cells
    rows: NDArray[np.intp]
    pattern: NDArray[np.intp]  # (rows,): which of the patterns
    counts: NDArray[np.intp]  # (patterns,): rows of each


def _groups(is_missing: Mask) -> Iterator[_Group]:
    """The rows that miss something, by how much they miss, in pieces whose matrices fit into memory."""
    touched = np.flatnonzero(is_missing.any(1))
    if not len(touched):
        return
    packed = np.packbits(is_missing[touched], axis=1)
    keys = np.ascontiguousarray(packed).view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, pattern, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    masks = is_missing[touched[first]]
    amounts = masks.sum(1)
    for amount in np.unique(amounts):
        ours = np.flatnonzero(amounts == amount)
        step = max(1, _BLOCK_BYTES // (8 * int(amount) ** 2))
        for start in range(0, len(ours), step):
            piece = ours[start : start + step]
            place = np.full(len(masks), -1)
            place[piece] = np.arange(len(piece))
            here = np.flatnonzero(place[pattern] >= 0)
            columns = np.nonzero(masks[piece])[1].reshape(len(piece), amount)
            yield _Group(columns, touched[here], place[pattern[here]], counts[piece])


def _fill_group(standard: Floats, precision: Floats, group: _Group, spread: Floats | None = None) -> None:
    """Writes conditional means into the missing cells, 0 before, and adds their conditional covariances to `spread`."""
    columns = group.columns
    inverses = np.linalg.inv(precision[columns[:, :, None], columns[:, None, :]])
    step = max(1, _BLOCK_BYTES // (8 * max(columns.shape[1] ** 2, len(precision))))
    for start in range(0, len(group.rows), step):
        rows, pattern = group.rows[start : start + step], group.pattern[start : start + step]
        cells = columns[pattern]
        pulls = np.take_along_axis(standard[rows] @ precision, cells, 1)
        standard[rows[:, None], cells] = -np.einsum("ijk,ik->ij", inverses[pattern], pulls)
    if spread is not None:
        np.add.at(spread, (columns[:, :, None], columns[:, None, :]), inverses * group.counts[:, None, None])


def moments(rows: Floats) -> tuple[Floats, Floats]:
    """Means and standard deviations of the cells that are there; 0 and 1 for a column without numbers."""
    is_missing = np.isnan(rows)
    count = np.maximum((~is_missing).sum(0), 1)
    low, high = np.where(is_missing, np.inf, rows).min(0), np.where(is_missing, -np.inf, rows).max(0)
    mean = np.where(is_missing, 0.0, rows).sum(0) / count
    # The mean of equal numbers may be rounded, and they would seem to vary by as much.
    mean = np.where(low == high, low, mean)
    around = np.where(is_missing, 0.0, rows - mean)
    scale = np.sqrt((around**2).sum(0) / count)
    return mean, np.where((low < high) & (scale > 0), scale, 1.0)


def _shrunk(covariance: Floats, num_rows: int) -> Floats:
    """A covariance of few rows drawn towards its diagonal, by as much as one row in the number of columns weighs."""
    size = len(covariance)
    weight = size / (num_rows + size) * 0.1
    diagonal = np.diag(np.maximum(np.diag(covariance), _RIDGE))
    return (1 - weight) * covariance + weight * diagonal + _RIDGE * np.eye(size)
