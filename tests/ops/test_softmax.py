"""Softmax, its logarithm and log-sum-exp: the plain ones where those are safe, and finite where nothing is left."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from numbers_of import DTYPES, MODES, in_mode, special, widened, with_gradients

from nanguard import ops
from nanguard.intervals import float_format

PLAIN = {
    ops.softmax: tf.nn.softmax,
    ops.log_softmax: tf.nn.log_softmax,
    ops.logsumexp: lambda x: tf.reduce_logsumexp(x, -1),
}
every_op = pytest.mark.parametrize("op", [ops.softmax, ops.log_softmax, ops.logsumexp], ids=lambda op: op.__name__)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_mode = pytest.mark.parametrize("mode", MODES)


def along_last(op):
    return lambda x, **kwargs: op(x, axis=-1, **kwargs)


def run(function, x, mode="eager", upstream=None):
    value, (gradient,) = in_mode(with_gradients(function, upstream), mode)(x)
    return widened(value.numpy()), widened(gradient.numpy())


def rows_of(dtype: str) -> np.ndarray:
    """Rows of special numbers, ordinary ones, and pairs that are far apart."""
    numbers = special(dtype)
    random = np.random.default_rng(1)
    mixed = random.choice(numbers, (200, 5))
    ordinary = random.normal(0, 4, (200, 5)).astype(numbers.dtype)
    return np.concatenate([mixed, ordinary, np.full((1, 5), numbers.max()), np.full((1, 5), numbers.min())])


@every_op
@every_dtype
@every_mode
def test_finite(op, dtype, mode):
    """Finite logits give finite values and gradients, and so do masked ones, whatever is masked."""
    x = tf.constant(rows_of(dtype))
    mask = np.random.default_rng(2).random(x.shape) < 0.4
    upstream = tf.constant(np.random.default_rng(3).normal(size=op(x, axis=-1).shape), dtype)
    masked = lambda x: op(x, axis=-1, mask=mask)  # noqa: E731
    cases = (
        (along_last(op), x),
        (masked, x),
        (masked, tf.where(mask, x, tf.constant(math.nan, dtype))),
        (along_last(op), tf.where(mask, x, tf.constant(-math.inf, dtype))),
    )
    runs = lambda *xs: [with_gradients(case[0], upstream)(x) for case, x in zip(cases, xs, strict=True)]  # noqa: E731
    for value, (gradient,) in in_mode(runs, mode)(*(case[1] for case in cases)):
        assert np.isfinite(widened(value.numpy())).all()
        assert np.isfinite(widened(gradient.numpy())).all()
        assert np.abs(widened(gradient.numpy())).max() < 100


@every_op
@every_dtype
@every_mode
def test_mask_is_minus_infinity(op, dtype, mode):
    """What is masked has no part in value or gradient: the rest is as if it were not there."""
    x = tf.constant([[1.0, 2.0, 5.0, -1.0]], dtype)
    mask = [[True, False, True, False]]
    value, gradient = run(lambda x: op(x, axis=-1, mask=mask), x, mode)
    left = tf.constant([[1.0, 5.0]], dtype)
    expected, expected_gradient = run(along_last(op), left, mode)
    tolerance = 4 * float_format(dtype).eps
    np.testing.assert_allclose(gradient[:, [0, 2]], expected_gradient, atol=tolerance)
    assert (gradient[:, [1, 3]] == 0).all()
    np.testing.assert_allclose(value[:, [0, 2]] if value.ndim == 2 else value, expected, rtol=tolerance)


@every_dtype
@every_mode
def test_nothing_left(dtype, mode):
    """A row in which nothing is left is 0, or the logarithm of the floor, with gradient 0; other rows are untouched."""
    x = tf.constant([[-math.inf, -math.inf], [0.0, 0.0], [math.nan, 1.0]], dtype)
    floor = math.log(float_format(dtype).floor)
    tolerance = float_format(dtype).eps * 4
    for op, empty, full in ((ops.softmax, 0, 0.5), (ops.log_softmax, floor, -math.log(2))):
        value, gradient = run(along_last(op), x, mode)
        np.testing.assert_allclose(value[:2], [[empty] * 2, [full] * 2], rtol=tolerance)
        assert (gradient[0] == 0).all()
        # A kernel of tf.nn.softmax leaves the rest of the row at 0.
        assert np.isnan(value[2]).any()
        assert np.isnan(gradient[2]).all()
    value, gradient = run(along_last(ops.logsumexp), x, mode)
    np.testing.assert_allclose(value[:2], [floor, math.log(2)], rtol=tolerance)
    np.testing.assert_allclose(gradient[:2], [[0, 0], [0.5, 0.5]], rtol=tolerance)
    assert np.isnan(value[2])
    assert np.isnan(gradient[2]).all()


@every_mode
def test_row_of_nan(mode):
    """A row of NaN alone, whose maximum is -inf under XLA, is not taken for an empty one."""
    x = tf.constant([[math.nan, math.nan]])
    for op in PLAIN:
        value, gradient = run(along_last(op), x, mode)
        assert np.isnan(value).all()
        assert np.isnan(gradient).all()


@every_op
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_plain(op, dtype, mode):
    """Where the plain op is finite, value and gradient are its own, bit for bit."""
    x = tf.constant(rows_of(dtype))
    upstream = tf.constant(np.random.default_rng(3).normal(size=op(x, axis=-1).shape), dtype)
    value, gradient = run(along_last(op), x, mode, upstream)
    expected, expected_gradient = run(PLAIN[op], x, mode, upstream)
    is_safe = np.isfinite(expected)
    assert is_safe.mean() > 0.5
    np.testing.assert_array_equal(value[is_safe], expected[is_safe])
    is_safe = np.isfinite(expected_gradient)
    np.testing.assert_array_equal(gradient[is_safe], expected_gradient[is_safe])


@every_op
def test_axes_and_shapes(op):
    """Any axis, empty tensors, scalars' lists, keyword names of Keras and unknown shapes are taken."""
    x = tf.random.stateless_normal([3, 4, 2], [1, 2])
    for axis in (0, 1, 2, -2):
        moved = PLAIN[op](tf.experimental.numpy.moveaxis(x, axis, -1))
        expected = moved if op is ops.logsumexp else tf.experimental.numpy.moveaxis(moved, -1, axis)
        np.testing.assert_allclose(op(x, axis=axis), expected, rtol=1e-5, atol=1e-7)
    assert op([1.0, 2.0], axis=-1).dtype == tf.float32
    assert op(tf.zeros([0, 3]), axis=-1).shape[0] == 0
    assert np.isfinite(op(tf.zeros([2, 0]), axis=-1)).all()
    traced = tf.function(along_last(op), autograph=False).get_concrete_function(tf.TensorSpec(None, tf.float32))
    np.testing.assert_allclose(traced(x), op(x, axis=-1))
    np.testing.assert_array_equal(op(x=x, axis=-1), op(x, axis=-1))


def test_logsumexp_is_a_drop_in():
    """All axes are reduced by default, and dimensions can be kept."""
    x = tf.random.stateless_normal([3, 4, 2], [1, 2])
    for kwargs in ({}, {"axis": (0, 2)}, {"axis": [1], "keepdims": True}, {"keepdims": True}):
        np.testing.assert_array_equal(ops.logsumexp(input_tensor=x, **kwargs), tf.reduce_logsumexp(x, **kwargs))


def test_mask_is_broadcast():
    """A mask of fewer dimensions is broadcast to the logits."""
    value = ops.softmax(tf.zeros([2, 3]), mask=[True, False, True])
    np.testing.assert_allclose(value, [[0.5, 0, 0.5]] * 2)


@every_op
@pytest.mark.parametrize("mode", ["eager", "xla"])
def test_second_derivative(op, mode):
    """The gradient of the gradient is finite, where nothing is left too."""
    x = tf.constant([[-math.inf, -math.inf], [0.0, 1e4], [1.0, -2.0]])
    weight = tf.constant([[1.0, 3.0]])
    first = lambda x: with_gradients(lambda x: weight * along_last(op)(x)[..., None])(x)[1][0]  # noqa: E731
    if op is not ops.logsumexp:
        first = lambda x: with_gradients(lambda x: weight * op(x))(x)[1][0]  # noqa: E731
    _, second = run(first, x, mode)
    assert np.isfinite(second).all()
