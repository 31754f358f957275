"""Files of cleaned rows: whole or not at all, and each cell as it came unless it was changed."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import decimal
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import palmerpenguins
import pyarrow as pa
import pytest
import sklearn.datasets
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from nanguard.clean import sources, writers
from nanguard.clean.accumulator import Accumulator
from nanguard.clean.block import Block, Schema
from nanguard.clean.recipe import Recipe
from nanguard.errors import UsageError

NAN = float("nan")
FORMATS = ("parquet", "csv", "csv.gz", "tsv", "npz", "tfrecord", "tfrecord.gz")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def copied(source: sources.Source, path: str) -> sources.Source:
    """What was written of a source, read again."""
    with writers.open(path, source.schema, like=source.arrow_schema) as writer:
        for block in source.blocks():
            unchanged = np.zeros(block.numbers.shape, np.bool_)
            writer.write(writers.cleaned_batch(block, source.schema, block.numbers, unchanged))
    return sources.open(path)


def cells(source: sources.Source) -> dict[str, list[Any]]:
    """All cells of a source, by column."""
    batches = [block.batch for block in source.blocks()]
    return pa.Table.from_batches([batch.cast(source.arrow_schema) for batch in batches]).to_pydict()


def penguins() -> Any:
    """Real rows with real gaps, text and integers."""
    return palmerpenguins.load_penguins()


@pytest.mark.parametrize("ending", FORMATS)
def test_penguins(ending: str) -> None:
    """The penguins come back from every kind of file as they were, missing cells too."""
    source = sources.open(penguins(), batch_rows=100)
    back = copied(source, f"a.{ending}")
    if ending == "npz":  # which has no missing text
        assert cells(back)["sex"] == ["" if text is None else text for text in cells(source)["sex"]]
        assert back.schema.numbers == source.schema.numbers
    rows, found = cells(source), cells(back)
    for name in source.schema.names:
        if name in source.schema.numbers:
            kind = np.float32 if ending.startswith("tfrecord") else np.float64
            np.testing.assert_array_equal(np.array(found[name], kind), np.array(rows[name], kind), err_msg=name)
        elif ending != "npz":
            assert found[name] == rows[name]
    assert not [name for name in os.listdir() if name.endswith(("tmp", "rows"))]


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "diabetes"])
@pytest.mark.parametrize("ending", ["parquet", "csv", "npz"])
def test_matrices(name: str, ending: str) -> None:
    """Features and labels of scikit-learn's sets come back to the bit, from an NPZ file as the arrays they were."""
    x, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    np.savez("a.npz", x=x, y=y)
    back = copied(sources.open("a.npz"), f"b.{ending}")
    np.testing.assert_array_equal(np.concatenate([block.numbers for block in back.blocks()]), np.column_stack([x, y]))
    if ending == "npz":
        with np.load("b.npz") as archive:
            assert archive["x"].dtype == x.dtype
            np.testing.assert_array_equal(archive["x"], x)
            np.testing.assert_array_equal(archive["y"], y)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_lone_matrix(dtype: Any) -> None:
    """A lone matrix is one array again, in its own dtype."""
    rows = np.random.default_rng(0).normal(size=(1000, 12)).astype(dtype)
    rows[3, 4] = np.nan
    np.save("a.npy", rows)
    copied(sources.open("a.npy", batch_rows=300), "b.npy")
    found = np.load("b.npy")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, rows)


def every_type() -> pa.RecordBatch:
    """A column of each type, with a null in each."""
    number = decimal.Decimal
    return pa.record_batch(
        {
            "float": [1.5, None, NAN, np.inf],
            "float16": pa.array(np.float16([1, 2, 3, 4]), mask=np.array([0, 1, 0, 0], bool)),
            "int": [1, 2**62 + 1, None, -5],
            "uint64": pa.array([2**64 - 1, None, 1, 2], pa.uint64()),
            "bool": [True, None, False, True],
            "decimal": pa.array([number("1.10"), None, number("2.00"), number("-3.05")], pa.decimal128(10, 2)),
            "text": ["a", "", None, 'é"q,\n'],
            "dictionary": pa.array(["u", None, "v", "u"]).dictionary_encode(),
            "date": pa.array([1, 2, None, 4], pa.date32()),
            "time": pa.array([1, None, 2, 3], pa.timestamp("us")),
            "duration": pa.array([1, None, 2, 3], pa.duration("s")),
            "binary": [b"\xff", None, b"", b"a"],
            "list": [[1], None, [], [2, 3]],
            "null": pa.nulls(4),
        }
    )


def same(one: list[Any], other: list[Any]) -> bool:
    """Whether cells are equal, NaN to NaN."""
    return repr(one) == repr(other)


def test_every_type_in_parquet() -> None:
    """A Parquet file holds every type as it is, in one row group for many small batches."""
    batch = every_type()
    with writers.open("a.parquet", batch.schema) as writer:
        for _ in range(3):
            writer.write(batch)
    source = sources.open("a.parquet")
    assert source.arrow_schema.equals(batch.schema)
    for name, found in cells(source).items():
        assert same(found, 3 * batch.column(name).to_pylist()), name
    assert pa.parquet.ParquetFile("a.parquet").num_row_groups == 1


def test_every_type_in_csv() -> None:
    """A CSV file holds all but nested columns, if the types are told that text does not tell."""
    batch = every_type().drop_columns(["list", "binary", "null"])
    with writers.open("a.csv", batch.schema) as writer:
        writer.write(batch)
    kinds = {"uint64": "uint64", "float16": "float32", "decimal": pa.decimal128(10, 2), "duration": "int64"}
    found = cells(sources.open("a.csv", dtypes=kinds))
    for name in set(batch.schema.names) - {"duration", "float", "time"}:
        assert same(found[name], batch.column(name).to_pylist()), name
    assert same(found["float"], [1.5, None, None, np.inf])  # text does not tell NaN from a missing cell
    assert found["duration"] == [1, None, 2, 3]
    with pytest.raises(
        UsageError, match=r"CSV conversion to halffloat is not supported. Give another type to --dtype."
    ):
        sources.open("a.csv", dtypes={"float16": "float16"})


def test_every_type_in_npz() -> None:
    """An NPZ file holds numbers, text and times; a missing integer is refused, with its row and column."""
    batch = every_type()
    kept = batch.select(["float", "float16", "decimal", "text", "dictionary", "date", "time", "duration", "null"])
    with writers.open("a.npz", kept.schema) as writer:
        writer.write(kept)
        writer.write(kept)
    with np.load("a.npz") as archive:
        found = {name: archive[name] for name in archive}
    assert {name: array.dtype.str for name, array in found.items()} == {
        "float": "<f8",
        "float16": "<f2",
        "decimal": "<f8",
        "text": "<U5",
        "dictionary": "<U1",
        "date": "<M8[D]",
        "time": "<M8[us]",
        "duration": "<m8[s]",
        "null": "<f8",
    }
    assert found["text"].tolist() == 2 * ["a", "", "", 'é"q,\n']
    assert found["date"].astype(object)[:3].tolist() == [datetime.date(1970, 1, 2), datetime.date(1970, 1, 3), None]
    np.testing.assert_array_equal(found["float"][:4], [1.5, NAN, NAN, np.inf])
    with (
        pytest.raises(UsageError, match=r"b.npz, row 2, column 'int' is empty, and a NumPy file has no empty int64."),
        writers.open("b.npz", batch.select(["int"]).schema) as writer,
    ):
        writer.write(batch.select(["int"]))
    assert os.listdir() == ["a.npz"]


@pytest.mark.parametrize(
    ("path", "name", "said"),
    [
        ("a.csv", "list", "a.csv: a CSV file cannot hold column 'list', which is list<item: int64>. Write .parquet."),
        ("a.npz", "list", "a.npz: a NumPy file cannot hold column 'list'"),
        ("a.npz", "binary", "a.npz: a NumPy file cannot hold column 'binary'"),
        ("a.tfrecord", "duration", "a.tfrecord: a TFRecord file cannot hold column 'duration'"),
        ("a.foo", "int", "a.foo is of no kind that is written"),
        ("no/a.csv", "int", "no/a.csv cannot be written: there is no folder"),
        (".", "int", ". is of no kind that is written"),
        ("folder.csv", "int", "folder.csv is a folder. Name a file."),
    ],
)
def test_refused_before_writing(path: str, name: str, said: str) -> None:
    """A file that cannot be written, or not hold a column, is refused before a row is read."""
    Path("folder.csv").mkdir()
    with pytest.raises(UsageError) as caught:
        writers.open(path, every_type().select([name]).schema)
    assert said in str(caught.value)
    assert os.listdir() == ["folder.csv"]


def test_npy_of_several_arrays() -> None:
    """A file of one array takes no table of several."""
    with pytest.raises(UsageError, match=r"a.npy: an NPY file holds one array, and these are 14. Write .npz."):
        writers.open("a.npy", every_type().schema)


# -- whole or not at all


def number_batch(num_rows: int = 60_000) -> pa.RecordBatch:
    """Numbers that cannot be packed."""
    return pa.record_batch({name: np.random.default_rng(0).normal(size=num_rows) for name in "ab"})


@pytest.mark.parametrize("ending", FORMATS)
def test_existing_file(ending: str) -> None:
    """A file that is there is not touched without `force`, and with it only by one that is whole."""
    path = f"a.{ending}"
    Path(path).write_text("mine")
    batch = number_batch(10)
    with pytest.raises(UsageError, match=rf"{path} exists. To overwrite it, add --force."):
        writers.open(path, batch.schema)
    with contextlib.suppress(RuntimeError), writers.open(path, batch.schema, force=True) as writer:
        writer.write(batch)
        assert Path(path).read_text() == "mine"
        raise RuntimeError
    assert Path(path).read_text() == "mine"
    with writers.open(path, batch.schema, force=True) as writer:
        writer.write(batch)
    assert sum(map(len, sources.open(path).blocks())) == 10
    assert os.listdir() == [path]


@contextlib.contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """No file can grow beyond some bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 1000, 300_000])
@pytest.mark.parametrize("ending", FORMATS)
def test_full_disk(ending: str, room: int) -> None:
    """A disk that is full in mid-write is told of by one line, and nothing is left."""
    path, batch = f"a.{ending}", number_batch()
    with (
        full_disk(room),
        pytest.raises(UsageError) as caught,
        writers.open(path, batch.schema) as writer,
    ):
        writer.write(batch)
    assert str(caught.value).startswith(f"{path} cannot be written: ")
    assert str(caught.value).endswith(" Nothing of it was kept.")
    assert "\n" not in str(caught.value)
    assert os.listdir() == []


def write_all(path: str, *batches: pa.RecordBatch) -> None:
    """Writes batches to a file that has the columns of the first."""
    with writers.open(path, batches[0].schema) as writer:
        for batch in batches:
            writer.write(batch)


@pytest.mark.parametrize("ending", FORMATS)
def test_batch_of_another_table(ending: str) -> None:
    """A batch that lacks a column, or whose values do not fit, is refused with the row; nothing is left."""
    batch = pa.record_batch({"a": [1, 2], "b": [1, 2]})
    for wrong, said in (
        (pa.record_batch({"a": [1]}), "row 2 has no column 'b'"),
        (pa.record_batch({"a": [1, 1], "b": [1, 1.5]}), "row 3, column 'b': 1.5 is no int64"),
    ):
        with pytest.raises(UsageError) as caught:
            write_all(f"a.{ending}", batch, wrong)
        assert said in str(caught.value)
        assert os.listdir() == []


# -- TFRecord


VALUES = st.one_of(
    st.lists(st.floats(width=32), max_size=3).map(lambda values: pa.array([values], pa.list_(pa.float32()))),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3).map(lambda values: pa.array([values], pa.list_(pa.int64()))),
    st.lists(st.binary(max_size=200), max_size=3).map(lambda values: pa.array([values], pa.list_(pa.binary()))),
    (st.none() | st.text(st.characters(codec="utf-8"), max_size=200)).map(lambda text: pa.array([text], pa.string())),
    (st.none() | st.integers(-(2**63), 2**63 - 1)).map(lambda number: pa.array([number], pa.int64())),
    (st.none() | st.floats(width=32)).map(lambda number: pa.array([number], pa.float32())),
)


@settings(max_examples=60)
@given(st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=150), VALUES, min_size=1, max_size=5))
def test_examples(columns: dict[str, Any]) -> None:
    """What is written as an example is one to protocol buffers, with the same values."""
    batch = pa.RecordBatch.from_pydict(columns)
    path = "a.tfrecord"
    with writers.open(path, batch.schema, force=True) as writer:
        writer.write(batch)
    (record,) = tf.data.TFRecordDataset(path).as_numpy_iterator()
    found = tf.train.Example.FromString(record).features.feature
    for name, column in columns.items():
        (value,) = column.to_pylist()
        if value is None:
            assert name not in found
            continue
        values = value if isinstance(value, list) else [value]
        kind = found[name].WhichOneof("kind")
        got = list(getattr(found[name], kind).value)
        assert same(got, [each.encode() if isinstance(each, str) else each for each in values])


# -- what cleaning changes


def recipe(**changes: Any) -> Recipe:
    """A recipe for one column `a` that does nothing but what is told."""
    nothing = Recipe(
        names=("a",),
        low=np.array([-np.inf]),
        high=np.array([np.inf]),
        fill=np.array([NAN]),
        has_indicator=np.array([False]),
        sentinels=((),),
    )
    return dataclasses.replace(nothing, **changes)


def learnt(values: list[float]) -> Accumulator:
    """What is known of a column `a`."""
    rows = np.array(values, np.float64)[:, None]
    made = Accumulator.pilot(["a"], rows)
    made.update(rows, first_row=0)
    return made


MEAN = recipe(fill=np.array([1.5]))
MODE = recipe(fill=np.array([2.0]))
CLIP = recipe(action="clip", high=np.array([2.5]))


@pytest.mark.parametrize(
    ("made", "values", "fractions", "kind"),
    [
        (recipe(), None, True, "int64"),
        (MEAN, None, True, "double"),
        (MEAN, [1, 2], True, "int64"),  # no cell will be filled
        (MEAN, [1, NAN], True, "double"),
        (MEAN, [1, np.inf], True, "double"),
        (dataclasses.replace(MEAN, sentinels=((-999.0,),)), [1, -999], True, "double"),
        (dataclasses.replace(MEAN, sentinels=((-999.0,),)), [1, 2], True, "int64"),
        (MODE, [1, NAN], True, "double"),
        (MODE, [1, NAN], False, "int64"),
        (MEAN, [2.0**60, NAN], True, "int64"),  # which float64 would not hold to the last digit
        (CLIP, [1, 2], True, "int64"),
        (CLIP, [1, 3], True, "double"),
        (dataclasses.replace(CLIP, high=np.array([2.0])), [1, 3], True, "int64"),
        (dataclasses.replace(CLIP, action="impute", fill=np.array([1.5])), [1, 3], True, "double"),
        (dataclasses.replace(CLIP, action="quarantine"), [1, 3], True, "int64"),
    ],
)
def test_types_after(made: Recipe, values: list[float] | None, fractions: bool, kind: str) -> None:
    """A column of integers becomes one of floats if, and only if, a fraction may come into it."""
    schema = sources.open({"a": np.array([1, 2])}).schema
    known = None if values is None else learnt(values)
    after = writers.schema_after(schema, made, learnt=known, gives_fractions=fractions)
    assert str(after.field("a").type) == kind


def test_types_that_stay() -> None:
    """A column of floats, decimals or text keeps its type; one of nulls that is filled becomes one of floats."""
    number = decimal.Decimal
    table = pa.table({"a": pa.array([number("1.10")]), "s": ["x"]})
    schema = sources.open(table).schema
    assert writers.schema_after(schema, MEAN).equals(table.schema)
    nulls = sources.open(pa.table({"a": pa.nulls(2)})).schema
    assert str(writers.schema_after(nulls, MEAN).field("a").type) == "double"
    assert str(writers.schema_after(nulls, recipe()).field("a").type) == "null"
    matrix = sources.open(np.zeros((1, 1), np.float32)).schema
    assert str(writers.schema_after(matrix, dataclasses.replace(MEAN, names=("0",))).field("0").type) == "float"


NUMBERS = (("int64", 2), ("uint8", 2), ("int8", 2), ("float", 2.25), ("double", 2.25), ("halffloat", 2.25), ("bool", 1))


@pytest.mark.parametrize(("kind", "given_back"), NUMBERS)
def test_changed_cells(kind: str, given_back: float) -> None:
    """Only changed cells are replaced, each in the type of its column; one that is missing now is null."""
    values = pa.array([1, None, 1, 0]).cast(kind)
    block = next(sources.open(pa.table({"a": values, "s": ["x", None, "y", "z"]})).blocks())
    schema = sources.open(pa.table({"a": values, "s": ["x", None, "y", "z"]})).schema
    rows = np.array([[1.0], [2.25], [NAN], [0.0]])
    batch = writers.cleaned_batch(block, schema, rows, np.array([[False], [True], [True], [False]]))
    assert batch.schema.field("a").type == values.type
    assert batch.column("a").to_pylist() == [1, given_back, None, 0]
    assert batch.column("s").to_pylist() == ["x", None, "y", "z"]


def test_unchanged_columns_are_the_same() -> None:
    """A column in which nothing changed is the very memory of the source's."""
    source = sources.open(pa.table({"a": [2**60 + 1, None], "b": [1.5, None]}))
    block = next(source.blocks())
    changed = np.array([[False, False], [False, True]])
    batch = writers.cleaned_batch(block, source.schema, np.array([[1.0, 1.5], [NAN, 3.0]]), changed)
    assert batch.column("a").buffers()[1].address == block.column("a").buffers()[1].address
    assert batch.to_pydict() == {"a": [2**60 + 1, None], "b": [1.5, 3.0]}


@given(
    values=st.lists(st.none() | st.floats(width=16), min_size=1, max_size=30),
    kind=st.sampled_from(["double", "float", "halffloat"]),
    choice=st.randoms(use_true_random=False),
)
def test_any_changed_floats(values: list[float | None], kind: str, choice: Any) -> None:
    """Whatever a column of floats holds, the cells that changed have their new numbers, the others their old bits."""
    column = pa.array(values, kind)
    block = next(sources.open(pa.table({"a": column})).blocks())
    schema = Schema(("a",), ("a",), types={"a": kind})
    rows = block.numbers.copy()
    for row in range(len(rows)):
        if choice.random() < 0.5:
            new = choice.choice([7.0, NAN, -0.0])
            rows[row] = rows[row] if new == rows[row] else new  # -0.0 is no change of 0.0
    changed = (rows != block.numbers) & ~(np.isnan(rows) & np.isnan(block.numbers))
    batch = writers.cleaned_batch(block, schema, rows, changed, like=pa.schema({"a": kind}))
    told = [None if np.isnan(new) else new for new in rows[:, 0]]
    expected = [
        new if is_new else old for new, is_new, old in zip(told, changed[:, 0], column.to_pylist(), strict=True)
    ]
    assert same(batch.column("a").to_pylist(), pa.array(expected, kind).to_pylist())


def test_values_out_of_range() -> None:
    """A number beyond the type of its column becomes the largest that there is; one beyond a decimal is refused."""
    for kind, given_back in (("int8", 127), ("uint8", 255), ("halffloat", 65504.0), ("int64", 2**63 - 1024)):
        source = sources.open(pa.table({"a": pa.array([None], kind)}))
        batch = writers.cleaned_batch(next(source.blocks()), source.schema, np.array([[1e30]]), np.array([[True]]))
        assert batch.column("a").to_pylist() == [given_back]
    source = sources.open(pa.table({"a": pa.array([None], pa.decimal128(5, 2))}))
    block = next(source.blocks())
    filled = writers.cleaned_batch(block, source.schema, np.array([[1.236]]), np.array([[True]]))
    assert filled.column("a").to_pylist() == [decimal.Decimal("1.24")]
    with pytest.raises(UsageError, match=r"Column 'a' is decimal128\(5, 2\), which does not hold 1e\+30."):
        writers.cleaned_batch(block, source.schema, np.array([[1e30]]), np.array([[True]]))


def test_wider_column() -> None:
    """A column of integers that became one of floats is one in every batch, changed or not."""
    source = sources.open({"a": np.array([1, 2])})
    block = next(source.blocks())
    like = writers.schema_after(source.schema, MEAN)
    for changed in (False, True):
        batch = writers.cleaned_batch(
            block, source.schema, np.array([[1.0], [2.5]]), np.array([[False], [changed]]), like=like
        )
        assert batch.column("a").to_pylist() == [1.0, 2.5 if changed else 2.0]
        assert batch.schema.equals(like)


@pytest.mark.parametrize("encoded", [False, True])
def test_modes(encoded: bool) -> None:
    """Missing text is filled by what is given for its column, in the column's own type."""
    texts = pa.array(["x", None, "y"])
    source = sources.open(pa.table({"s": texts.dictionary_encode() if encoded else texts, "t": ["a", None, "b"]}))
    batch = writers.cleaned_batch(
        next(source.blocks()), source.schema, np.empty((3, 0)), np.empty((3, 0), bool), modes={"s": "z"}
    )
    assert batch.to_pydict() == {"s": ["x", "z", "y"], "t": ["a", None, "b"]}
    assert batch.schema.equals(source.arrow_schema)


def test_matrix_rows() -> None:
    """A block of a matrix becomes columns of the matrix's own dtype."""
    schema = Schema(("0", "1"), ("0", "1"), types={"0": "float32", "1": "bfloat16"})
    block = Block(np.array([[1.1, NAN], [2.0, 3.0]]), np.zeros(2, np.int64), None, 0)
    batch = writers.cleaned_batch(block, schema, np.array([[1.1, 5.0], [2.0, 3.0]]), np.isnan(block.numbers))
    assert batch.schema.types == [pa.float32(), pa.float32()]
    assert batch.column("0").to_pylist() == [float(np.float32(1.1)), 2.0]
    assert batch.column("1").to_pylist() == [5.0, 3.0]
