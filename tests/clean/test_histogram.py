"""Quantiles from bins that are the leading bits of a float."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanguard.clean.histogram import Histogram, center_of

numbers = st.floats(-1e30, 1e30, allow_nan=False)
columns = st.lists(numbers, min_size=1, max_size=200)


def state(histogram: Histogram) -> tuple[object, ...]:
    return histogram.bins.tolist(), histogram.counts.tolist()


@given(columns, numbers, st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_a_quantile_is_within_its_bin(values: list[float], center: float, shares: list[float]) -> None:
    """A quantile is within 1/256 of its distance from the centre of the number of that rank, which NumPy gives."""
    histogram = Histogram(center)
    histogram.add(values)
    exact = np.quantile(values, shares, method="inverted_cdf")
    distance = np.maximum(np.abs(exact - center), 1e-37)
    assert (np.abs(histogram.quantiles(shares) - exact) <= distance / 256 + 1e-15 * abs(center)).all()


@given(columns, numbers, st.data())
def test_parts_add_up_in_any_order(values: list[float], center: float, data: st.DataObject) -> None:
    """Any split and any order of merging gives the very bins of the whole."""
    whole = Histogram(center)
    whole.add(values)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    parts = []
    for start, end in zip([0, *cuts], [*cuts, len(values)], strict=True):
        part = Histogram(center)
        part.add(values[start:end])
        parts.append(pickle.loads(pickle.dumps(part)))
    total = Histogram(center)
    for part in data.draw(st.permutations(parts)):
        total.merge(part)
    assert state(total) == state(whole)
    scale = np.maximum(np.abs(whole.sums), np.abs(np.subtract(values, center)).max())
    assert (np.abs(total.sums - whole.sums) <= 1e-12 * scale).all()


@given(st.lists(st.integers(-200, 200), min_size=1))
def test_integers_come_back_as_they_came(values: list[int]) -> None:
    """Small integers stand alone in their bins, and a quantile of them is one of them."""
    histogram = Histogram(center_of(np.asarray(values, float)))
    histogram.add(values)
    shares = [0.1, 0.5, 0.9]
    if max(values) - min(values) <= 256:
        assert histogram.quantiles(shares).tolist() == np.quantile(values, shares, method="inverted_cdf").tolist()


def test_both_zeros_are_one_number() -> None:
    """-0.0 and 0.0 fall into one bin."""
    histogram = Histogram(0.0)
    histogram.add([-0.0, 0.0, 1.0])
    assert histogram.counts.tolist() == [2, 1]


def test_one_huge_number_moves_nothing() -> None:
    """Mean and variance within a range are those of the numbers in it, whatever lies outside."""
    values = np.random.default_rng(0).normal(1e8, 10, 100_000)
    histogram = Histogram.of(np.append(values, [1e30, -1e300]))
    count, mean, variance = histogram.moments(0, 2e8)
    assert count == 100_000
    assert mean == pytest.approx(values.mean(), abs=1e-6)
    assert variance == pytest.approx(values.var(), rel=1e-4)


def test_deviation_is_the_median_one() -> None:
    """The deviation is the median absolute deviation."""
    values = np.random.default_rng(1).standard_cauchy(10_001)
    median = np.median(values)
    assert Histogram.of(values).deviation(median) == pytest.approx(np.median(np.abs(values - median)), rel=0.01)


def test_nothing_gives_nan() -> None:
    """An empty histogram has no quantiles and no moments."""
    assert np.isnan(Histogram().quantiles([0.5])).all()
    assert Histogram().moments()[0] == 0
    assert np.isnan(Histogram().deviation(0.0))


def test_other_centres_are_refused() -> None:
    """Histograms around two centres do not add up, and the message says what to do."""
    with pytest.raises(ValueError, match=r"one centre. Received: 0.0 and 1.0. Give all parts the same `center`"):
        Histogram(0.0).merge(Histogram(1.0))
    with pytest.raises(ValueError, match="finite number"):
        Histogram(np.nan)
