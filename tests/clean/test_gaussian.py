"""The Gaussian gives the conditional means and distances of the textbook, and stays finite on degenerate tables."""

from __future__ import annotations

import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from nanguard.clean import gaussian
from nanguard.clean.accumulator import Accumulator
from nanguard.clean.gaussian import Gaussian
from nanguard.clean.recipe import Recipe


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


def correlated(random: np.random.Generator, num_rows: int, size: int, *, num_factors: int = 2) -> Any:
    """Rows whose columns share factors, in units and at offsets of their own."""
    rows = random.normal(size=(num_rows, num_factors)) @ random.normal(size=(num_factors, size))
    return (rows + 0.3 * random.normal(size=rows.shape)) * 10.0 ** random.integers(-3, 4, size) + random.normal(
        size=size
    )


def holed(random: np.random.Generator, rows: Any, share: float = 0.2) -> Any:
    return np.where(random.random(rows.shape) < share, np.nan, rows)


def given_moments(random: np.random.Generator, size: int) -> tuple[Any, Any]:
    root = random.normal(size=(size, size))
    return random.normal(size=size), root @ root.T + 0.1 * np.eye(size)


def test_fill_is_the_regression_on_the_cells_that_are_there(random: np.random.Generator) -> None:
    """Each filled cell is `m + C_mo inv(C_oo) (o - m_o)`, written with the covariance."""
    mean, covariance = given_moments(random, 6)
    rows = holed(random, random.multivariate_normal(mean, covariance, 200), 0.3)
    filled = gaussian.of_moments(mean, covariance).fill(rows)
    for row, found in zip(rows, filled, strict=True):
        gone = np.isnan(row)
        there = ~gone
        slope = np.linalg.solve(covariance[np.ix_(there, there)], covariance[np.ix_(there, gone)]).T
        np.testing.assert_allclose(found[gone], mean[gone] + slope @ (row[there] - mean[there]), rtol=1e-6, atol=1e-8)
        np.testing.assert_array_equal(found[there], row[there])


def test_distances_are_those_of_the_cells_that_are_there(random: np.random.Generator) -> None:
    """A row with gaps has the Mahalanobis distance of its known cells alone; an empty one has 0."""
    mean, covariance = given_moments(random, 5)
    rows = holed(random, random.multivariate_normal(mean, covariance, 100), 0.3)
    rows[0] = np.nan
    found = gaussian.of_moments(mean, covariance).distances(rows)
    for row, distance in zip(rows, found, strict=True):
        there = ~np.isnan(row)
        around = row[there] - mean[there]
        expected = around @ np.linalg.solve(covariance[np.ix_(there, there)], around) if there.any() else 0.0
        assert distance == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_fit_without_gaps_gives_the_moments(random: np.random.Generator) -> None:
    """Where nothing is missing the fit is the sample's mean and, but for the shrinkage, its covariance."""
    rows = correlated(random, 5000, 4)
    found = gaussian.fit(rows)
    np.testing.assert_allclose(found.mean, rows.mean(0))
    np.testing.assert_allclose(found.scale, rows.std(0), rtol=1e-3)
    np.testing.assert_allclose(found.correlation, np.corrcoef(rows.T), atol=1e-3)


def test_fit_finds_means_that_depend_on_what_is_missing(random: np.random.Generator) -> None:
    """Where a cell is missing because of another column, the mean of those that are there is off, and EM's is not."""
    first = random.normal(size=20_000)
    second = first + 0.3 * random.normal(size=20_000)
    rows = np.stack([first, np.where(first > 0, np.nan, second)], 1)
    assert np.nanmean(rows[:, 1]) < -0.7
    assert gaussian.fit(rows).mean[1] == pytest.approx(second.mean(), abs=0.02)


def test_fit_is_a_maximum_of_the_likelihood(random: np.random.Generator) -> None:
    """No small change of the fitted mean or covariance makes the known cells more likely."""
    rows = holed(random, correlated(random, 2000, 3))
    found = gaussian.fit(rows, tolerance=1e-8, max_iterations=1000)
    covariance = found.correlation * np.outer(found.scale, found.scale)

    def log_likelihood(mean: Any, covariance: Any) -> float:
        total = 0.0
        for row in rows:
            there = ~np.isnan(row)
            if there.any():
                part, around = covariance[np.ix_(there, there)], row[there] - mean[there]
                total -= (np.linalg.slogdet(part)[1] + around @ np.linalg.solve(part, around)) / 2
        return total

    best = log_likelihood(found.mean, covariance)
    for place in range(3):
        for step in (-0.05, 0.05):
            mean = found.mean.copy()
            mean[place] += step * found.scale[place]
            assert log_likelihood(mean, covariance) < best
            stretched = covariance.copy()
            stretched[place] *= 1 + step
            stretched[:, place] *= 1 + step
            assert log_likelihood(found.mean, stretched) < best


def test_pairwise_moments_of_repeating_columns_do_not_overshoot(random: np.random.Generator) -> None:
    """On real columns that nearly repeat each other the one-pass Gaussian is far better than the mean, as EM is."""
    truth = load_breast_cancer().data[:450]
    truth = (truth - truth.mean(0)) / truth.std(0)
    rows = holed(random, truth, 0.1)
    learnt = Accumulator.pilot([str(place) for place in range(truth.shape[1])], rows[:300])
    learnt.update(rows[:300], first_row=0)
    mean, covariance = learnt.covariance()
    assert np.linalg.eigvalsh(covariance)[0] < 0
    gone = np.isnan(rows[300:])

    def error(found: Gaussian) -> float:
        return float(np.sqrt(np.mean((found.fill(rows[300:]) - truth[300:])[gone] ** 2)))

    assert error(gaussian.of_moments(mean, covariance)) < 0.4
    assert error(gaussian.fit(rows[:300])) < 0.35


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 40), (50, 4)], ids=str)
@pytest.mark.parametrize("kind", ["holes", "nothing", "constant", "twins", "an empty column"])
def test_degenerate_tables_give_finite_cells(random: np.random.Generator, shape: tuple[int, int], kind: str) -> None:
    """One row, more columns than rows, empty, constant or repeated columns: every cell gets a finite number."""
    rows = correlated(random, *shape)
    if kind == "constant":
        rows[:] = 5.0
    if kind == "twins":
        rows[:] = rows[:, :1]
    rows = holed(random, rows)
    if kind == "nothing":
        rows[:] = np.nan
    if kind == "an empty column":
        rows[:, 0] = np.nan
    found = gaussian.fit(rows)
    for asked in (rows, np.full((2, shape[1]), np.nan)):
        assert np.isfinite(found.fill(asked)).all()
        assert np.isfinite(found.distances(asked)).all()
    if kind == "constant":
        known = ~np.isnan(rows).all(0)
        np.testing.assert_allclose(found.fill(rows)[:, known], 5.0)
        np.testing.assert_array_equal(found.scale, 1.0)


def test_equal_numbers_do_not_vary() -> None:
    """A column of equal numbers has a scale of 1 and its number for a mean, though the mean of all is rounded."""
    rows = np.full((3, 2), 0.1)
    assert rows[:, 0].mean() != 0.1
    mean, scale = gaussian.moments(rows)
    np.testing.assert_array_equal(mean, 0.1)
    np.testing.assert_array_equal(scale, 1.0)


def test_a_constant_column_says_nothing_of_the_others(random: np.random.Generator) -> None:
    """Another number in a column that was constant when the Gaussian was fitted changes no cell that is filled."""
    rows = holed(random, correlated(random, 150, 4))
    rows[:, 1] = 0.1
    found = gaussian.fit(rows)
    asked = rows.copy()
    asked[:, 1] = 3.0
    np.testing.assert_allclose(found.fill(asked)[:, [0, 2, 3]], found.fill(rows)[:, [0, 2, 3]], rtol=1e-9)


def test_rows_of_one_pattern_take_bounded_memory(random: np.random.Generator) -> None:
    """A hundred thousand rows that miss the same 25 of 30 cells take less memory than a matrix for each would."""
    found = gaussian.fit(correlated(random, 500, 30))
    rows = np.full((100_000, 30), np.nan)
    rows[:, :5] = found.mean[:5]
    tracemalloc.start()
    filled = found.fill(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.isfinite(filled).all()
    assert peak < 8 * rows.nbytes  # a matrix for each row is 21 times the rows


def test_what_was_asked_of_it_is_neither_kept_nor_changed(random: np.random.Generator) -> None:
    """Filling leaves its input alone, and a Gaussian that was used pickles and goes through JSON as before."""
    rows = holed(random, correlated(random, 100, 4))
    before = rows.copy()
    found = gaussian.fit(rows)
    filled = found.fill(rows)
    np.testing.assert_array_equal(rows, before)
    again: Gaussian = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.fill(rows), filled)
    empty = np.zeros(4)
    recipe = Recipe(tuple("abcd"), empty - np.inf, empty + np.inf, empty, empty > 0, ((),) * 4, gaussian=found)
    read = Recipe.from_json(recipe.to_json()).gaussian
    assert read is not None
    np.testing.assert_array_equal(read.fill(rows), filled)
