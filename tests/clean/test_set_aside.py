"""Rows that were set aside: all of them, with their reasons; and all of them back in their places."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import palmerpenguins
import pyarrow as pa
import pytest
import sklearn.datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from nanguard.clean import quarantine, sources, writers
from nanguard.clean.rows import Reasons
from nanguard.errors import UsageError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def part(
    data: Any, is_bad: Any, clean: str = "clean.parquet", aside: str | None = "bad.parquet", *, batch_rows: int = 64
) -> quarantine.Quarantine:
    """Parts a table into rows that stay and rows that leave, which are said to be odd in their first number."""
    source = sources.open(data, batch_rows=batch_rows)
    with (
        writers.open(clean, source.schema, force=True) as kept,
        quarantine.open(aside, source.schema, beside=kept, force=True) as out,
    ):
        for block in source.blocks():
            leaves = np.asarray(is_bad)[block.first_row : block.first_row + len(block)]
            reasons = Reasons(len(block), source.schema.numbers)
            cells = np.zeros(block.numbers.shape, np.bool_)
            cells[:, 0] = leaves
            reasons.add("odd", leaves, cells)
            kept.write(quarantine.rows_of(block, source.schema).filter(pa.array(~leaves)))
            out.write(block, reasons)
    return out


def table(path: Any, **options: Any) -> pa.Table:
    """All rows of a source."""
    source = sources.open(path, **options)
    return pa.Table.from_batches([quarantine.rows_of(block, source.schema) for block in source.blocks()])


def same(one: pa.Table, other: pa.Table) -> bool:
    """Whether the cells of two tables are equal, NaN to NaN, whatever the width of their types."""
    return repr(one.to_pydict()) == repr(other.to_pydict())


def test_what_is_kept() -> None:
    """A row that leaves is kept as it was, with its number, file, columns, values and reason."""
    Path("d").mkdir()
    Path("d/a.csv").write_text("n,s\n1,x\n2,y\n")
    Path("d/b.csv").write_text("n,s\n3,z\n9007199254740993,\n")
    out = part("d", [False, True, False, True])
    assert (out.num_rows, out.num_seen) == (2, 4)
    assert table("bad.parquet").to_pylist() == [
        {
            "n": 2,
            "s": "y",
            "nanguard_row": 1,
            "nanguard_file": "d/a.csv",
            "nanguard_columns": ["n"],
            "nanguard_reasons": ["odd"],
            "nanguard_values": ["2"],
        },
        {
            "n": 9007199254740993,
            "s": None,
            "nanguard_row": 3,
            "nanguard_file": "d/b.csv",
            "nanguard_columns": ["n"],
            "nanguard_reasons": ["odd"],
            "nanguard_values": ["9007199254740993"],
        },
    ]
    assert table("clean.parquet").to_pydict() == {"n": [1, 3], "s": ["x", "z"]}


@settings(max_examples=40)
@given(
    is_bad=st.lists(st.booleans(), min_size=1, max_size=200) | st.integers(1, 200).map(lambda n: [True] * n),
    batch_rows=st.integers(1, 70),
)
def test_any_split(is_bad: list[bool], batch_rows: int) -> None:
    """Whichever rows leave, and however both files are cut, all rows come back in their places."""
    data = {"k": np.arange(len(is_bad)) + 2**60, "s": [f"{row:03d}" for row in range(len(is_bad))]}
    part(data, is_bad, batch_rows=batch_rows)
    before = sources.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "open", lambda *args, **options: before(*args, **options, batch_rows=batch_rows))
        num_rows = quarantine.restore("clean.parquet", "bad.parquet", "all.parquet", force=True)
    assert num_rows == len(is_bad)
    assert table("all.parquet").to_pydict() == {"k": data["k"].tolist(), "s": data["s"]}


@pytest.mark.parametrize("aside", ["bad.parquet", "bad.tfrecord"])
@pytest.mark.parametrize("clean", ["clean.parquet", "clean.csv", "clean.csv.gz"])
def test_penguins(clean: str, aside: str) -> None:
    """Real rows of numbers, text and gaps come back as they were, from any pair of files."""
    rows = palmerpenguins.load_penguins()
    is_bad = np.random.default_rng(0).random(len(rows)) < 0.3
    part(rows, is_bad, clean, aside)
    assert quarantine.restore(clean, aside, "all.parquet") == len(rows)
    whole = table(rows)
    if aside.endswith("tfrecord"):  # which has floats of 32 bits
        for name in ("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"):
            near = [np.array(each.column(name).to_pylist(), np.float32) for each in (table("all.parquet"), whole)]
            np.testing.assert_array_equal(*near)
        assert table("all.parquet").column("sex").to_pylist() == whole.column("sex").to_pylist()
    else:
        assert same(table("all.parquet"), whole)


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "diabetes"])
@pytest.mark.parametrize("clean", ["clean.parquet", "clean.npz", "clean.npy", "clean.tfrecord"])
def test_matrices(name: str, clean: str) -> None:
    """The rows of scikit-learn's sets come back from files of each kind, the arrays of NumPy's as arrays."""
    x, _ = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    x = x.astype(np.float32)
    is_bad = np.random.default_rng(0).random(len(x)) < 0.3
    part(x, is_bad, clean)
    assert quarantine.restore(clean, "bad.parquet", f"all.{clean.rpartition('.')[2]}") == len(x)
    found = np.concatenate([block.numbers for block in sources.open(f"all.{clean.rpartition('.')[2]}").blocks()])
    np.testing.assert_array_equal(found, x)
    if clean.endswith("npy"):
        assert np.load("all.npy").dtype == np.float32


def test_text_that_looks_like_something_else() -> None:
    """Codes with leading zeros, dates as text and integers beyond 2^53 come back from a CSV file as they were."""
    data = {"code": ["007", "008", "009"], "day": ["2020-01-01"] * 3, "id": np.arange(3) + 2**60, "x": [1.0, 2.0, 3.0]}
    part(data, [False, True, False], "clean.csv")
    quarantine.restore("clean.csv", "bad.parquet", "all.parquet")
    assert table("all.parquet").equals(table(data))


def test_column_that_became_wider() -> None:
    """Where cleaning made a column one of floats, rows that were set aside have theirs as floats too."""
    part({"a": np.array([1, 2, 3])}, [False, True, False])
    widened = pa.table({"a": [1.5, 3.0], "a_missing": [True, False]})
    pa.parquet.write_table(widened, "clean.parquet")
    quarantine.restore("clean.parquet", "bad.parquet", "all.parquet")
    assert table("all.parquet").to_pydict() == {"a": [1.5, 2.0, 3.0], "a_missing": [True, None, False]}


@pytest.mark.parametrize("aside", ["bad.parquet", "bad.tfrecord"])
def test_no_row_left(aside: str) -> None:
    """If no row left, the file of those that did says so, and the clean rows are all rows."""
    part({"a": np.arange(3.0)}, [False] * 3, aside=aside)
    assert quarantine.restore("clean.parquet", aside, "all.parquet") == 3
    assert table("all.parquet").to_pydict() == {"a": [0.0, 1.0, 2.0]}


@pytest.mark.parametrize("clean", ["clean.parquet", "clean.csv", "clean.npz", "clean.tfrecord"])
def test_every_row_left(clean: str) -> None:
    """If every row left, the clean file has none, and all of them come back."""
    data = {"a": np.arange(3.0), "k": np.arange(3) + 2**60, "s": ["x", "y", "z"]}
    part(data, [True] * 3, clean)
    assert quarantine.restore(clean, "bad.parquet", "all.parquet") == 3
    assert table("all.parquet").to_pydict() == {"a": [0, 1, 2], "k": data["k"].tolist(), "s": data["s"]}


def test_counting_only() -> None:
    """Without a file, rows that leave are counted."""
    out = part({"a": np.arange(3.0)}, [True, False, True], aside=None)
    assert (out.num_rows, out.num_seen, out.path) == (2, 3, None)
    assert os.listdir() == ["clean.parquet"]


# -- what goes wrong


def test_rows_that_do_not_add_up() -> None:
    """Rows that are in neither file are found, and both files are taken away."""
    source = sources.open({"a": np.arange(3.0)})
    (block,) = source.blocks()
    with (  # noqa: PT012
        pytest.raises(UsageError, match=r"clean.parquet got 1 rows and 1 were set aside, of 3."),
        writers.open("clean.parquet", source.schema) as kept,
        quarantine.open("bad.parquet", source.schema, beside=kept) as out,
    ):
        reasons = Reasons(3, ("a",))
        reasons.add("odd", np.array([True, False, False]))
        kept.write(block.batch.slice(1, 1))
        out.write(block, reasons)
    assert os.listdir() == []


@pytest.mark.parametrize("broken", ["_tables.ParquetWriter._end", "_writer.os.replace", "_tables.sync_file"])
def test_both_files_or_none(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If one of the two files cannot be brought to the disk, neither gets its name."""

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"nanguard.clean.writers.{broken}", fail)
    with pytest.raises(UsageError, match=r"cannot be written: No space left on device. Nothing of it was kept."):
        part({"a": np.arange(3.0)}, [True, False, True])
    assert os.listdir() == []


def test_error_among_the_rows() -> None:
    """An error in the midst leaves neither file, and what was there before as it was."""
    Path("clean.parquet").write_text("mine")
    with pytest.raises(ValueError, match="broadcast"):
        part({"a": np.arange(300.0)}, [True] * 100)
    assert Path("clean.parquet").read_text() == "mine"
    assert os.listdir() == ["clean.parquet"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("bad.csv", "bad.csv: rows are set aside in a .parquet or .tfrecord file."),
        ("clean.parquet", "clean.parquet is where the clean rows go. Name another file"),
        ("there.parquet", "there.parquet exists. To overwrite it, add --force."),
    ],
)
def test_refused(path: str, said: str) -> None:
    """A file for the rows that leave has to be another, of a format that holds reasons, and not there yet."""
    Path("there.parquet").write_text("mine")
    schema = sources.open({"a": [1.0]}).schema
    with pytest.raises(UsageError, match=re.escape(said)):
        quarantine.open(path, schema, beside=writers.open("clean.parquet", schema))
    with pytest.raises(UsageError, match="the rows have a column 'nanguard_row' already"):
        quarantine.open("bad.parquet", sources.open({"nanguard_row": [1.0]}).schema)


def test_files_that_do_not_belong_together() -> None:
    """Files of different tables, or of which one was changed, are not put together."""
    part({"a": np.arange(100.0)}, np.arange(100) % 2 == 0)
    part({"a": np.arange(90.0)}, np.arange(90) % 2 == 0, "other.parquet", "other_bad.parquet")
    part({"b": np.arange(100.0)}, np.arange(100) % 2 == 0, "third.parquet", "third_bad.parquet")
    files = set(os.listdir())
    for clean, bad, said in (
        ("other.parquet", "bad.parquet", "do not belong together: row 92 was set aside, and only 45 clean rows"),
        (
            "clean.parquet",
            "other_bad.parquet",
            "clean.parquet has 50 rows, and had 45 when other_bad.parquet was written",
        ),
        ("clean.parquet", "third_bad.parquet", "clean.parquet has no column 'b', which third_bad.parquet has"),
        ("clean.parquet", "other.parquet", "holds no rows that were set aside: it has no column 'nanguard_row'."),
    ):
        with pytest.raises(UsageError, match=re.escape(said)):
            quarantine.restore(clean, bad, "all.parquet")
        assert set(os.listdir()) == files
    shuffled = table("bad.parquet").take(np.arange(50)[::-1])
    pa.parquet.write_table(shuffled, "bad.parquet")
    with pytest.raises(UsageError, match="not in the order of 'nanguard_row'"):
        quarantine.restore("clean.parquet", "bad.parquet", "all.parquet")
