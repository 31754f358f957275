"""What `Cleaner.adapt` learns from: whatever form the same rows come in, it learns the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from nanguard.clean.layer import Cleaner
from nanguard.errors import UsageError

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(300, 3)) + RANDOM.normal(size=(300, 1))
ROWS[RANDOM.random(ROWS.shape) < 0.1] = np.nan
NAMES = ("a", "b", "c")
COLUMNS = dict(zip(NAMES, ROWS.T, strict=True))
WORDS = np.array(["", "red", "green", "green"])[RANDOM.integers(0, 4, 300)]


class Pieces(keras.utils.PyDataset):
    """The rows in batches, with labels."""

    num_batches = 3

    def __getitem__(self, place: int) -> Any:
        return ROWS[place * 100 : (place + 1) * 100], np.zeros(100)


FORMS: dict[str, Callable[[], Any]] = {
    "array": lambda: ROWS,
    "list of lists": ROWS.tolist,
    "float32 tensor": lambda: tf.constant(ROWS),
    "rows and labels": lambda: (ROWS, np.zeros(300)),
    "sequences": lambda: ROWS.reshape(30, 10, 3),
    "list of batches": lambda: [ROWS[:100], ROWS[100:]],
    "generator": lambda: (ROWS[start : start + 50] for start in range(0, 300, 50)),
    "dict": lambda: COLUMNS,
    "dict of lists": lambda: {name: values.tolist() for name, values in COLUMNS.items()},
    "dict of columns of length 1": lambda: {name: values[:, None] for name, values in COLUMNS.items()},
    "dict with None": lambda: {
        name: np.array([None if np.isnan(x) else x for x in values], object) for name, values in COLUMNS.items()
    },
    "data set of rows": lambda: tf.data.Dataset.from_tensor_slices(ROWS),
    "data set of batches": lambda: tf.data.Dataset.from_tensor_slices((ROWS, np.zeros(300))).batch(64),
    "data set of dicts": lambda: tf.data.Dataset.from_tensor_slices(COLUMNS),
    "data set of batches of dicts": lambda: tf.data.Dataset.from_tensor_slices((COLUMNS, np.zeros(300))).batch(7),
    "PyDataset": Pieces,
    "pandas": lambda: pd.DataFrame(COLUMNS),
    "pyarrow": lambda: pa.table(COLUMNS, schema=pa.schema([(name, pa.float64()) for name in NAMES])),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_teach_the_same(form: str) -> None:
    """Means, bounds, distribution and indicators do not depend on the form in which the rows come."""
    wanted = Cleaner(indicators=True).adapt(ROWS).recipe
    found = Cleaner(indicators=True).adapt(FORMS[form]()).recipe
    for key in ("low", "high", "fill", "has_indicator"):
        assert np.allclose(getattr(found, key), getattr(wanted, key), rtol=1e-9), key
    assert found.gaussian is not None
    assert wanted.gaussian is not None
    assert np.allclose(found.gaussian.correlation, wanted.gaussian.correlation, atol=1e-9)


def test_file_teaches_the_same(tmp_path: Path) -> None:
    """The path of a file is a way to give rows too."""
    pq.write_table(pa.table(COLUMNS), tmp_path / "rows.parquet")
    found = Cleaner("median").adapt(str(tmp_path / "rows.parquet")).recipe
    assert np.array_equal(found.fill, Cleaner("median").adapt(ROWS).recipe.fill)


@pytest.mark.parametrize("size", [1, 7, 300])
def test_small_batches_are_joined(size: int) -> None:
    """The size of batches changes nothing, not even of a single row each."""
    batches = [ROWS[start : start + size] for start in range(0, 300, size)]
    found = Cleaner("median", bounds="mad").adapt(batches).recipe
    wanted = Cleaner("median", bounds="mad").adapt(ROWS).recipe
    assert np.array_equal(found.fill, wanted.fill)
    assert np.array_equal(found.low, wanted.low)


def test_steps_take_so_many_batches() -> None:
    """`steps` ends an endless data set, of whatever kind."""
    wanted = Cleaner("mean").adapt(ROWS[:100]).recipe.fill
    endless = tf.data.Dataset.from_tensor_slices(ROWS).batch(50).repeat()
    for data in (endless, itertools.cycle([ROWS[:50], ROWS[50:100]])):
        assert np.allclose(Cleaner("mean").adapt(data, steps=2).recipe.fill, wanted)


@pytest.mark.parametrize("as_bytes", [False, True])
def test_words(as_bytes: bool) -> None:
    """The most frequent text of a column is learnt; empty text is missing text."""
    words = np.char.encode(WORDS, "utf-8") if as_bytes else WORDS
    for data in (
        {"x": ROWS[:, 0], "colour": words},
        tf.data.Dataset.from_tensor_slices({"x": ROWS[:, 0], "colour": words}),
    ):
        cleaner = Cleaner("median", categories="mode").adapt(data)
        found = cleaner({"x": ROWS[:4, 0], "colour": np.array(["", "red", "blue", ""])})["colour"]
        assert found.numpy().tolist() == [b"green", b"red", b"blue", b"green"]


def test_only_named_columns_are_learnt() -> None:
    """With `columns`, the other columns of a dict may be anything, and pass."""
    day = np.array(["2026-01-01", "2026-01-02"], "M8[D]")
    cleaner = Cleaner("mean", columns=["a"]).adapt({"a": [1.0, np.nan], "day": day})
    assert cleaner.recipe.names == ("a",)
    found = cleaner({"a": np.float32([np.nan]), "b": np.array(["text"])})
    assert found["a"].numpy().tolist() == [1.0]
    assert found["b"].numpy().tolist() == [b"text"]


ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no rows": (lambda: np.zeros((0, 3)), UsageError, "There is no row to learn from in the ndarray."),
    "no batches": (lambda: iter(()), UsageError, "There is no row"),
    "one axis": (lambda: ROWS[:, 0], UsageError, r"Received: shape \(300,\). For one column give x\[:, None\]"),
    "text": (lambda: np.array([["a", "b"]]), UsageError, "The array of batch 0 is no numbers but <U1."),
    "complex": (lambda: ROWS + 1j, UsageError, "no numbers but complex128"),
    "dates": (lambda: {"day": np.array(["2026-01-01"], "M8[D]")}, UsageError, r"Column 'day' of batch 0 is no numbers"),
    "lengths": (lambda: {"a": [1.0], "b": [1.0, 2.0]}, UsageError, "Batch 0 has 1 values in 'a' and 2 in 'b'."),
    "other width": (lambda: [ROWS, ROWS[:, :2]], UsageError, "Batch 1 lacks the column '2'"),
    "more width": (lambda: [ROWS[:, :2], ROWS], UsageError, "Batch 1 has a column '2' that those before lack."),
    "turns to text": (
        lambda: [{"a": [1.0]}, {"a": ["one"]}],
        UsageError,
        "Column 'a' holds text in batch 1, and did not before.",
    ),
    "only text": (
        lambda: {"colour": ["red", "green"]},
        UsageError,
        "no column of numbers to clean. There are: 'colour'.",
    ),
    "no number": (lambda: np.full((5, 2), np.nan), UsageError, "Column '0' holds no number"),
    "endless": (
        lambda: tf.data.Dataset.from_tensors(ROWS).repeat(),
        ValueError,
        "never ends. Say with `steps` how many",
    ),
    "a number": (lambda: 3.0, ValueError, "Received: float."),
    "no table": (lambda: object(), ValueError, "Received: object."),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_data(name: str) -> None:
    """Data that cannot be learnt from gives one line that says which batch and column, and the layer learns nothing."""
    make, kind, message = ERRORS[name]
    cleaner = Cleaner()
    with pytest.raises(kind, match=message) as caught:
        cleaner.adapt(make())
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="has learnt nothing"):
        cleaner(ROWS)


def test_bad_steps() -> None:
    """`steps` has to count batches, and there have to be some."""
    for data, steps in (([ROWS], 0), (ROWS, 1), (pd.DataFrame(COLUMNS), 1)):
        with pytest.raises(ValueError, match=f"Received: steps={steps}"):
            Cleaner().adapt(data, steps=steps)


def test_bad_columns() -> None:
    """`columns` has to name what is there."""
    with pytest.raises(UsageError, match=r"`columns` names 2 columns, and batch 0 has the shape \(300, 3\)"):
        Cleaner(columns=["a", "b"]).adapt(ROWS)
    with pytest.raises(UsageError, match="has no column 'z'"):
        Cleaner(columns=["z"]).adapt(COLUMNS)
