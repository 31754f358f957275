"""Tables in files: CSV, Parquet, NPZ and NPY, and several of them."""

from __future__ import annotations

import gzip
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanguard.clean import sources
from nanguard.clean.sources import _csv
from nanguard.errors import UsageError

NAN = float("nan")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CSV file is read 64 bytes at a time."""
    monkeypatch.setattr(_csv, "_BLOCK_BYTES", 64)


def write(path: str, content: str | bytes) -> str:
    """Writes a file and gives its name."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def table(path: str, **options: Any) -> Any:
    """All rows of a source as an Arrow table."""
    source = sources.open(path, **options)
    batches = [block.batch for block in source.blocks()]
    return pa.Table.from_batches([batch.cast(source.arrow_schema) for batch in batches])


def refusal(path: str, **options: Any) -> str:
    """What is said of a file that is not read."""
    with pytest.raises(UsageError) as caught:
        list(sources.open(path, **options).blocks())
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- CSV


def test_csv() -> None:
    """A CSV file has the columns of its first line; an empty cell and a bare NA are missing, a quoted one is text."""
    path = write(
        "a.csv", 'n,f,s,d,b\n1,1.5,x,2020-01-01,true\n,inf,"",,\n3,nan,"NA",2020-01-02,false\n4,-1e3,NA,,true\n'
    )
    source = sources.open(path)
    assert source.schema.types == {"n": "int64", "f": "float64", "s": "string", "d": "date32[day]", "b": "bool"}
    block = next(source.blocks())
    np.testing.assert_array_equal(block.numbers, [[1, 1.5, 1], [NAN, np.inf, NAN], [3, NAN, 0], [4, -1000, 1]])
    assert block.column("s").to_pylist() == ["x", "", "NA", None]
    assert (block.file, block.first_row_in_file) == (path, 0)


@pytest.mark.usefixtures("small_blocks")
def test_text_in_a_late_row() -> None:
    """Text in a column that held numbers for many rows is an error that names the row, and the way out works."""
    path = write("a.csv", "a,b\n" + "1,2\n" * 1000 + "3,x\n" + "1,2\n" * 10)
    assert refusal(path) == (
        "a.csv, row 1000, column 'b': 'x' is no int64, as the values before it are. To read the column as text, add "
        "--dtype b=string."
    )
    assert table(path, dtypes={"b": "string"})["b"].to_pylist()[999:1002] == ["2", "x", "2"]
    assert "row 1000, column 'b'" in refusal(path, columns=["b"])
    assert table(path, columns=["a"]).num_rows == 1011


@pytest.mark.usefixtures("small_blocks")
def test_fraction_in_a_late_row() -> None:
    """A column of integers that has a fraction in a later row is one of floats from there on, and wholly next time."""
    path = write("a.csv", "a,b,c\n" + "1,2,3\n" * 100 + "3,1.5,3\n" + "1,2,3\n" * 100 + "1,2,1e3\n")
    source = sources.open(path)
    assert source.schema.types == {"a": "int64", "b": "int64", "c": "int64"}
    for _ in range(2):
        rows = np.concatenate([block.numbers for block in source.blocks()])
        assert len(rows) == 202
        assert rows.sum(0).tolist() == [204, 403.5, 1603]
    assert source.schema.types == {"a": "int64", "b": "float64", "c": "float64"}


@pytest.mark.usefixtures("small_blocks")
def test_empty_start() -> None:
    """A column that is empty for many rows has the type of what it holds later."""
    path = write("a.csv", "a,b,c,d\n" + "1,,,\n" * 100 + "1,2.5,,\n1,,x,\n")
    assert sources.open(path).schema.types == {"a": "int64", "b": "float64", "c": "string", "d": "null"}
    found = table(path)
    assert found["b"].to_pylist()[100:] == [2.5, None]
    assert found["c"].to_pylist()[100:] == [None, "x"]


@pytest.mark.usefixtures("small_blocks")
def test_finer_times() -> None:
    """A column of dates or seconds in which finer times turn up is one of nanoseconds."""
    path = write(
        "a.csv", "d,t\n" + "2020-01-01,2020-01-01 00:00:00\n" * 50 + "2020-01-01 00:00:01,2020-01-01 00:00:00.5\n"
    )
    assert table(path).schema.types == [pa.timestamp("ns")] * 2


@pytest.mark.usefixtures("small_blocks")
def test_line_breaks_in_cells() -> None:
    """A quoted line break is part of its cell wherever a block ends, and rows are counted as rows."""
    path = write("a.csv", "a,b\n" + '"x\ny",1\n' * 40 + '"x\ny",z\n')
    assert table(path, dtypes={"b": "string"})["a"].to_pylist() == ["x\ny"] * 41
    assert "row 40, column 'b': 'z'" in refusal(path)


@pytest.mark.usefixtures("small_blocks")
def test_ragged_rows() -> None:
    """A row with a cell too few or too many is an error that names it."""
    assert refusal(write("a.csv", "a,b\n" + "1,2\n" * 50 + "3\n")).startswith(
        "a.csv, row 50 has 1 cells where the line of names has 2: '3'."
    )
    assert refusal(write("a.csv", "a,b\n" + "1,2\n" * 50 + "3,4,5\n")).startswith("a.csv, row 50 has 3 cells")


@pytest.mark.usefixtures("small_blocks")
def test_encodings() -> None:
    """Text that is not UTF-8 in some rows is an error that names the first; as a whole it is read in its encoding."""
    path = write("a.csv", b"a,b\n" + b"1,x\n" * 50 + b"2,caf\xe9\n")
    assert refusal(path).startswith("a.csv, row 50, column 'b': the text is not UTF-8, as that before it is.")
    assert table(path, encoding="latin-1")["b"].to_pylist()[50] == "café"
    assert (
        refusal(write("b.csv", "a\n1\n".encode("utf-16"))) == "b.csv is in UTF-16. To read it, add --encoding utf-16."
    )
    assert table("b.csv", encoding="utf-16")["a"].to_pylist() == [1]
    assert table(write("c.csv", b"\xef\xbb\xbfa\n1\n")).column_names == ["a"]
    assert "'klingon' is no encoding" in refusal(path, encoding="klingon")


def test_one_column() -> None:
    """In a file of one column an empty line is a missing cell, and no row is lost."""
    assert table(write("a.csv", "a\n1\n\n3\n"))["a"].to_pylist() == [1, None, 3]


def test_delimiters() -> None:
    """A file that is parted by something else is not read as one column."""
    said = refusal(write("a.csv", "a;b\n1;2\n"))
    assert (
        said == "a.csv has one column, 'a;b': its cells seem to be parted by ';'. To read it so, add --delimiter ';'."
    )
    assert table("a.csv", delimiter=";").to_pydict() == {"a": [1], "b": [2]}
    assert "add --delimiter 'tab'" in refusal(write("b.csv", "a\tb\n1\t2\n"))
    with pytest.raises(ValueError, match=r"`delimiter` must be one character. Received: delimiter=';;'."):
        sources.open("a.csv", delimiter=";;")
    assert table("b.csv", delimiter="tab").num_columns == table(write("b.tsv", "a\tb\n1\t2\n")).num_columns == 2


def test_packed_csv() -> None:
    """A packed CSV file is read as a plain one; one that is cut off is an error, and not a shorter file."""
    rows = "\n".join(["a,b", *(f"{number},{number / 7}" for number in range(50_000))])
    packed = gzip.compress(rows.encode())
    assert table(write("a.csv.gz", packed)).num_rows == 50_000
    assert "Truncated compressed stream" in refusal(write("b.csv.gz", packed[: len(packed) // 2]))
    assert "cannot be read" in refusal(write("c.csv.gz", b"no gzip"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "a.csv is empty."),
        ("a,b\n", "a.csv has no rows."),
        ("a,b,a\n1,2,3\n", "a.csv has two columns named 'a'. Rename one of them."),
        ('a,b\n1,2\n3,"4\n5,6\n7,8\n', "a.csv, row 1: a quotation mark that is not closed takes in all that follows."),
        ('a,b\n1,"x\n' + "3,4\n" * 2_000_000, "a.csv, after row 0, has a row longer than 1 MiB: a quotation mark that"),
    ],
    ids=["empty", "no rows", "duplicate", "quote", "much after a quote"],
)
def test_bad_csv(content: str, said: str) -> None:
    """A CSV file that holds no table is refused by one line."""
    assert said in refusal(write("a.csv", content))


def test_bad_dtypes() -> None:
    """A type that is none, or of a column that is none, is refused; a type that is given is not widened."""
    write("a.csv", "a\n1\n2.5\n")
    assert "'foo', given for column 'a', is no type." in refusal("a.csv", dtypes={"a": "foo"})
    assert "a.csv has no column 'b'. It has 'a'." in refusal("a.csv", dtypes={"b": "string"})
    assert "row 1, column 'a': '2.5' is no int64" in refusal("a.csv", dtypes={"a": "int64"})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    cells=st.lists(
        st.tuples(
            st.none() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, width=32),
            st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=5),
        ),
        min_size=1,
        max_size=40,
    ),
    block_bytes=st.integers(100, 1000),
)
def test_any_csv(cells: list[Any], block_bytes: int) -> None:
    """Whatever stands in its cells and wherever blocks end, a CSV file gives the rows that were written."""

    lines = ["n,s"]
    for number, text in cells:
        quoted = "" if text is None else '"' + text.replace('"', '""') + '"'
        lines.append(f"{'' if number is None else repr(number)},{quoted}")
    Path("any.csv").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    before = _csv._BLOCK_BYTES
    _csv._BLOCK_BYTES = block_bytes
    try:
        source = sources.open("any.csv", dtypes={"s": "string"})
        rows = [
            row
            for block in source.blocks()
            for row in zip(block.numbers[:, 0], block.column("s").to_pylist(), strict=True)
        ]
    finally:
        _csv._BLOCK_BYTES = before
    assert [text for _, text in rows] == [text for _, text in cells]
    np.testing.assert_array_equal([n for n, _ in rows], [NAN if n is None else float(n) for n, _ in cells])


# -- Parquet


def test_parquet() -> None:
    """A Parquet file of several row groups is read in blocks that do not follow them."""
    written = pa.table({"a": [1, 2**60 + 1, None], "b.c": [1.0, None, 3.0], "s": ["x", None, "z"]})
    pq.write_table(written, "a.parquet", row_group_size=2)
    source = sources.open("a.parquet")
    assert source.num_rows == 3
    assert table("a.parquet").equals(written)
    (block,) = source.blocks()
    assert block.num_nulls.tolist() == [1, 1]
    assert table("a.parquet", columns=["s", "b.c"]).column_names == ["s", "b.c"]
    assert "has no column 'z'. It has 'a', 'b.c', 's'." in refusal("a.parquet", columns=["z"])


def test_parts_of_parquet() -> None:
    """The parts of a Parquet file are its rows, in order, and can be sent to another process."""
    pq.write_table(pa.table({"a": np.arange(1000)}), "a.parquet", row_group_size=100)
    source = sources.open("a.parquet")
    pieces = pickle.loads(pickle.dumps(source.split(250)))  # type: ignore[attr-defined]
    assert [piece.num_rows for piece in pieces] == [300, 300, 300, 100]
    blocks = [block for piece in pieces for block in piece.blocks()]
    assert [block.first_row_in_file for block in blocks] == [0, 300, 600, 900]
    assert np.concatenate([block.numbers[:, 0] for block in blocks]).tolist() == list(range(1000))


def test_damaged_parquet() -> None:
    """A Parquet file that is cut off, damaged, without rows or none at all is refused by one line."""
    pq.write_table(pa.table({"a": np.random.default_rng(0).normal(size=200_000)}), "a.parquet", row_group_size=50_000)
    content = Path("a.parquet").read_bytes()
    for part in range(10):
        said = refusal(write("b.parquet", content[: len(content) * part // 10]))
        assert "b.parquet is empty." in said or "is no Parquet file, or not all of it is there" in said
    hole = bytearray(content)
    hole[len(hole) // 2 : len(hole) // 2 + 200_000] = bytes(200_000)
    assert "c.parquet is damaged after row" in refusal(write("c.parquet", bytes(hole)))
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), "d.parquet")
    assert refusal("d.parquet") == "d.parquet has no rows."
    assert list(sources.open("d.parquet", may_be_empty=True).blocks()) == []
    assert "types, delimiter and encoding are its own" in refusal("a.parquet", dtypes={"a": "string"})


MEASURED = """
import sys
from nanguard.clean import sources

def peak():
    # Not getrusage: what it tells begins with the peak of the process that started this one.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

path, small = sys.argv[1:]
list(sources.open(small).blocks())  # loads what reading needs
before = peak()
rows = sum(len(block) for block in sources.open(path).blocks())
print(rows, (peak() - before) >> 10)
"""


@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_bounded_memory(kind: str) -> None:
    """A file is read within a few blocks' memory, if it is one row group or one array too."""
    rows = np.random.default_rng(0).normal(size=(10, 1_000_000))
    for name, part in (("a", rows), ("small", rows[:, :100])):
        if kind == "parquet":
            columns = {str(place): column for place, column in enumerate(part)}
            pq.write_table(pa.table(columns), f"{name}.parquet", row_group_size=1_000_000, use_dictionary=False)
        else:
            np.save(f"{name}.npy", part.T)  # in Fortran order
    command = [sys.executable, "-c", MEASURED, f"a.{kind}", f"small.{kind}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    num_rows, megabytes = map(int, done.stdout.split())
    assert num_rows == 1_000_000
    assert megabytes < 60  # of 80 in the file; 120 if the row group is read as a whole


# -- NumPy's files


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(order: str, save: Any) -> None:
    """The arrays of an archive are the columns of a table, in whatever order they lie and however they are packed."""
    x = np.asarray(np.random.default_rng(0).normal(size=(1000, 3)), np.float32, order=order)  # type: ignore[call-overload]
    save("a.npz", x=x, y=np.arange(1000), s=np.array(["u", "v"] * 500))
    source = sources.open("a.npz", batch_rows=300)
    assert source.schema.types == {"x_0": "float32", "x_1": "float32", "x_2": "float32", "y": "int64", "s": "string"}
    blocks = list(source.blocks())
    assert [len(block) for block in blocks] == [300, 300, 300, 100]
    np.testing.assert_array_equal(
        np.concatenate([block.numbers for block in blocks]), np.column_stack([x, np.arange(1000)])
    )
    assert sum(map(len, pickle.loads(pickle.dumps(source)).blocks())) == 1000
    assert source.num_rows == 1000


@pytest.mark.parametrize("rows", [np.arange(10.0).reshape(5, 2), np.arange(10.0).reshape(2, 5).T, np.arange(5)])
def test_npy(rows: Any) -> None:
    """An NPY file is the array that it holds, in whatever order it lies."""
    np.save("a.npy", rows)
    blocks = sources.open("a.npy", batch_rows=2).blocks()
    np.testing.assert_array_equal(np.concatenate([block.numbers for block in blocks]), rows.reshape(5, -1))


def test_bad_numpy_files() -> None:
    """An archive or array that is damaged, holds objects or has no rows of one number is refused by one line."""
    rows = np.random.default_rng(0).normal(size=(50_000, 2))
    np.save("a.npy", rows)
    content = Path("a.npy").read_bytes()
    assert refusal(write("b.npy", content[:-20])) == "b.npy is cut off after row 49998 of 50000."
    assert "b.npy is no array of NumPy" in refusal(write("b.npy", content[:20]))
    np.savez("a.npz", x=rows)
    content = Path("a.npz").read_bytes()
    assert "is no NPZ file, or not all of it is there" in refusal(write("b.npz", content[:-200]))
    flipped = bytearray(content)
    flipped[len(flipped) // 2] ^= 1
    assert "b.npz, 'x' is damaged" in refusal(write("b.npz", bytes(flipped)))
    np.savez("c.npz", x=np.array([1, "a"], object))
    assert "c.npz, 'x' holds Python objects, which are not loaded." in refusal("c.npz")
    np.savez("d.npz", x=np.zeros(3), y=np.zeros(4))
    assert refusal("d.npz") == "d.npz has 3 rows in 'x' and 4 in 'y'."
    np.savez("e.npz", x=np.zeros(3), n=3)
    assert "e.npz, 'n' is a single value." in refusal("e.npz")
    assert sources.open("e.npz", columns=["x"]).num_rows == 3
    np.save("f.npy", np.zeros((3, 2, 2)))
    assert "f.npy has rows of the shape (2, 2): a row must be a vector." in refusal("f.npy")


# -- several files


def test_folder() -> None:
    """Files are read in the order of their names, by a folder or a pattern, and rows are counted over all of them."""
    write("d/b.csv", "a,b\n1,2\n3,4\n")
    write("d/a.csv", "a,b\n1.5,2\n")
    write("d/c.csv", "b,a\n1,9\n")  # the same columns in another order
    write("d/.hidden.csv", "z\n1\n")
    write("d/notes.md", "no table")
    for given_path in ("d", "d/*.csv"):
        source = sources.open(given_path)
        assert source.schema.types == {"a": "float64", "b": "int64"}
        blocks = list(source.blocks())
        assert [(block.file, block.first_row, block.first_row_in_file) for block in blocks] == [
            ("d/a.csv", 0, 0),
            ("d/b.csv", 1, 0),
            ("d/c.csv", 3, 0),
        ]
        assert np.concatenate([block.numbers for block in blocks]).tolist() == [[1.5, 2], [1, 2], [3, 4], [9, 1]]
        assert all(block.batch.schema == source.arrow_schema for block in blocks)  # type: ignore[union-attr]
    assert source.num_rows == 4


@pytest.mark.usefixtures("small_blocks")
def test_fraction_in_a_late_file() -> None:
    """A column that becomes one of floats in the midst of one file is one in all of them."""
    write("d/a.csv", "a\n1\n")
    write("d/b.csv", "a\n" + "2\n" * 100 + "2.5\n")
    write("d/c.csv", "a\n3\n")
    source = sources.open("d")
    assert source.schema.types == {"a": "int64"}
    for _ in range(2):
        blocks = list(source.blocks())
        assert sum(block.numbers.sum() for block in blocks) == 206.5
        assert source.schema.types == {"a": "float64"}
    assert all(block.batch.schema == source.arrow_schema for block in blocks)  # type: ignore[union-attr]


def test_files_that_differ() -> None:
    """Files whose columns differ are refused, with the names of both files and the column."""
    write("d/a.csv", "a,b\n1.5,2\n")
    write("d/b.csv", "a,b\nx,2\n")
    said = "d/b.csv, column 'a' is string, and float64 in d/a.csv. To read it as text everywhere, add --dtype a=string."
    assert refusal("d") == said
    assert table("d", dtypes={"a": "string"})["a"].to_pylist() == ["1.5", "x"]
    write("d/b.csv", "a\n1\n")
    assert refusal("d") == "d/b.csv has no column 'b', which d/a.csv has."
    write("d/b.csv", "a,b,c\n1,2,3\n")
    assert refusal("d") == "d/b.csv has a column 'c', which d/a.csv does not have."
    write("d/b.parquet", "x")
    assert "d has files of more than one kind" in refusal("d")


def test_parts_of_files() -> None:
    """The parts of several files are their rows, numbered as in the whole table."""
    for name, rows in (("a", 250), ("b", 100)):
        pq.write_table(pa.table({"x": np.arange(rows)}), f"{name}.parquet", row_group_size=100)
    source = sources.open("*.parquet")
    pieces = sources.parts(source)
    first_row, placed = 0, []
    for piece in pieces:
        for block in piece.source.blocks():
            placed.append(piece.placed(block, first_row))
        first_row += piece.source.num_rows or 0
    whole = list(source.blocks())
    assert [block.first_row for block in placed] == [block.first_row for block in whole] == [0, 250]
    np.testing.assert_array_equal(
        np.concatenate([block.numbers for block in placed]), np.concatenate([block.numbers for block in whole])
    )


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nope.csv", "nope.csv does not exist."),
        ("*.csv", "*.csv matches no file."),
        ("x.foo", "x.foo is of no kind that is known by its name: .csv, .tsv"),
        ("empty", "empty has no files that are known"),
        ("zero.parquet", "zero.parquet is empty."),
    ],
)
def test_no_such_file(path: str, said: str) -> None:
    """A path that leads to no table is refused by one line."""
    write("x.foo", "")
    write("zero.parquet", "")
    Path("empty").mkdir()
    assert said in refusal(path)
