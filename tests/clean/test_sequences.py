"""Gaps filled from the rows before and after, and numbers that jump."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nanguard.clean import sequences

cells = st.one_of(st.just(np.nan), st.floats(-10, 10))
tables = hnp.arrays(np.float64, st.tuples(st.integers(1, 30), st.integers(1, 3)), elements=cells)
REFERENCE = {
    "ffill": lambda frame: frame.ffill(),
    "bfill": lambda frame: frame.bfill(),
    "interpolate": lambda frame: frame.interpolate().ffill().bfill(),
}


def filled(rows: np.ndarray, codes: np.ndarray, method: str, size: int) -> np.ndarray:
    """A table filled in blocks of some rows."""
    blocks = [(codes[start : start + size], rows[start : start + size]) for start in range(0, len(rows), size)]
    around = sequences.edges(blocks)
    return np.concatenate([sequences.fill(b, method, c, e) for (c, b), e in zip(blocks, around, strict=True)])


@pytest.mark.parametrize("method", sequences.METHODS)
@given(rows=tables, size=st.integers(1, 8))
def test_blocks_are_filled_as_the_whole(method: str, rows: np.ndarray, size: int) -> None:
    """Cut into blocks of any size, a table is filled as pandas fills it in one piece."""
    found = filled(rows, np.zeros(len(rows), np.int64), method, size)
    expected = REFERENCE[method](pd.DataFrame(rows)).to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("method", sequences.METHODS)
@given(rows=tables, size=st.integers(1, 8), data=st.data())
def test_each_sequence_is_filled_on_its_own(method: str, rows: np.ndarray, size: int, data: st.DataObject) -> None:
    """Sequences whose rows lie among one another are filled as pandas fills each; rows of none are left alone."""
    codes = np.array(data.draw(st.lists(st.integers(-1, 3), min_size=len(rows), max_size=len(rows))), np.int64)
    found = filled(rows, codes, method, size)
    for code in range(-1, 4):
        own = rows[codes == code]
        expected = own if code < 0 else REFERENCE[method](pd.DataFrame(own)).to_numpy()
        np.testing.assert_allclose(found[codes == code], expected, atol=1e-9)


def test_a_spike_is_found() -> None:
    """A number far from its neighbourhood is found; a smooth curve, a step and a gap are not."""
    curve = np.sin(np.arange(400) / 20)
    curve[200:] += 5
    spiked = curve.copy()
    spiked[[50, 300]] = 9, -4
    spiked[120] = np.nan
    rows = np.stack([curve, spiked], 1)
    found = sequences.hampel(rows, window=7, threshold=8)
    assert [np.flatnonzero(column).tolist() for column in found.T] == [[], [50, 300]]


@given(rows=tables, data=st.data())
def test_spikes_of_each_sequence(rows: np.ndarray, data: st.DataObject) -> None:
    """Sequences whose rows lie among one another are judged as each is alone; rows of none are not judged."""
    codes = np.array(data.draw(st.lists(st.integers(-1, 2), min_size=len(rows), max_size=len(rows))), np.int64)
    found = sequences.hampel(rows, window=2, threshold=2, codes=codes)
    for code in range(-1, 3):
        own = rows[codes == code]
        alone = sequences.hampel(own, window=2, threshold=2)
        np.testing.assert_array_equal(found[codes == code], alone if code >= 0 else np.zeros_like(alone))


def test_a_flat_neighbourhood_judges_nothing() -> None:
    """Where more than half of the neighbours are equal there is no scale to judge by."""
    rows = np.zeros((20, 1))
    rows[7] = 1.0
    assert not sequences.hampel(rows, window=3, threshold=3).any()
