"""Choices whose gradients hold no trace of what was not chosen."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from numbers_of import DTYPES, MODES, in_mode, with_gradients

from nanguard import ops

X = [1.0, math.nan, math.inf, -math.inf, -2.0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_where_finite(dtype, mode):
    """What is not finite becomes the constant, and has no gradient."""
    value, (gradient,) = in_mode(with_gradients(lambda x: ops.where_finite(x, 7.0)), mode)(tf.constant(X, dtype))
    assert value.numpy().tolist() == [1, 7, 7, 7, -2]
    assert gradient.numpy().tolist() == [1, 0, 0, 0, 1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_nan_to_num(dtype, mode):
    """NaN and the two infinities become three numbers, the dtype's extremes by default."""
    x = tf.constant(X, dtype)
    assert in_mode(lambda x: ops.nan_to_num(x, 3.0, 4.0, -5.0), mode)(x).numpy().tolist() == [1, 3, 4, -5, -2]
    value, (gradient,) = in_mode(with_gradients(ops.nan_to_num), mode)(x)
    assert value.numpy().tolist() == [1, 0, x.dtype.max, x.dtype.min, -2]
    assert gradient.numpy().tolist() == [1, 0, 0, 0, 1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fn", [tf.math.log, tf.sqrt, tf.math.reciprocal, lambda x: x**-3.5])
def test_select(fn, mode, dtype):
    """The function is never asked where the condition does not hold, so its gradient is clean there."""
    x = tf.constant([4.0, 0.0, -1.0, math.nan], dtype)
    value, (gradient,) = in_mode(with_gradients(lambda x: ops.select(x > 0, fn, x, otherwise=-9.0)), mode)(x)
    expected, (expected_gradient,) = with_gradients(fn)(x[:1])
    assert value[1:].numpy().tolist() == [-9, -9, -9]
    assert gradient[1:].numpy().tolist() == [0, 0, 0]
    np.testing.assert_allclose(value[:1].numpy().astype("f"), expected.numpy().astype("f"), rtol=0.01)
    np.testing.assert_allclose(gradient[:1].numpy().astype("f"), expected_gradient.numpy().astype("f"), rtol=0.01)


def test_select_takes_a_tuple():
    """Several tensors are handed on as arguments, each with its own gradient."""
    a, b = tf.constant([1.0, 2.0]), tf.constant([4.0, 0.0])
    value, gradients = with_gradients(lambda a, b: ops.select(b > 0, tf.divide, (a, b), safe=2.0))(a, b)
    np.testing.assert_allclose(value, [0.25, 0.0])
    np.testing.assert_allclose(gradients, [[0.25, 0.0], [-0.0625, 0.0]])


def test_select_keeps_nan_where_it_looks():
    """A NaN stays where the condition holds."""
    value = ops.select(tf.constant([True, False]), tf.math.log, tf.constant([math.nan, math.nan]))
    assert math.isnan(value[0])
    assert value[1] == 0


def test_select_in_a_keras_model(tmp_path):
    """In a functional model it is made of Keras's own nodes, so that the model saves."""
    x = keras.Input((3,))
    model = keras.Model(x, ops.select(x > 0, keras.ops.log, x))
    batch = np.array([[1.0, 0.0, -1.0]], "float32")
    assert model(batch).numpy().tolist() == [[0, 0, 0]]
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras")(batch).numpy().tolist() == [[0, 0, 0]]
