"""Tables of TensorFlow and Keras: data sets and TFRecord files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from nanguard.clean import sources
from nanguard.clean.sources import _tfrecord
from nanguard.errors import UsageError

Dataset = tf.data.Dataset
X = np.arange(10.0, dtype=np.float32).reshape(5, 2)
Y = np.arange(5)


def read(data: Any, **options: Any) -> tuple[sources.Source, Any]:
    """A source and all its rows."""
    source = sources.open(data, **options)
    return source, np.concatenate([block.numbers for block in source.blocks()])


def refusal(data: Any, **options: Any) -> str:
    """What is said of data that is not read."""
    with pytest.raises(UsageError) as caught:
        list(sources.open(data, **options).blocks())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("size", [None, 2, 5])
@pytest.mark.parametrize("parts", ["x", "xy", "xyw", "dict", "dict y"])
def test_datasets(parts: str, size: int | None) -> None:
    """A data set of a matrix or a dict, with labels and weights or without, batched or not, is the same table."""
    named = {"a": Y, "s": ["u", "v", "w", "x", "é"]}
    elements, names, labels = {
        "x": (X, ("0", "1"), ()),
        "xy": ((X, Y), ("0", "1", "kind"), ("kind",)),
        "xyw": ((X, Y, np.ones(5)), ("0", "1", "kind", "sample_weight"), ("kind",)),
        "dict": (named, ("a", "s"), ()),
        "dict y": ((named, Y), ("a", "s", "kind"), ("kind",)),
    }[parts]
    dataset = Dataset.from_tensor_slices(elements)
    source, rows = read(dataset if size is None else dataset.batch(size), label="kind" if labels else None)
    assert source.schema.names == names
    assert source.labels == labels
    expected = {"0": X[:, 0], "1": X[:, 1], "kind": Y, "a": Y, "sample_weight": np.ones(5)}
    np.testing.assert_array_equal(rows, np.column_stack([expected[name] for name in source.schema.numbers]))
    assert sum(map(len, source.blocks())) == 5
    if "s" in names:
        (block,) = source.blocks()
        assert block.column("s").to_pylist() == ["u", "v", "w", "x", "é"]


def test_rows_of_one_number() -> None:
    """A data set of scalars has one column, batched or not; one vector is a row."""
    assert read(Dataset.from_tensor_slices(Y))[1].tolist() == [[0], [1], [2], [3], [4]]
    assert read(Dataset.from_tensor_slices(Y).batch(2))[1].tolist() == [[0], [1], [2], [3], [4]]
    assert read(Dataset.from_tensors(Y))[1].tolist() == [[0, 1, 2, 3, 4]]


def test_small_batches_of_a_dataset() -> None:
    """Batches of a data set are joined to blocks, and bfloat16 is read."""
    dataset = Dataset.from_tensor_slices(tf.cast(tf.range(1000)[:, None] % 100, tf.bfloat16)).batch(8)
    source = sources.open(dataset, batch_rows=400)
    assert [len(block) for block in source.blocks()] == [400, 400, 200]
    assert source.schema.types == {"0": "bfloat16"}


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Three batches of Keras's own kind."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return X + index, Y


def test_pydataset() -> None:
    """A PyDataset is read batch by batch, again and again."""
    source, rows = read(Batches())
    assert source.labels == ("label",)
    np.testing.assert_array_equal(rows[:, :2], np.concatenate([X, X + 1, X + 2]))
    assert sum(map(len, source.blocks())) == 15


def test_tensor() -> None:
    """A tensor is the array that it holds."""
    np.testing.assert_array_equal(read(tf.constant(X))[1], X)


def fails() -> Iterator[Any]:
    """Two rows, and an error."""
    yield X[0]
    yield X[1]
    raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (Dataset.from_tensor_slices(X).repeat(), "tf.data.Dataset repeats without end."),
        (
            Dataset.from_tensor_slices(tf.ragged.constant([[1], [2, 3]])),
            "has a RaggedTensor, whose rows differ in length.",
        ),
        (
            Dataset.from_tensor_slices(np.zeros((3, 4, 4))).batch(2),
            "has rows of the shape (4, 4): a row must be a vector.",
        ),
        (Dataset.from_tensor_slices(X).take(0), "tf.data.Dataset has no rows."),
        (Dataset.from_generator(fails, output_signature=tf.TensorSpec((2,))), "after row 2: OSError: the disk is gone"),
    ],
    ids=["endless", "ragged", "images", "empty", "failing"],
)
def test_bad_datasets(data: Any, said: str) -> None:
    """A data set that is no table, or fails on the way, is told of by one line."""
    assert said in refusal(data, batch_rows=1)


# -- TFRecord


def example(**features: Any) -> bytes:
    """A serialized example with the given lists."""
    made = {}
    for name, values in features.items():
        if isinstance(values[0], bytes):
            made[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        elif isinstance(values[0], int):
            made[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        else:
            made[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return bytes(tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString())


def write(path: Path, records: list[bytes], packing: str = "") -> str:
    """A TFRecord file of some records."""
    with tf.io.TFRecordWriter(str(path), packing) as writer:
        for record in records:
            writer.write(record)
    return str(path)


@pytest.mark.parametrize("packing", ["", "GZIP"])
def test_tfrecord(packing: str, tmp_path: Path) -> None:
    """Features are columns, a vector of one length several, and a feature that is not there is a missing cell."""
    records = [
        example(a=[1.5], k=[2**60 + 1], s=["é".encode()], v=[1.0, 2.0], n=[1, 2]),
        example(k=[3], s=[b"x"], v=[3.0, 4.0], n=[1]),
        example(a=[float("nan")], b=[b"\xff"]),
    ]
    source, rows = read(write(tmp_path / f"a.tfrecord{'.gz' if packing else ''}", records, packing))
    assert source.schema.types == {
        "a": "float32",
        "b": "binary",
        "k": "int64",
        "n": "list<item: int64>",
        "s": "string",
        "v_0": "float32",
        "v_1": "float32",
    }
    nan = float("nan")
    np.testing.assert_array_equal(rows, [[1.5, 2.0**60, 1, 2], [nan, 3, 3, 4], [nan, nan, nan, nan]])
    (block,) = source.blocks()
    assert block.num_nulls.tolist() == [1, 1, 1, 1]
    assert block.column("k").to_pylist() == [2**60 + 1, 3, None]
    assert block.column("s").to_pylist() == ["é", "x", None]
    assert block.column("n").to_pylist() == [[1, 2], [1], []]
    assert sources.open(source.name, columns=["v_1", "s"]).schema.names == ("v_1", "s")


def test_damaged_tfrecord(tmp_path: Path) -> None:
    """A TFRecord file that is cut off or damaged is an error that says after which row."""
    path = Path(write(tmp_path / "a.tfrecord", [example(a=[float(number)]) for number in range(1500)]))
    content = path.read_bytes()
    size = len(content) // 1500
    path.write_bytes(content[:-10])
    assert "a.tfrecord is damaged or cut off after row 1499: truncated record" in refusal(str(path))
    flipped = bytearray(content)
    flipped[1200 * size + 14] ^= 1
    path.write_bytes(bytes(flipped))
    assert "is damaged or cut off after row 1200: corrupted record" in refusal(str(path))
    path.write_bytes(b"this is no record at all")
    assert "after row 0: corrupted record at 0 (Is this even a TFRecord file?)" in refusal(str(path))
    path.write_bytes(b"")
    assert "a.tfrecord is empty." in refusal(str(path))


def test_odd_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A late record of another length, another type, no text or no example at all is named."""
    monkeypatch.setattr(_tfrecord, "_PILOT", 2)
    path = tmp_path / "a.tfrecord"
    good = example(a=[1.0], v=[1.0, 2.0], s=[b"x"])
    for late, said in (
        (example(v=[1.0]), "row 3, feature 'v' has 1 values, and 2 in the rows before it."),
        (example(a=[1]), "row 3, feature 'a' is a int64_list, and a float_list in the rows before it."),
        (example(s=[b"\xff"]), "row 3, feature 's' holds bytes that are no text in UTF-8, as those before it are."),
        (b"\xff\xff", "row 3: the record is no tf.train.Example."),
    ):
        assert said in refusal(write(path, [good, good, good, late]))
    assert "row 0: the record is no tf.train.Example." in refusal(write(path, [b"\xff\xff"]))
    assert "holds no tf.train.Example with features." in refusal(write(path, [b""]))
    assert "the feature 'a' has values of two types." in refusal(write(path, [example(a=[1]), example(a=[1.0])]))


def test_shards(tmp_path: Path) -> None:
    """The shards of a TFRecord file are read in order."""
    for shard in range(3):
        write(tmp_path / f"a.tfrecord-0000{shard}-of-00003", [example(a=[shard]), example(a=[10 * shard])])
    assert read(f"{tmp_path}/a.tfrecord-*")[1][:, 0].tolist() == [0, 0, 1, 10, 2, 20]


def test_no_device_is_held_between_blocks(tmp_path: Path) -> None:
    """A reader that is left in the middle holds no device: a scope of the caller's ends as it should."""
    path = tmp_path / "rows.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(3):
            feature = {"x": tf.train.Feature(float_list=tf.train.FloatList(value=[number]))}
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    with tf.device("CPU"):
        blocks = sources.open(str(path), batch_rows=1).blocks()
        assert next(blocks).numbers.tolist() == [[0.0]]
    with tf.device("CPU"):
        blocks.close()
    assert tf.constant(1.0).numpy() == 1.0
