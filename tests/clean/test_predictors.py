"""The predictors fill as the peers they take after do, better where more can be known, and always with a number."""

from __future__ import annotations

import pickle
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from sklearn.impute import KNNImputer

from nanguard.clean import gaussian, predictors
from nanguard.errors import UsageError


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(3)


def holed(random: np.random.Generator, rows: Any, share: float = 0.15) -> Any:
    return np.where(random.random(rows.shape) < share, np.nan, rows)


def curved(random: np.random.Generator, num_rows: int) -> Any:
    """Columns of which some are functions of others that no straight line follows, in units of their own."""
    x, y = random.uniform(-2, 2, (2, num_rows))
    rows = np.stack([x, y, x**2, np.where(y > 0.5, 3.0, 0.0), np.sin(3 * x) + y], 1)
    return 1e3 + (rows + 0.05 * random.normal(size=rows.shape)) * [1e-3, 1.0, 10.0, 100.0, 1.0]


def error(filled: Any, truth: Any, rows: Any) -> float:
    """Of the cells that are missing in `rows`, in standard deviations."""
    return float(np.sqrt(np.mean(((filled - truth) / truth.std(0))[np.isnan(rows)] ** 2)))


def test_neighbours_are_those_of_scikit_learn(random: np.random.Generator) -> None:
    """With gaps in both, "knn" fills as `KNNImputer` does with columns of one standard deviation."""
    rows = random.normal(size=(400, 5)) @ random.normal(size=(5, 5)) + 10
    train, test = holed(random, rows[:300], 0.3), holed(random, rows[300:], 0.3)
    test[0] = np.nan
    mean, scale = np.nanmean(train, 0), np.nanstd(train, 0)
    for num_neighbors in (1, 5, 400):
        theirs = KNNImputer(n_neighbors=num_neighbors).fit((train - mean) / scale).transform((test - mean) / scale)
        ours = predictors.fit(train, method="knn", num_neighbors=num_neighbors).fill(test)
        np.testing.assert_allclose(ours, theirs * scale + mean, rtol=1e-9)


def test_neighbours_take_bounded_memory(random: np.random.Generator) -> None:
    """Ten thousand rows beside five thousand donors take a fifth of the memory of all their distances."""
    predictor = predictors.fit(random.normal(size=(5000, 3)), method="knn")
    rows = holed(random, random.normal(size=(10_000, 3)), 0.3)
    tracemalloc.start()
    predictor.fill(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000 * 5000 * 8 * 0.2


def test_trees_follow_what_no_line_follows(random: np.random.Generator) -> None:
    """Where columns are curved functions of others, the error is far below the Gaussian's and the neighbours'."""
    truth = curved(random, 900)
    rows = holed(random, truth)
    train, test = rows[:600], rows[600:]
    found = {method: predictors.fit(train, method=method).fill(test) for method in ("knn", "trees")}
    errors = {method: error(filled, truth[600:], test) for method, filled in found.items()}
    plain = error(gaussian.fit(train).fill(test), truth[600:], test)
    assert errors["trees"] < 0.8 * plain
    assert errors["trees"] < errors["knn"]


def test_trees_leave_a_gaussian_alone(random: np.random.Generator) -> None:
    """Where lines are all there is to know, trees do hardly worse than the Gaussian that is right."""
    root = random.normal(size=(5, 5))
    truth = random.normal(size=(900, 5)) @ root
    rows = holed(random, truth)
    train, test = rows[:600], rows[600:]
    plain = error(gaussian.fit(train).fill(test), truth[600:], test)
    assert error(predictors.fit(train).fill(test), truth[600:], test) < 1.03 * plain


def test_trees_start_from_the_gaussian_that_is_given(random: np.random.Generator) -> None:
    """A column with too few numbers for trees is filled by the Gaussian that was given."""
    rows = random.normal(size=(30, 3))
    given = gaussian.of_moments(np.zeros(3), np.full((3, 3), 0.5) + 0.5 * np.eye(3))
    asked = np.array([[0.2, np.nan, 0.1], [np.nan, 0.3, np.nan]])
    expected = np.clip(given.fill(asked), rows.min(0), rows.max(0))
    filled = predictors.fit(rows, gaussian=given).fill(asked)
    np.testing.assert_allclose(filled, np.where(np.isnan(asked), expected, asked))


@pytest.mark.parametrize("method", predictors.METHODS)
@pytest.mark.parametrize(
    "kind",
    [
        "one row",
        "wide",
        "empty",
        "an empty column",
        "constant",
        "hardly varies",
        "integers",
        "twins",
        "huge",
        "one number each",
    ],
)
def test_degenerate_samples_give_finite_cells_in_range(random: np.random.Generator, method: str, kind: str) -> None:
    """Whatever the sample was like, each gap gets a finite number within what its column was seen to hold."""
    sample = holed(random, random.normal(size=(60, 4)))
    if kind == "one row":
        sample = np.array([[1.0, np.nan, 3.0, np.nan]])
    elif kind == "wide":
        sample = holed(random, random.normal(size=(44, 46)), 0.05)
        sample[10:, 4:] = np.nan  # too few numbers for trees
    elif kind == "empty":
        sample[:] = np.nan
    elif kind == "an empty column":
        sample[:, 1] = np.nan
    elif kind == "constant":
        sample[~np.isnan(sample)] = 7.0
    elif kind == "integers":
        sample = np.round(sample)
    elif kind == "hardly varies":
        sample[:, 1] = 0.1
        sample[5, 1] = 3.0
        sample[:, 2] = np.where(random.random(60) < 0.05, 1e-12, 0.0)
        sample[7, 2] = 1.0
    elif kind == "twins":
        sample[:, 1:] = sample[:, :1]
    elif kind == "huge":
        sample[:, 0] *= 1e150
        sample[0, 1] = 1e30
    elif kind == "one number each":
        sample = np.where(np.eye(4, dtype=bool).repeat(15, 0), sample, np.nan)
    size = sample.shape[1]
    predictor = predictors.fit(sample, method=method)
    asked = [sample, np.full((3, size), np.nan), holed(random, 100 * random.normal(size=(20, size)), 0.5), sample[:0]]
    for rows in asked:
        before = rows.copy()
        filled = predictor.fill(rows)
        np.testing.assert_array_equal(rows, before)
        assert filled.shape == rows.shape
        assert np.isfinite(filled).all()
        gone = np.isnan(rows)
        np.testing.assert_array_equal(filled[~gone], rows[~gone])
        for place in np.flatnonzero(~np.isnan(sample).all(0)):
            cells = filled[gone[:, place], place]
            assert (cells >= np.nanmin(sample[:, place])).all()
            assert (cells <= np.nanmax(sample[:, place])).all()


def test_a_column_that_varies_in_one_row_is_still_filled_by_its_number(random: np.random.Generator) -> None:
    """Where all numbers of a column but one are equal, folds without that one do not make its predictions explode."""
    sample = random.normal(size=(200, 5))
    sample[:, 1] = 0.1
    sample[5, 1] = 3.0
    sample[:, 2] = np.where(random.random(200) < 0.05, 1e-12, 0.0)
    sample[7, 2] = 1.0
    rows = random.normal(size=(50, 5))
    rows[:, [1, 2]] = np.nan
    filled = predictors.fit(holed(random, sample)).fill(rows)
    assert np.abs(filled[:, 1] - 0.1).max() < 0.5
    assert np.abs(filled[:, 2]).max() < 0.2


@pytest.mark.parametrize("method", predictors.METHODS)
def test_a_predictor_pickles_and_looks_at_each_row_alone(random: np.random.Generator, method: str) -> None:
    """After pickling, and row by row, the same numbers come out; the same seed learns the same."""
    rows = holed(random, curved(random, 150))
    predictor = predictors.fit(rows, method=method)
    filled = predictor.fill(rows)
    again: predictors.Predictor = pickle.loads(pickle.dumps(predictor))
    np.testing.assert_array_equal(again.fill(rows), filled)
    np.testing.assert_allclose(np.concatenate([predictor.fill(row[None]) for row in rows[:20]]), filled[:20], rtol=1e-9)
    np.testing.assert_array_equal(predictors.fit(rows, method=method).fill(rows), filled)


def test_trees_say_what_to_install(monkeypatch: pytest.MonkeyPatch, random: np.random.Generator) -> None:
    """Without scikit-learn the error is one line that names the extra."""
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(UsageError, match=r'^`impute=\'trees\'` needs scikit-learn: pip install "nanguard\[data\]"$'):
        predictors.fit(random.normal(size=(30, 2)), method="trees")


def test_bad_arguments_are_named(random: np.random.Generator) -> None:
    """Each argument that cannot be is refused with what came."""
    rows = random.normal(size=(30, 2))
    with pytest.raises(ValueError, match="method='forest'"):
        predictors.fit(rows, method="forest")
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        predictors.fit(rows[0])
    with pytest.raises(ValueError, match=r"shape \(0, 2\)"):
        predictors.fit(rows[:0])
    with pytest.raises(ValueError, match="num_neighbors=0"):
        predictors.fit(rows, method="knn", num_neighbors=0)
    with pytest.raises(ValueError, match="3 and 2 columns"):
        predictors.fit(rows, gaussian=gaussian.of_moments(np.zeros(3), np.eye(3)))
