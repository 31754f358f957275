"""Bounds and fills are those of their authors, and no single number moves them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.stats
from sklearn.datasets import load_breast_cancer
from sklearn.impute import MissingIndicator, SimpleImputer

from nanguard.clean import fitting
from nanguard.clean.accumulator import Accumulator
from nanguard.clean.options import Options
from nanguard.clean.recipe import Recipe
from nanguard.errors import UsageError

RANDOM = np.random.default_rng(0)
ROWS = load_breast_cancer().data[:, :8]
HOLED = np.where(RANDOM.random(ROWS.shape) < 0.1, np.nan, ROWS)


def recipe_of(rows: np.ndarray, **options: object) -> Recipe:
    learnt = Accumulator.pilot([f"c{place}" for place in range(rows.shape[1])], rows)
    learnt.update(rows, first_row=0)
    return fitting.fit(learnt, Options(**options))


def exact_bounds(column: np.ndarray, bounds: str) -> tuple[float, float]:
    low, middle, high = np.quantile(column, [0.25, 0.5, 0.75], method="inverted_cdf")
    if bounds == "iqr":
        return low - 3 * (high - low), high + 3 * (high - low)
    if bounds == "mad":
        width = 3.5 * scipy.stats.median_abs_deviation(column, scale="normal")
        return middle - width, middle + width
    if bounds == "zscore":
        return column.mean() - 3 * column.std(), column.mean() + 3 * column.std()
    return tuple(np.quantile(column, [0.001, 0.999], method="inverted_cdf"))


@pytest.mark.parametrize("bounds", ["iqr", "mad", "zscore", "quantile"])
def test_bounds_are_their_authors(bounds: str) -> None:
    """Bounds are those of SciPy and NumPy, within the width of a bin."""
    rows = RANDOM.normal(50, 4, (20_000, 1))
    found = recipe_of(rows, bounds=bounds, impute="mean")
    expected = exact_bounds(rows[:, 0], bounds)
    np.testing.assert_allclose([found.low[0], found.high[0]], expected, atol=4 * 0.02)


@pytest.mark.parametrize("bounds", ["iqr", "mad", "zscore"])
@pytest.mark.parametrize("impute", ["mean", "median", "gaussian"])
def test_one_huge_number_moves_nothing(bounds: str, impute: str) -> None:
    """With a 1e30 in a column, bounds, fills and predictions are as without it."""
    spoilt = HOLED.copy()
    spoilt[0, 0] = 1e30
    clean = HOLED.copy()
    clean[0, 0] = np.nan
    one, other = recipe_of(spoilt, bounds=bounds, impute=impute), recipe_of(clean, bounds=bounds, impute=impute)
    scale = np.nanstd(clean, 0)
    # One row more moves a quartile of 512 rows by a rank, and a fence by several times that.
    for name, width in (("low", 0.1), ("high", 0.1), ("fill", 0.02)):
        assert (np.abs(getattr(one, name) - getattr(other, name)) < width * scale).all()
    assert np.abs((one.clean(spoilt).rows - other.clean(clean).rows)[1:] / scale).max() < 0.1
    assert one.clean(spoilt).rows[0, 0] == one.high[0]


@pytest.mark.parametrize(
    ("impute", "strategy"),
    [("mean", "mean"), ("median", "median"), ("mode", "most_frequent"), ("constant", "constant")],
)
def test_scikit_learn_agrees(impute: str, strategy: str) -> None:
    """Fills and indicators are those of SimpleImputer and MissingIndicator."""
    rows = np.round(HOLED, 0) if impute == "mode" else HOLED
    theirs = SimpleImputer(strategy=strategy, fill_value=-5.0 if impute == "constant" else None).fit_transform(rows)
    found = recipe_of(rows, impute=impute, fill_value=-5.0, outliers=None, indicators=True)
    ours = found.clean(rows)
    tolerance = 0.01 * np.nanstd(rows, 0) if impute == "median" else 1e-9 * np.nanmax(np.abs(rows), 0)
    assert (np.abs(ours.rows - theirs) <= tolerance).all()
    np.testing.assert_array_equal(ours.is_missing[:, found.has_indicator], MissingIndicator().fit_transform(rows))


def test_prediction_is_better_than_a_mean() -> None:
    """A conditional mean is nearer to the masked cell than the column's, by a third and more."""
    is_masked = np.isnan(HOLED)
    errors = {}
    for impute in ("mean", "gaussian"):
        filled = recipe_of(HOLED, impute=impute, outliers=None).clean(HOLED).rows
        errors[impute] = np.sqrt(np.mean(((filled - ROWS) / ROWS.std(0))[is_masked] ** 2))
    assert errors["gaussian"] < 0.6 * errors["mean"]


def test_what_is_beyond_a_bound() -> None:
    """Clip moves it to the bound, impute fills it, and an infinity is missing unless it is to be clipped."""
    rows = RANDOM.normal(size=(1000, 2))
    rows[0, 0], rows[1, 1] = 100.0, -np.inf
    clipped, imputed = (recipe_of(rows, outliers=o, impute="mean").clean(rows) for o in ("clip", "impute"))
    bounds = recipe_of(rows, impute="mean")
    assert clipped.rows[0, 0] == bounds.high[0]
    assert imputed.rows[0, 0] == bounds.fill[0]
    assert clipped.is_outlier[0, 0] == imputed.is_outlier[0, 0] == True  # noqa: E712
    assert clipped.rows[1, 1] == bounds.fill[1]
    assert recipe_of(rows, infinite="clip").clean(rows).rows[1, 1] == bounds.low[1]
    assert recipe_of(rows, infinite="clip", outliers=None).clean(rows).rows[1, 1] == bounds.low[1]
    flat = np.where(np.isinf(rows), rows, 0.0)
    assert recipe_of(flat, infinite="clip", impute="median").clean(flat).rows[1, 1] == 0
    np.testing.assert_array_equal(clipped.rows[2:], rows[2:])


def test_rare_values_of_a_flat_column_are_no_outliers() -> None:
    """A column that is mostly one number has no bounds: its rare values may be all it says."""
    rows = np.zeros((1000, 1))
    rows[:50] = 1.0
    for bounds in ("iqr", "mad"):
        found = recipe_of(rows, bounds=bounds)
        assert (found.low[0], found.high[0]) == (-np.inf, np.inf)


def test_odd_rows_are_found() -> None:
    """A row whose cells are ordinary one by one and not together is far by Mahalanobis, with or without a gap."""
    x = RANDOM.normal(size=5000)
    rows = np.stack([x, x + 0.1 * RANDOM.normal(size=5000), RANDOM.normal(size=5000)], 1)
    rows[7] = [2.0, -2.0, 0.0]
    rows[8] = [2.0, -2.0, np.nan]
    cleaned = recipe_of(rows, bounds="mahalanobis", outliers="drop", threshold=0.9999).clean(rows)
    assert cleaned.is_odd[[7, 8]].all()
    assert cleaned.is_odd.mean() < 0.002


@pytest.mark.parametrize("impute", ["gaussian", "mean", "mode"])
def test_a_recipe_is_plain_json(impute: str) -> None:
    """Written as JSON and read again, a recipe gives the same bits."""
    found = recipe_of(HOLED, impute=impute, sentinels=[-999.0], bounds="mahalanobis", outliers="drop", indicators=True)
    again = Recipe.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    ours, theirs = found.clean(HOLED), again.clean(HOLED)
    assert ours.rows.tobytes() == theirs.rows.tobytes()
    np.testing.assert_array_equal(ours.is_odd, theirs.is_odd)


def test_sentinels_are_missing() -> None:
    """A number that is named as one for nothing is filled, in its own columns only."""
    rows = np.where(np.isnan(HOLED), -999.0, HOLED)
    found = recipe_of(np.where(rows == -999, np.nan, rows), sentinels={"c0": [-999]}, impute="mean", outliers=None)
    cleaned = found.clean(rows)
    assert not (cleaned.rows[:, 0] == -999).any()
    assert (cleaned.rows[:, 1] == -999).sum() == np.isnan(HOLED[:, 1]).sum()


def test_degenerate_tables() -> None:
    """One row, more columns than rows, equal columns and a constant one are cleaned to finite numbers."""
    one = np.array([[1.0, np.nan, 3.0], [np.nan, 2.0, np.nan]])
    assert np.isfinite(recipe_of(one).clean(one).rows).all()
    wide = RANDOM.normal(size=(5, 40))
    wide[RANDOM.random(wide.shape) < 0.2] = np.nan
    wide[0] = 1.0
    same = np.stack([ROWS[:, 0], ROWS[:, 0], np.full(len(ROWS), 3.0)], 1)
    same[RANDOM.random(same.shape) < 0.2] = np.nan
    for rows in (wide, same):
        assert np.isfinite(recipe_of(rows).clean(rows).rows).all()
    filled = recipe_of(same, outliers=None).clean(same).rows
    is_checked = np.isnan(same[:, 0]) & ~np.isnan(same[:, 1])
    np.testing.assert_allclose(filled[is_checked, 0], same[is_checked, 1], rtol=0.01)


def test_a_column_without_numbers_is_refused() -> None:
    """Nothing can be filled from nothing, and the message names the column and two ways out."""
    rows = np.array([[1.0, np.nan], [2.0, np.nan]])
    with pytest.raises(UsageError, match=r"'c1' holds no number.*`columns`.*impute='constant'"):
        recipe_of(rows)
    assert recipe_of(rows, impute="constant", fill_value=7.0).clean(rows).rows[:, 1].tolist() == [7.0, 7.0]
    assert np.isnan(recipe_of(rows, impute=None).clean(rows).rows[:, 1]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"impute": "magic"}, "`impute` must be one of 'gaussian', .* Received: impute='magic'"),
        ({"outliers": "hide"}, "`outliers` must be one of .* Received: outliers='hide'"),
        ({"bounds": "iqd"}, "`bounds` must be one of"),
        ({"threshold": -1.0}, "`threshold` must be positive. Received: threshold=-1.0"),
        ({"fill_value": np.nan}, "`fill_value` must be a finite number"),
        ({"impute": "group_mean"}, "needs `group`"),
        ({"bounds": "hampel"}, "no bound to move a number to: give `outliers` as 'impute' or 'drop' or 'quarantine'"),
        ({"bounds": "mahalanobis", "outliers": "impute"}, "give `outliers` as 'drop' or 'quarantine'"),
        ({"window": 0}, "`window` must be at least 1 row"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    """A bad option is refused by its name, with what came and what there is."""
    with pytest.raises(ValueError, match=message):
        Options(**options)
