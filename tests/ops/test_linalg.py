"""Factors of matrices that are singular, indefinite, huge or have equal eigenvalues."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
from numbers_of import DTYPES, MODES, in_mode, largest_slope, widened
from vectors import assert_adam_survives, assert_finite

from nanguard import ops
from nanguard.intervals import float_format

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_mode = pytest.mark.parametrize("mode", MODES)

OPS = {
    "cholesky": (ops.cholesky, tf.linalg.cholesky),
    "logdet": (ops.logdet, tf.linalg.logdet),
    "eigh": (ops.eigh, tf.linalg.eigh),
    "svd": (ops.svd, tf.linalg.svd),
    "svd_values": (functools.partial(ops.svd, compute_uv=False), functools.partial(tf.linalg.svd, compute_uv=False)),
}
every_op = pytest.mark.parametrize("name", OPS)


def matrices(dtype):
    """Singular, indefinite, zero, tiny and huge symmetric matrices, and such with equal and near eigenvalues."""
    largest, tiny = float_format(dtype).max, float_format(dtype).smallest_normal
    ones, signs = np.ones((3, 3)), np.array([[1, -1, 1], [-1, -1, 1], [1, 1, -1]])
    found = [np.eye(3), np.zeros((3, 3)), ones, -np.eye(3), signs, np.diag([1, 1, 2]), np.diag([1, 1 + 2e-7, 2])]
    found += [
        matrix * size for matrix in (np.eye(3), ones, signs, np.diag([1, 1, 0.5])) for size in (largest, -largest)
    ]
    found += [matrix * size for matrix in (np.eye(3), ones, signs) for size in (tiny, tiny / 2, largest / 1e4)]
    found += [np.diag([1, tiny, 1e-20]), np.diag([1e-10, 2e-10, 0]), [[1, 1e-10, 0], [1e-10, 1e-20, 0], [0, 0, tiny]]]
    return np.stack(found)


@pytest.mark.one_in(2)
@every_op
@every_dtype
@every_mode
def test_finite(name, dtype, mode):
    """Any finite matrices have finite factors, and gradients whose squares are finite."""
    assert_finite(OPS[name][0], dtype, mode, matrices(dtype))


@pytest.mark.parametrize("name", ["cholesky", "logdet", "svd_values"])
def test_adam(name):
    """An Adam step with the gradient leaves finite weights, and so does the next."""
    assert_adam_survives(OPS[name][0], matrices("float32").astype("float32"))


@every_op
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_value_is_the_plain_one(name, dtype):
    """Positive definite matrices have the plain results, bit for bit, and the plain gradients."""
    root = np.random.default_rng(0).normal(size=(4, 5, 5))
    x = tf.constant(root @ root.transpose(0, 2, 1) + np.eye(5), dtype)
    results = []
    for function in OPS[name]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.nest.flatten(function(x))
            size = tf.add_n([tf.reduce_sum(value * tf.cast(tf.range(value.shape[-1]), dtype)) for value in y])
        results.append((y, tape.gradient(size, x)))
    (ours, gradient), (plain, plain_gradient) = results
    assert all(np.array_equal(a, b) for a, b in zip(ours, plain, strict=True))
    assert np.allclose(gradient, plain_gradient, rtol=1e-4, atol=1e-4)


@every_op
@every_mode
def test_nan_stays(name, mode):
    """A NaN makes the results of its matrix NaN, and of no other; nothing stops."""
    x = tf.constant(np.stack([np.diag([1, np.nan, 1]), np.eye(3)]).astype("float32"))

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.nest.flatten(OPS[name][0](x))
        return y, tape.gradient(y, x)

    values, gradient = in_mode(run, mode)(x)
    assert all(np.isnan(value[0]).any() for value in values)
    assert all(np.isfinite(value[1]).all() for value in values)
    assert np.isnan(gradient[0]).any()
    assert np.isfinite(gradient[1]).all()


@every_mode
def test_least_jitter(mode):
    """The jitter is the smallest of the ladder that succeeds, for each matrix by itself."""
    x = np.stack([np.eye(2), np.ones((2, 2)), np.diag([1.0, -0.5])]).astype("float32")
    factor = in_mode(functools.partial(ops.cholesky, jitter=1e-6), mode)(tf.constant(x)).numpy()
    added = np.diagonal(factor @ factor.transpose(0, 2, 1) - x, axis1=1, axis2=2)
    assert added[0].tolist() == [0, 0]
    assert np.allclose(added[1], 2e-6, rtol=0.2)
    assert np.allclose(added[2], 1.0, rtol=1e-5)


def test_jitter_must_be_positive():
    """A jitter that adds nothing is a clear error."""
    for jitter in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="`jitter` must be positive"):
            ops.cholesky([[1.0]], jitter=jitter)


@pytest.mark.parametrize("op", [ops.cholesky, ops.logdet])
@every_mode
def test_second_derivative(op, mode):
    """The second derivative is finite for singular and indefinite matrices."""

    def second(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = op(x)
            gradient = inner.gradient(y, x)
        return outer.gradient(gradient, x)

    x = tf.constant(np.stack([np.eye(3), np.ones((3, 3)), -np.eye(3), np.zeros((3, 3))]).astype("float32"))
    assert np.isfinite(in_mode(second, mode)(x)).all()


def test_shapes():
    """Batches, wide matrices, empty batches and unknown shapes work."""
    assert ops.cholesky(tf.eye(3, batch_shape=[2, 4])).shape == (2, 4, 3, 3)
    assert ops.cholesky(tf.zeros([0, 3, 3])).shape == (0, 3, 3)
    values, left, right = ops.svd(np.ones((2, 3, 4), "float16"))
    assert (values.shape, left.shape, right.shape) == ((2, 3), (2, 3, 3), (2, 4, 3))
    assert values.dtype == "float16"
    unknown = tf.function(ops.cholesky, input_signature=[tf.TensorSpec(None)], autograph=False)
    assert np.array_equal(unknown(np.eye(3, dtype="float32")), np.eye(3))
    assert ops.svd(tensor=np.ones((3, 2), "float32"), compute_uv=False).shape == (2,)


def test_largest_slope_at_near_eigenvalues():
    """The slopes of eigenvectors between near eigenvalues stay far below the bound."""
    x = tf.constant(np.diag([1, 1 + 2e-7, 2]), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ops.eigh(x)[1]
    assert np.abs(widened(tape.gradient(y, x).numpy())).max() < 1e-9 * largest_slope("float32")
