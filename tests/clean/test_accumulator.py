"""What one pass learns is the same from any split of the rows and any order of merging."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nanguard.clean.accumulator import Accumulator, Sample, draw

NAMES = ("a", "b", "c")
cells = st.one_of(st.floats(-1e6, 1e6), st.sampled_from([np.nan, np.inf, -np.inf, 1e30, 0.0]))
tables = hnp.arrays(np.float64, st.tuples(st.integers(1, 40), st.just(3)), elements=cells)


def learnt(rows: np.ndarray, like: Accumulator, first_row: int = 0) -> Accumulator:
    made = like.empty()
    made.update(rows, first_row=first_row)
    return made


@settings(max_examples=60)
@given(tables, st.data())
def test_merging_is_adding_rows(rows: np.ndarray, data: st.DataObject) -> None:
    """Counts, ranges, bins, sample and timeline are equal, and sums up to rounding."""
    pilot = Accumulator.pilot(NAMES, rows[:5])
    whole = learnt(rows, pilot)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    parts = [
        pickle.loads(pickle.dumps(learnt(rows[start:end], pilot, start)))
        for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True)
    ]
    total = pilot.empty()
    for part in data.draw(st.permutations(parts)):
        total.merge(part)
    for name in ("num_rows", "num_missing", "num_infinite", "min", "max", "pairs"):
        np.testing.assert_array_equal(getattr(total, name), getattr(whole, name))
    for ours, theirs in zip(total.histograms, whole.histograms, strict=True):
        assert (ours.bins.tolist(), ours.counts.tolist()) == (theirs.bins.tolist(), theirs.counts.tolist())
    np.testing.assert_array_equal(total.sample.rows, whole.sample.rows)
    np.testing.assert_array_equal(total.timeline.num_missing, whole.timeline.num_missing)
    np.testing.assert_array_equal(total.timeline.num_rows, whole.timeline.num_rows)
    scale = np.abs(np.where(np.isfinite(rows), rows, 0)).max() + 1
    for name, power in (("pair_sums", 1), ("pair_products", 2)):
        np.testing.assert_allclose(getattr(total, name), getattr(whole, name), atol=1e-9 * scale**power)


def test_numbers_are_numpys() -> None:
    """Mean and covariance are NumPy's at an offset of 1e8, where float32 has none of the variance."""
    rows = np.random.default_rng(0).multivariate_normal([1e8, 0, 5], [[4, 1, 0], [1, 1, 0], [0, 0, 9]], 20_000)
    whole = learnt(rows, Accumulator.pilot(NAMES, rows[:100]))
    mean, covariance = whole.covariance()
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(rows.T, bias=True), rtol=1e-9, atol=1e-9)


def test_pairs_are_those_of_complete_rows() -> None:
    """The covariance of two columns is that over the rows that have both, as pandas has it."""
    import pandas as pd

    random = np.random.default_rng(1)
    rows = random.normal(size=(500, 3)) @ random.normal(size=(3, 3))
    rows[random.random(rows.shape) < 0.3] = np.nan
    found = learnt(rows, Accumulator.pilot(NAMES, rows))
    # Where a cell is missing pandas divides by one less than the number of rows, whatever `ddof` says.
    expected = pd.DataFrame(rows).cov().to_numpy() * (found.pairs - 1) / found.pairs
    np.testing.assert_allclose(found.covariance()[1], expected, atol=1e-12)


def test_one_huge_number_reaches_no_product() -> None:
    """A 1e30 and an infinity leave the covariance as it is without their cells."""
    rows = np.random.default_rng(2).normal(size=(1000, 3))
    spoilt = rows.copy()
    spoilt[3, 0], spoilt[5, 1], spoilt[7, 2] = 1e30, np.inf, -1e25
    holes = np.where(np.isfinite(spoilt) & (np.abs(spoilt) < 1e20), spoilt, np.nan)
    pilot = Accumulator.pilot(NAMES, rows[:50])
    np.testing.assert_array_equal(learnt(spoilt, pilot).covariance()[1], learnt(holes, pilot).covariance()[1])


def test_kinds_of_nothing_are_counted_apart() -> None:
    """Null, NaN and the two infinities have a count each."""
    rows = np.array([[np.nan, 1, np.inf], [np.nan, 2, -np.inf], [3, np.nan, np.inf], [4, 5, 6]])
    found = Accumulator.pilot(NAMES, rows)
    found.update(rows, first_row=0, num_nulls=[1, 0, 0])
    assert found.num_nulls.tolist() == [1, 0, 0]
    assert found.num_nans.tolist() == [1, 1, 0]
    assert (found.num_posinf.tolist(), found.num_neginf.tolist()) == ([0, 0, 2], [0, 0, 1])
    assert found.num_finite.tolist() == [2, 3, 1]


def test_a_sample_is_drawn_by_row_number() -> None:
    """A sample of a long table has its limit of rows, of the whole table alike."""
    sample = Sample(1, limit=500)
    for start in range(0, 50_000, 1000):
        sample.add(start, np.arange(start, start + 1000, dtype=float)[:, None])
    assert len(sample.rows) == 500
    assert sample.rows[:, 0].tolist() == sample.numbers.tolist() == sorted(sample.numbers)
    assert abs(sample.numbers.mean() - 25_000) < 4 * 50_000 / np.sqrt(12 * 500)
    best = np.argsort(draw(np.arange(50_000)))[:500]
    assert set(best.tolist()) == set(sample.numbers.tolist())


def test_strangers_are_refused() -> None:
    """Accumulators of other columns or of another pilot do not add up."""
    rows = np.ones((3, 3)) * [[1], [2], [3]]
    one = Accumulator.pilot(NAMES, rows)
    with pytest.raises(ValueError, match="column by column"):
        one.merge(Accumulator.pilot(("x", "y", "z"), rows))
    with pytest.raises(ValueError, match=r"one pilot. Make them with its `empty\(\)`"):
        one.merge(Accumulator.pilot(NAMES, rows + 5))
    with pytest.raises(ValueError, match=r"3 columns. Received: shape \(3, 2\)"):
        one.update(rows[:, :2], first_row=0)


def test_select_is_learning_from_fewer_columns() -> None:
    """What is picked from an accumulator is what one of those columns alone has learnt."""
    rows = np.random.default_rng(3).normal(size=(100, 3))
    rows[rows > 1.5] = np.nan
    picked = learnt(rows, Accumulator.pilot(NAMES, rows)).select(("c", "a"))
    alone = learnt(rows[:, [2, 0]], Accumulator.pilot(("c", "a"), rows[:, [2, 0]]))
    np.testing.assert_allclose(picked.covariance()[1], alone.covariance()[1])
    np.testing.assert_array_equal(picked.sample.rows, alone.sample.rows)
    np.testing.assert_array_equal(picked.timeline.num_missing, alone.timeline.num_missing)
    assert picked.histograms[0].counts.tolist() == alone.histograms[0].counts.tolist()
