"""What the tests of the engines share: a table of many parts, and what its survey has to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanguard.clean import Options, sources
from nanguard.clean.survey import Survey, survey

NUM_ROWS = 60_000
NUM_ROW_GROUPS = 120
OPTIONS = Options(sentinels=[-999])


def write_table(folder: Path) -> str:
    """Writes a Parquet file of numbers and words with gaps; gives its path."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(NUM_ROWS, 6)) @ random.normal(size=(6, 6)) + 1e6
    rows[random.random(rows.shape) < 0.001] = -999
    columns = {f"c{place}": pa.array(rows[:, place], mask=random.random(NUM_ROWS) < 0.1) for place in range(6)}
    columns["word"] = pa.array(random.choice(["a", "b", "c"], NUM_ROWS))
    pq.write_table(pa.table(columns), folder / "table.parquet", row_group_size=NUM_ROWS // NUM_ROW_GROUPS)
    return str(folder / "table.parquet")


def write_csv_files(folder: Path) -> str:
    """Writes three CSV files of ten rows; gives their glob."""
    for number in range(3):
        rows = "\n".join(f"{number * 10 + row},{'ab'[row % 2]}" for row in range(10))
        (folder / f"{number}.csv").write_text(f"x,word\n{rows}\n")
    return str(folder / "*.csv")


def alone(path: str) -> Survey:
    """The survey that one process makes."""
    source = sources.open(path)
    return survey(source.schema, source.blocks(), OPTIONS)


def check(found: Survey, expected: Survey) -> None:
    """Holds a survey against another: equal, and sums up to the order in which they were added."""
    assert (found.num_whole, found.num_blank) == (expected.num_whole, expected.num_blank)
    ours, theirs = found.numbers, expected.numbers
    for name in ("num_rows", "num_nulls", "num_nans", "min", "max", "pairs"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    for one, other in zip(ours.histograms, theirs.histograms, strict=True):
        np.testing.assert_array_equal(one.bins, other.bins)
        np.testing.assert_array_equal(one.counts, other.counts)
    np.testing.assert_array_equal(ours.sample.rows, theirs.sample.rows)
    np.testing.assert_allclose(ours.pair_products, theirs.pair_products, rtol=1e-12, atol=1e-6)
    assert found.categories["word"].counts == expected.categories["word"].counts


def check_bits(found: Survey, expected: Survey) -> None:
    """Holds a survey against another: every bit of it."""
    check(found, expected)
    for name in ("pair_sums", "pair_products"):
        assert getattr(found.numbers, name).tobytes() == getattr(expected.numbers, name).tobytes()
