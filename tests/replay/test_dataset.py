"""The rows of a batch are found in the data set by their contents, or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from nanguard.replay import dataset

SIZE = 40


class Data:
    """A data set that no frame of a test holds as an array, so that only the source leads to it."""

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.x = random.normal(size=(SIZE, 3)).astype("float32")
        self.x[17, 1] = np.nan
        self.y = random.integers(0, 2, size=SIZE).astype("int32")

    def batch(self, *rows: int) -> list[np.ndarray]:
        """Rows of the data set as the tensors of a batch."""
        return [self.x[list(rows)], self.y[list(rows)]]


def arrays(data: Data) -> Any:
    return (data.x, data.y)


def wide_arrays(data: Data) -> Any:
    return {"x": data.x.astype("float64"), "y": data.y.astype("int64")}


def frame(data: Data) -> Any:
    return pd.DataFrame(data.x, columns=["a", "b", "c"], index=range(100, 100 + SIZE))


def mixed_frame(data: Data) -> Any:
    return pd.DataFrame({"a": data.x[:, 0].astype(object), "b": data.x[:, 1], "c": data.x[:, 2]})


def dictionary(data: Data) -> Any:
    return ({"features": data.x, "names": np.array(["a"] * SIZE)}, data.y)


def pipeline(data: Data) -> Any:
    slices = tf.data.Dataset.from_tensor_slices((data.x, data.y))
    return slices.map(lambda x, y: (x, y)).batch(8).prefetch(1)


def shuffled_pipeline(data: Data) -> Any:
    return tf.data.Dataset.from_tensor_slices((data.x, data.y)).shuffle(SIZE, seed=1).repeat(2).batch(8)


def zipped_pipeline(data: Data) -> Any:
    return tf.data.Dataset.from_tensor_slices({"x": data.x, "y": data.y}).batch(8, drop_remainder=True)


SOURCES = [arrays, wide_arrays, frame, mixed_frame, dictionary, pipeline, shuffled_pipeline, zipped_pipeline]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_rows_in_what_fit_was_given(source: Any):
    """Rows of a shuffled batch, one with NaN among them, are found in every kind of data that `fit` takes."""
    data = Data()
    assert dataset.rows(data.batch(31, 17, 2, 5), [1, 0, 3], [(source(data),), {"epochs": 2}]) == [17, 31, 5]


def test_batch_in_the_order_of_the_data():
    """A batch that is one piece of the data set is found in one piece, equal rows in it included."""
    data = Data()
    data.x[20:24] = 1.0
    assert dataset.rows(data.batch(19, 20, 21, 22), [1, 2], [arrays(data)]) == [20, 21]


def test_duplicates_are_not_told():
    """A row that stands in the data set twice, labels and all, is not told."""
    data = Data()
    data.x[3] = data.x[30]
    data.y[3] = data.y[30]
    batch = data.batch(30, 11)
    found = dataset.rows(batch, [0], [arrays(data)])
    assert found is None
    assert dataset.rows(data.batch(30, 11), [1], [arrays(data)]) == [11]


def test_duplicates_with_other_labels_are_told_apart():
    """Equal features with another label are another row."""
    data = Data()
    data.x[3] = data.x[30]
    data.y[3], data.y[30] = 0, 1
    assert dataset.rows(data.batch(30, 11), [0], [arrays(data)]) == [30]


def test_preprocessed_rows_are_not_told():
    """Rows that the data set does not hold as they are in the batch are not told."""
    data = Data()
    x, y = data.batch(4, 9)
    found = dataset.rows([x * 2.0, y + 9], [0], [arrays(data)])
    assert found is None


def test_arrays_of_the_script_are_searched():
    """In a loop of one's own, the arrays that the user's frames hold are the data set; a batch among them is not."""

    def train() -> Any:
        x = Data().x  # what the script holds
        batch = x[[12, 30, 17]]
        return dataset.rows([batch], [0, 2], [])

    assert train() == [12, 17]


def test_batch_of_a_loop_is_not_the_data_set():
    """A batch that came out of a pipeline stands in the loop's frame; it is not taken for the data set."""

    def examples() -> Any:
        yield from zip(*arrays(Data()), strict=True)

    def train() -> Any:
        specs = tf.TensorSpec([3]), tf.TensorSpec([], tf.int32)
        batches = tf.data.Dataset.from_generator(examples, output_signature=specs).skip(8).batch(4)
        found = [dataset.rows([x.numpy(), y.numpy()], [1], []) for x, y in batches.take(1)]
        return found[0]

    assert train() is None


def test_without_any_data_nothing_is_told():
    """Nothing to search in is no error."""
    assert dataset.rows([np.array([["a"], ["b"]])], [0], []) is None


@given(st.permutations(range(SIZE)), st.integers(1, 10), st.data())
def test_every_row_of_a_shuffled_batch(order: list[int], size: int, draw: st.DataObject):
    """Whatever the shuffle and the size of the batch, each of its rows is found in its place."""
    data = Data(1)
    culprits = draw.draw(st.lists(st.integers(0, size - 1), min_size=1, unique=True))
    assert dataset.rows(data.batch(*order[:size]), culprits, [arrays(data)]) == [order[row] for row in culprits]
