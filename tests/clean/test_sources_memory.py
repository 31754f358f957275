"""Tables in memory: arrays, dicts, frames and batches."""

from __future__ import annotations

import decimal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nanguard.clean import sources
from nanguard.clean.block import Block
from nanguard.clean.sources import _frames
from nanguard.errors import UsageError

NAN = float("nan")


def numbers(data: Any, **options: Any) -> Any:
    """All rows of a source's numbers."""
    return np.concatenate([block.numbers for block in sources.open(data, **options).blocks()])


def refusal(data: Any, **options: Any) -> str:
    """What is said of data that is not read."""
    with pytest.raises(UsageError) as caught:
        list(sources.open(data, **options).blocks())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_float_matrix(dtype: str) -> None:
    """A matrix of floats has no Arrow batch, columns called by their place, and float64 blocks in Fortran order."""
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    rows = np.array([[1.5, NAN], [np.inf, -2.0], [0.0, 3.0]]).astype(kind)
    source = sources.open(rows, batch_rows=2)
    blocks = list(source.blocks())
    assert source.schema.names == source.schema.numbers == ("0", "1")
    assert source.schema.types == {"0": dtype, "1": dtype}
    assert [(len(block), block.first_row) for block in blocks] == [(2, 0), (1, 2)]
    assert all(block.batch is None and block.numbers.flags.f_contiguous for block in blocks)
    assert all(block.numbers.dtype == np.float64 and not block.num_nulls.any() for block in blocks)
    np.testing.assert_array_equal(numbers(rows), rows.astype(np.float64))


@given(
    rows=hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
        elements=st.floats(width=32),
    ),
    batch_rows=st.integers(1, 50),
)
def test_any_cut(rows: Any, batch_rows: int) -> None:
    """However a matrix is cut and laid out, its blocks are the matrix, and the rows are counted on."""
    for given_rows in (rows, np.asfortranarray(rows), rows[::-1]):
        blocks = list(sources.open(given_rows, batch_rows=batch_rows).blocks())
        np.testing.assert_array_equal(np.concatenate([block.numbers for block in blocks]), given_rows)
        assert [block.first_row for block in blocks] == [0, *np.cumsum([len(block) for block in blocks])[:-1]]
        assert max(map(len, blocks)) <= batch_rows


def test_integer_matrix() -> None:
    """A matrix of integers keeps them exact beside its float64 rows."""
    rows = np.array([[2**60 + 1, 2], [3, -4]])
    block = next(sources.open(rows).blocks())
    assert block.column("0").to_pylist() == [2**60 + 1, 3]
    assert block.numbers.tolist() == [[2.0**60, 2], [3, -4]]


def test_structured_array() -> None:
    """The fields of a structured array are columns, a field of several values as many."""
    rows = np.array([(1, [2.5, 3.5], b"x")], [("a", "i8"), ("b", "f2", 2), ("c", "S3")])
    source = sources.open(rows)
    assert source.schema.types == {"a": "int64", "b_0": "float16", "b_1": "float16", "c": "string"}
    assert source.schema.categories == ("c",)
    assert numbers(rows).tolist() == [[1, 2.5, 3.5]]


def test_masked_array() -> None:
    """A masked cell is null, and a NaN beside it is none."""
    block = next(sources.open({"a": np.ma.masked_array([1.0, NAN, 3.0], [1, 0, 0])}).blocks())
    assert np.isnan(block.numbers[:2, 0]).all()
    assert block.num_nulls.tolist() == [1]


def test_kinds_of_columns() -> None:
    """Each Arrow type goes to the field of the schema that it belongs to, and numbers to the matrix."""
    table = pa.table(
        {
            "bool": [True, None],
            "uint64": pa.array([2**63, None], pa.uint64()),
            "half": pa.array(np.float16([1, 2])),
            "decimal": pa.array([decimal.Decimal("1.25"), None]),
            "null": pa.nulls(2),
            "text": ["a", None],
            "dictionary": pa.array(["u", "v"]).dictionary_encode(),
            "date": pa.array([1, None], pa.date32()),
            "time": pa.array([1, 2], pa.time64("us")),
            "duration": pa.array([1, 2], pa.duration("s")),
            "stamp": pa.array([1, 2], pa.timestamp("ns", "UTC")),
            "list": [[1], [2, 3]],
            "struct": [{"x": 1}, {"x": 2}],
            "binary": [b"\xff", b""],
        }
    )
    schema = sources.open(table).schema
    assert schema.numbers == ("bool", "uint64", "half", "decimal", "null")
    assert schema.categories == ("text", "dictionary")
    assert schema.datetimes == ("date", "time", "duration", "stamp")
    assert schema.others == ("list", "struct", "binary")
    assert schema.types["half"] == "float16"
    block = next(sources.open(table).blocks())
    np.testing.assert_array_equal(block.numbers, [[1, 2.0**63, 1, 1.25, NAN], [NAN, NAN, 2, NAN, NAN]])
    assert block.num_nulls.tolist() == [1, 1, 0, 1, 2]


def test_dict_of_columns() -> None:
    """A dict has its keys for columns; a matrix in it has several, lists and times are taken."""
    rows = {"a": [1, None], "b": np.ones((2, 2)), "t": np.array(["2020", "2021"], "M8[Y]"), "s": np.array(["x", "y"])}
    source = sources.open(rows)
    assert source.schema.names == ("a", "b_0", "b_1", "t", "s")
    assert source.schema.types["t"] == "timestamp[s]"
    np.testing.assert_array_equal(numbers(rows), [[1, 1, 1], [NAN, 1, 1]])


def test_labels_and_weights() -> None:
    """A tuple has features, labels and weights; labels are columns that the source names."""
    source = sources.open((np.zeros((3, 2)), np.arange(3), np.ones(3)), label="kind")
    assert source.schema.names == ("0", "1", "kind", "sample_weight")
    assert (source.labels, source.weights) == (("kind",), ("sample_weight",))
    assert sources.open((np.zeros((2, 1)), np.eye(2))).labels == ("label_0", "label_1")
    assert sources.open({"a": [1.0], "b": [2.0]}, label="b").labels == ("b",)


def test_records() -> None:
    """A list of rows that are dicts is a table; a key that a row lacks is null."""
    source = sources.open([{"a": 1}, {"a": 2, "b": "x"}])
    assert next(source.blocks()).batch.to_pydict() == {"a": [1, 2], "b": [None, "x"]}


def frame() -> pd.DataFrame:
    """A frame of pandas with a column of each kind."""
    return pd.DataFrame(
        {
            "a": [1.0, NAN, 3.0],
            "b": ["x", None, "z"],
            "c": pd.Categorical(["u", "v", "u"]),
            "d": pd.date_range("2020", periods=3),
            "e": [True, None, False],
            "f": pd.array([1, None, 2**60 + 1], "Int64"),
        }
    )


def test_pandas() -> None:
    """A frame of pandas gives its columns by kind, in blocks of any size; a column has the type of all its rows."""
    source = sources.open(frame(), batch_rows=1)
    assert source.schema.numbers == ("a", "e", "f")
    assert source.schema.categories == ("b", "c")
    assert source.schema.datetimes == ("d",)
    blocks = list(source.blocks())
    np.testing.assert_array_equal(
        np.concatenate([block.numbers for block in blocks]), [[1, 1, 1], [NAN, NAN, NAN], [3, 0, 2.0**60]]
    )
    assert [cell for block in blocks for cell in block.column("f").to_pylist()] == [1, None, 2**60 + 1]
    assert sum(block.num_nulls for block in blocks).tolist() == [1, 1, 1]


def test_columns_chosen() -> None:
    """Only the columns that are asked for are read, in that order."""
    for data in (frame(), pa.table(frame()), dict(frame().items())):
        assert sources.open(data, columns=["c", "a"]).schema.names == ("c", "a")
        assert "has no column 'q'" in refusal(data, columns=["q"])
    assert sources.open(np.zeros((2, 3)), columns=["2", "0"]).schema.names == ("2", "0")
    assert numbers(np.arange(3.0)[None], columns=["2", "0"]).tolist() == [[2, 0]]


def batches() -> Iterator[Any]:
    """Arrow batches of two sizes."""
    yield pa.record_batch({"a": [1, 2]})
    yield pa.record_batch({"a": [3]})


@pytest.mark.parametrize(
    "made",
    [
        lambda: pa.table({"a": [1, 2, 3]}),
        lambda: pa.record_batch({"a": [1, 2, 3]}),
        lambda: pyarrow.dataset.dataset(pa.table({"a": [1, 2, 3]})),
        lambda: pd.Series([1, 2, 3], name="a"),
        lambda: pa.RecordBatchReader.from_batches(pa.schema({"a": pa.int64()}), batches()),
        lambda: list(batches()),
        lambda: batches(),
        lambda: batches,
        lambda: [{"a": np.array([1])}, {"a": np.array([2, 3])}],
        lambda: [pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2, 3]})],
    ],
    ids=["table", "batch", "dataset", "series", "reader", "list", "iterator", "function", "dicts", "frames"],
)
def test_one_column_of_many_kinds(made: Any) -> None:
    """Arrow's own tables, streams and batches, in a list, an iterator or a function, are the same table."""
    source = sources.open(made())
    assert [number for block in source.blocks() for number in block.column("a").to_pylist()] == [1, 2, 3]
    if source.is_replayable:
        assert sum(map(len, source.blocks())) == 3
        assert "3 rows, 1 column (1 number)" in source.describe()
    else:
        assert "cannot be read again" in refusal_of(source)


def refusal_of(source: sources.Source) -> str:
    """What a source says that was read before."""
    with pytest.raises(UsageError) as caught:
        source.blocks()
    return str(caught.value)


class Lazy:
    """What narwhals gives for a lazy frame, of a library that is not installed here."""

    def __init__(self, table: pa.Table) -> None:
        self.table, self.num_runs = table, 0

    def collect_schema(self) -> Any:
        """The columns."""
        return self

    def names(self) -> list[str]:
        """Their names."""
        return list(self.table.column_names)

    def select(self, names: list[str]) -> Lazy:
        """Some of them."""
        self.table = self.table.select(names)
        return self

    def sink_parquet(self, path: str) -> None:
        """Runs the query."""
        self.num_runs += 1
        pa.parquet.write_table(self.table, path)


def test_lazy_frame() -> None:
    """A lazy frame runs once, into a file that is read as often as needed, and goes with the source."""
    lazy = Lazy(pa.table({"a": [1.0, None], "b": [1, 2]}))
    source = _frames._of_lazy("lazy", lazy, ["b", "a"], 100)
    for _ in range(2):
        np.testing.assert_array_equal(numbers_of(source.blocks()), [[1, 1], [2, NAN]])
    assert lazy.num_runs == 1
    assert source.describe() == "lazy: 2 rows, 2 columns (2 numbers)"
    assert next(source.blocks()).file is None
    folder = Path(source._path).parent  # type: ignore[attr-defined]
    assert folder.is_dir()
    del source
    assert not folder.exists()


def test_dask() -> None:
    """A frame of Dask is read one partition at a time, as often as needed."""
    import dask.dataframe as dd

    rows = dd.from_pandas(frame(), npartitions=2)
    source = sources.open(rows, columns=["f", "b"])
    for _ in range(2):
        blocks = list(source.blocks())
        np.testing.assert_array_equal(numbers_of(iter(blocks)), [[1], [NAN], [2.0**60]])
    assert [text for block in blocks for text in block.column("b").to_pylist()] == ["x", None, "z"]


def numbers_of(blocks: Iterator[Block]) -> Any:
    """The rows of some blocks."""
    return np.concatenate([block.numbers for block in blocks])


def test_small_batches_are_joined() -> None:
    """Many small batches come in few blocks, and a large one in several."""
    many = [np.full((10, 2), float(place)) for place in range(100)]
    assert [len(block) for block in sources.open(many, batch_rows=400).blocks()] == [310, 310, 310, 70]
    assert [len(block) for block in sources.open(np.zeros((1000, 2)), batch_rows=400).blocks()] == [400, 400, 200]
    dicts = [{"a": np.arange(10), "b": np.array(["x"] * 10)} for _ in range(100)]
    assert [len(block) for block in sources.open(dicts, batch_rows=400).blocks()] == [310, 310, 310, 70]


@pytest.mark.parametrize("kind", [np.float16, np.int8, dict])
def test_wide_blocks_have_fewer_rows(kind: Any) -> None:
    """A block of a table with very many columns does not take more memory than others."""
    rows = np.zeros((3000, 2000), np.int8 if kind is dict else kind)
    blocks = list(sources.open({"a": rows} if kind is dict else rows).blocks())
    assert max(block.numbers.nbytes for block in blocks) <= 1 << 25
    assert sum(map(len, blocks)) == 3000


def test_integers_that_become_floats() -> None:
    """A column of integers that has a fraction in a later batch is one of floats, from the start the next time."""
    source = sources.open([{"a": np.array([1, 2])}, {"a": np.array([1.5])}])
    assert source.schema.types["a"] == "int64"
    assert numbers_of(source.blocks()).tolist() == [[1], [2], [1.5]]
    assert source.schema.types["a"] == "float64"
    assert next(source.blocks()).column("a").to_pylist() == [1, 2, 1.5]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (np.zeros((0, 2)), "array has no rows."),
        (np.zeros((2, 0)), "array has no columns."),
        (np.zeros((2, 3, 4)), "array has rows of the shape (3, 4): a row must be a vector."),
        (np.zeros(2, complex), "complex numbers are not cleaned"),
        (np.array([1, "a", 2.5], object), "array, row 1, column '0': 'a' is of another type"),
        ({"a": np.array([1.0, 2.0, "x"], object)}, "dict, row 2, column 'a': 'x' is of another type"),
        ([[1, 2], [3]], "list has rows of different lengths."),
        ({"a": [1, 2], "b": [1]}, "dict has 2 rows in 'a' and 1 in 'b'."),
        ((np.zeros((3, 2)), np.zeros(2)), "tuple has 3 rows in '0' and 2 in 'label'."),
        ([], "list has no rows."),
        ({}, "dict has no"),
        (iter(()), "has no rows."),
        (pd.DataFrame({"a": []}), "pandas.DataFrame has no rows."),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "pandas.DataFrame has two columns named 'a'. Rename one of them."),
        (pd.DataFrame({"a": [1, "x"]}), "pandas.DataFrame, row 1, column 'a': 'x' does not go with"),
        (pa.table([[1], [2]], ["a", "a"]), "pyarrow.Table has two columns named 'a'."),
        ([np.zeros((2, 2)), np.zeros((1, 3))], "row 2: rows of 2 numbers are expected, not (1, 3)."),
        ([{"a": np.zeros(2)}, {"b": np.zeros(1)}], "row 2 has no column 'a', which the rows before it have."),
        ([{"a": np.zeros(2)}, {"a": np.zeros(1), "b": np.zeros(1)}], "row 2 has a column 'b', which the rows before"),
        (
            [{"a": np.arange(2)}, {"a": np.array(["1", "u"])}],
            "row 3, column 'a': 'u' is no int64, as the rows before it",
        ),
        (3, "A table must be a path, an array, a frame or a data set. Received: int."),
        (object(), "Received: object."),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_refused(data: Any, said: str) -> None:
    """Data that is no table is refused by one line that names the row and column."""
    assert said in refusal(data)


def test_batch_rows_must_be_positive() -> None:
    """A block of no rows is no block."""
    with pytest.raises(ValueError, match=r"`batch_rows` must be at least 1. Received: batch_rows=0."):
        sources.open(np.zeros((2, 2)), batch_rows=0)


def test_views() -> None:
    """Text in Arrow's views, as polars has it, is text like any other, in dictionaries too."""
    texts = pa.array(["x", None, "x"])
    views = pa.DictionaryArray.from_arrays(pa.array([0, None, 0]), pa.array(["x"], pa.string_view()))
    table = pa.table({"s": texts.cast(pa.string_view()), "d": views, "b": texts.cast(pa.binary_view())})
    for data in (table, [table], pa.RecordBatchReader.from_stream(table)):
        source = sources.open(data)
        assert source.schema.categories == ("s", "d")
        (block,) = source.blocks()
        assert block.batch is not None
        assert block.batch.to_pydict() == {"s": ["x", None, "x"], "d": ["x", None, "x"], "b": [b"x", None, b"x"]}
        assert not any("view" in str(kind) for kind in block.batch.schema.types)
        assert block.batch.schema.equals(source.arrow_schema)


@given(
    values=st.lists(st.none() | st.integers(0, 100), min_size=1, max_size=70),
    cut=st.tuples(st.integers(0, 30), st.integers(0, 70)),
    kind=st.sampled_from(["int8", "uint64", "int32", "halffloat", "float", "double", "bool_", "decimal128(5, 1)"]),
)
def test_any_nulls(values: list[Any], cut: tuple[int, int], kind: str) -> None:
    """Wherever a column begins in its memory and whichever cells are null, the matrix has its numbers and NaNs."""
    arrow = pa.array(values, pa.float64()).cast(pa.decimal128(5, 1) if "dec" in kind else kind.strip("_"))
    part = arrow.slice(*cut)
    block = next(sources.open(pa.record_batch({"a": part}), may_be_empty=True).blocks(), None)
    expected = [NAN if value is None else float(value) for value in part.to_pylist()]
    if block is None:
        assert not expected
        return
    np.testing.assert_array_equal(block.numbers[:, 0], expected)
    assert block.num_nulls.tolist() == [sum(map(np.isnan, expected))]


def test_missing_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix of floats needs no library but NumPy; for what needs one, a line says how to get it."""
    for name in ("pyarrow", "pyarrow.parquet", "pyarrow.csv", "narwhals"):
        monkeypatch.setitem(sys.modules, name, None)
    assert numbers(np.ones((2, 2)), columns=["1"]).tolist() == [[1], [1]]
    (tmp_path / "a.csv").write_text("a\n1\n")
    for data in (str(tmp_path / "a.csv"), {"a": [1]}):
        assert refusal(data) == 'This needs pyarrow, which is not installed: pip install "nanguard[data]"'
    assert refusal(pd.DataFrame({"a": [1]})).startswith("This needs narwhals, which is not installed: pip install")
