"""Tensors as numbers."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from nanguard.backend import values


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64", "complex64"])
def test_is_finite_sees_nan_and_infinity(name: str):
    """In every dtype of real or complex numbers one NaN or infinity anywhere is seen."""
    for number, expected in ((1.5, True), (np.nan, False), (np.inf, False), (-np.inf, False)):
        tensor = tf.cast(tf.constant([[0.0, number]]), name)
        assert values.holds_floats(tensor)
        assert values.is_finite(tensor) is expected
        assert values.is_finite(tensor.numpy()) is expected


@pytest.mark.parametrize(
    "value", [tf.constant([1, 2]), tf.constant([True]), tf.constant(["a"])], ids=["int", "bool", "string"]
)
def test_what_is_no_float_is_finite(value: tf.Tensor):
    """Integers, flags and strings cannot be non-finite."""
    assert not values.holds_floats(value)
    assert values.is_finite(value)


def test_half_precision_comes_as_float32():
    """NumPy cannot compute with bfloat16, and float16 would overflow: both come as float32 with the same numbers."""
    for dtype in (tf.float16, tf.bfloat16):
        found = values.array(tf.constant([1.5, -2.0], dtype))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, [1.5, -2.0])


def test_what_holds_no_numbers_is_an_empty_array():
    """A resource, a variant or a string has no numbers and is no error."""
    variable = tf.Variable(1.0)
    for value in (variable.handle, tf.constant("text"), np.array(["text"]), np.array([None])):
        assert values.array(value).size == 0
