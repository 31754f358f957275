"""From what was learnt of a table to how it is cleaned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanguard.clean import gaussian
from nanguard.clean.accumulator import Accumulator
from nanguard.clean.gaussian import Gaussian
from nanguard.clean.histogram import Histogram
from nanguard.clean.options import ACTIONS_OF, Options
from nanguard.clean.recipe import Recipe
from nanguard.errors import UsageError

Floats = NDArray[np.float64]

# What makes the median absolute deviation of a normal distribution its standard deviation.
_NORMAL = 1.4826


def fit(learnt: Accumulator, options: Options) -> Recipe:
    """How the table is to be cleaned.

    Raises:
        UsageError: If a column that is to be filled holds no number.
    """
    size = len(learnt.names)
    low, high = np.full(size, -np.inf), np.full(size, np.inf)
    # Where rows or neighbours are judged, the far fences keep absurd numbers out of what is learnt, and bound nothing.
    fences = np.array([fence(histogram, options) for histogram in learnt.histograms]).reshape(size, 2)
    if options.bounds not in ACTIONS_OF and (options.outliers is not None or options.infinite == "clip"):
        low, high = fences.T.copy()
    fill = np.array(
        [_fill(name, histogram, bounds, options)
         for name, histogram, bounds in zip(learnt.names, learnt.histograms, fences, strict=True)]
    ).reshape(size)  # fmt: skip
    needs_gaussian = size > 0 and (options.impute == "gaussian" or options.bounds == "mahalanobis")
    fitted = _gaussian(learnt, fences if options.outliers is not None else None, options) if needs_gaussian else None
    return Recipe(
        names=learnt.names,
        low=low,
        high=high,
        fill=fill,
        has_indicator=_has_gaps(learnt, low, high, options) & options.indicators,
        sentinels=tuple(options.sentinels_of(name) for name in learnt.names),
        action=options.outliers,
        clips_infinite=options.infinite == "clip",
        gaussian=fitted,
        fills_by_gaussian=options.impute == "gaussian",
        row_limit=_row_limit(size, options.limit) if options.bounds == "mahalanobis" else None,
    )


def fence(histogram: Histogram, options: Options) -> tuple[float, float]:
    """The bounds of a column; infinite where its numbers are too alike to tell an outlier from a rare value.

    All are taken from quantiles or from numbers within them, so that no single number moves them.
    """
    limit = options.limit
    if options.bounds == "quantile":
        low, high = histogram.quantiles([limit, 1 - limit])
        return (float(low), float(high)) if histogram.num_values else (-np.inf, np.inf)
    if options.bounds == "zscore":
        _, mean, variance = histogram.moments(*_far_out(histogram, 10.0))
        return _around(mean, mean, limit * np.sqrt(variance))
    if options.bounds == "mad":
        median = float(histogram.quantiles(0.5))
        return _around(median, median, limit * _NORMAL * histogram.deviation(median))
    return _far_out(histogram, limit if options.bounds == "iqr" else 10.0)


def _far_out(histogram: Histogram, factor: float) -> tuple[float, float]:
    """Tukey's fences (*Exploratory Data Analysis*, 1977): the quartiles, and a factor of their distance beyond."""
    low, high = histogram.quantiles([0.25, 0.75])
    return _around(float(low), float(high), factor * (high - low))


def _around(low: float, high: float, width: float) -> tuple[float, float]:
    return (low - float(width), high + float(width)) if width > 0 else (-np.inf, np.inf)


def _fill(name: str, histogram: Histogram, bounds: Floats, options: Options) -> float:
    if options.impute is None:
        return np.nan
    if options.impute == "constant":
        return options.fill_value
    if not histogram.num_values:
        raise UsageError(
            f"Column {name!r} holds no number, so that nothing can be filled in. Leave it out with `columns`, "
            "or give a number with impute='constant' and `fill_value`."
        )
    if options.impute == "mode":
        return float(histogram.values[np.argmax(histogram.counts)])
    if options.impute in ("mean", "gaussian", "group_mean"):
        # Without bounds it is the plain mean, as everywhere; with them, that of the numbers that stay as they are.
        count, mean, _ = histogram.moments(*(bounds if options.outliers is not None else ()))
        if count:
            return mean
    return float(histogram.quantiles(0.5))


def _has_gaps(learnt: Accumulator, low: Floats, high: Floats, options: Options) -> NDArray[np.bool_]:
    """Which columns had something to fill in."""
    gaps = learnt.num_missing.copy()
    if options.infinite == "missing":
        gaps += learnt.num_infinite
    if options.outliers == "impute":
        gaps += np.array(
            [np.count_nonzero(~histogram.within(*bounds))
             for histogram, *bounds in zip(learnt.histograms, low, high, strict=True)], np.int64
        )  # fmt: skip
    return np.asarray(gaps > 0)


def _gaussian(learnt: Accumulator, fences: Floats | None, options: Options) -> Gaussian:
    if options.covariance == "pairwise":
        return gaussian.of_moments(*learnt.covariance())
    rows = learnt.sample.rows.copy()
    rows[np.isinf(rows)] = np.nan
    reach = np.stack([learnt.centers - learnt.reach, learnt.centers + learnt.reach], 1) if fences is None else fences
    with np.errstate(invalid="ignore"):
        rows[(rows < reach[:, 0]) | (rows > reach[:, 1])] = np.nan
    return gaussian.fit(rows)


def _row_limit(size: int, share: float) -> Floats:
    """The chi-squared quantile of each count of cells, from 0 to all columns."""
    from scipy.stats import chi2

    return np.append(np.inf, chi2.ppf(share, np.arange(1, size + 1)))
