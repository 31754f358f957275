"""Lengths, directions and distances of vectors, at zero, beyond the range of squares and between equal points."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from numbers_of import DTYPES, MODES, in_mode, largest_slope, widened, with_gradients
from vectors import assert_adam_survives, assert_finite, vectors

from nanguard import ops
from nanguard.intervals import float_format

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_mode = pytest.mark.parametrize("mode", MODES)

OPS = {
    "euclidean": lambda x: ops.norm(x, axis=-1),
    "one": lambda x: ops.norm(x, 1, axis=-1),
    "inf": lambda x: ops.norm(x, np.inf, axis=-1),
    "three": lambda x: ops.norm(x, 3, axis=-1),
    "half": lambda x: ops.norm(x, 0.5, axis=-1),
    "l2_normalize": lambda x: ops.l2_normalize(x, -1),
    "l2_normalize_bare": lambda x: ops.l2_normalize(x, -1, epsilon=0.0),
}
METRICS = ("euclidean", "squared_euclidean", "manhattan", "cosine")
METHODS = ("product", "difference")

every_op = pytest.mark.parametrize("name", OPS)
every_metric = pytest.mark.parametrize("metric", METRICS)
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.mark.one_in(2)
@every_op
@every_dtype
@every_mode
def test_finite(name, dtype, mode):
    """Finite vectors have finite norms and directions, and slopes whose squares are finite."""
    # The gradient of a direction is summed over the elements that it moves.
    assert_finite(OPS[name], dtype, mode, vectors(dtype), share=4 if "normalize" in name else 1)


@every_dtype
@every_mode
def test_cosine_similarity_is_finite(dtype, mode):
    """The cosine of any two vectors lies in [-1, 1] and has bounded slopes."""
    x = vectors(dtype)
    y = np.random.default_rng(0).permutation(x)
    value, _ = assert_finite(ops.cosine_similarity, dtype, mode, x, y, share=2)
    assert np.abs(widened(value.numpy())).max() <= 1


@every_op
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adam(name, dtype):
    """An Adam step with the gradient leaves finite weights, and so does the next."""
    assert_adam_survives(OPS[name], vectors(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 1), [1, 2]])
def test_value_is_the_plain_one(dtype, axis):
    """Values are those of the plain ops, bit for bit, and so is the gradient of the Euclidean norm."""
    x = tf.constant(np.random.default_rng(1).normal(0, 2, (7, 40, 5)), dtype)
    orders = ("euclidean", 1, np.inf) if np.ndim(axis) == 1 else ("euclidean", 1, 2, np.inf, 3, 1.5)
    for ord in orders:
        ours = with_gradients(lambda x, ord=ord: ops.norm(x, ord, axis))(x)
        plain = with_gradients(lambda x, ord=ord: tf.norm(x, ord, axis))(x)
        assert np.array_equal(ours[0], plain[0])
        tolerance = 0 if ord in ("euclidean", 1, 2, np.inf) else 16 * float_format(dtype).eps
        assert np.abs(ours[1][0] - plain[1][0]).max() <= tolerance * np.abs(plain[1][0]).max()
    ours, plain = (with_gradients(lambda x, op=op: op(x, axis))(x) for op in (ops.l2_normalize, tf.math.l2_normalize))
    assert np.array_equal(ours[0], plain[0])
    assert np.allclose(ours[1][0], plain[1][0], rtol=1e-4, atol=16 * float_format(dtype).eps)


@every_dtype
@every_mode
def test_beyond_the_range_of_squares(dtype, mode):
    """A norm is right and has a gradient where the squares overflow or vanish."""
    limits = float_format(dtype)
    for size in (2 * limits.square_limit, limits.max / 32, limits.smallest_normal * 8):
        # In float16, which goes to float32, the smallest numbers have fewer digits.
        value, (gradient,) = in_mode(with_gradients(ops.norm), mode)(tf.constant([3 * size, 4 * size], dtype))
        assert np.isclose(float(value), 5 * size, rtol=4 * limits.eps)
        assert np.allclose(widened(gradient.numpy()), [0.6, 0.8], rtol=4 * limits.eps)
        direction = ops.l2_normalize(tf.constant([3 * size, 4 * size], dtype))
        if size > 1:
            assert np.allclose(widened(direction.numpy()), [0.6, 0.8], rtol=4 * limits.eps)


@every_mode
def test_gradient_penalty(mode):
    """The second derivative of a norm, which a gradient penalty takes, is that of the formula, and 0 at 0."""

    def penalty(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            gradient = with_gradients(lambda x: ops.norm(x, axis=-1))(x)[1][0]
            y = tf.reduce_sum(gradient * [[1.0, 2.0]])
        return outer.gradient(y, x)

    found = in_mode(penalty, mode)(tf.constant([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0], [1e30, 0.0]]))
    unit, upstream = np.array([0.6, 0.8]), np.array([1.0, 2.0])
    assert np.allclose(found[0], (upstream - unit * (unit @ upstream)) / 5, rtol=1e-6)
    assert found.numpy()[1].tolist() == [0, 0]
    assert np.abs(found[2]).max() <= 2 * largest_slope("float32")
    assert np.isfinite(found).all()


def test_norm_of_norm_in_wgan():
    """A critic whose gradient is 0 has a gradient penalty with a finite gradient."""
    w, x = tf.zeros([2, 1]), tf.ones([4, 2])
    with tf.GradientTape() as outer:
        outer.watch(w)
        with tf.GradientTape() as inner:
            inner.watch(x)
            score = x @ w
        slope = ops.norm(inner.gradient(score, x), axis=1)
        penalty = tf.reduce_mean((slope - 1.0) ** 2)
    assert outer.gradient(penalty, w).numpy().tolist() == [[0], [0]]


@every_op
@every_dtype
def test_nan_stays(name, dtype):
    """A NaN makes its vector NaN, value and gradient, and no other."""
    x = tf.constant([[1, 2, 3, np.nan], [1, 2, 3, 4]], dtype)
    value, (gradient,) = with_gradients(OPS[name])(x)
    value, gradient = widened(value.numpy()), widened(gradient.numpy())
    assert np.isnan(value[0]).all()
    assert np.isnan(gradient[0]).any()
    assert np.isfinite(value[1]).all()
    assert np.isfinite(gradient[1]).all()


@every_mode
def test_empty_vectors(mode):
    """The norm of no numbers is 0."""
    for ord in ("euclidean", 1, np.inf, 3):
        value, (gradient,) = in_mode(with_gradients(lambda x, ord=ord: ops.norm(x, ord, axis=1)), mode)(
            tf.zeros([2, 0])
        )
        assert value.numpy().tolist() == [0, 0]
        assert gradient.shape == (2, 0)
    assert ops.norm(tf.zeros([0, 3]), axis=1).shape == (0,)
    assert ops.l2_normalize(tf.zeros([2, 0]), 1).shape == (2, 0)


def test_epsilon_of_float16():
    """In float16, where 1e-12 is 0, the zero vector still has a direction of 0."""
    assert np.isnan(tf.math.l2_normalize(tf.zeros([2], tf.float16))).all()
    assert ops.l2_normalize(tf.zeros([2], tf.float16)).numpy().tolist() == [0, 0]


@pytest.mark.parametrize(("ord", "axis"), [("nuc", None), (0, -1), (-1, 0), (2, (0, 1)), (3, (0, 1)), ("max", 0)])
def test_orders_that_there_are_not(ord, axis):
    """An order that is not offered for these axes is a clear error."""
    with pytest.raises(ValueError, match=r"`ord` must be .* Received: ord="):
        ops.norm(tf.ones([2, 2]), ord, axis)


@pytest.mark.parametrize("epsilon", [-1.0, np.nan, np.inf])
def test_epsilons_that_there_are_not(epsilon):
    """An epsilon must be a number that is not negative."""
    with pytest.raises(ValueError, match="`epsilon` must be 0 or positive"):
        ops.l2_normalize([1.0], epsilon=epsilon)


@pytest.mark.one_in(2)
@every_metric
@every_method
@every_dtype
@every_mode
def test_distances_are_finite(metric, method, dtype, mode):
    """Distances between any points are finite and not negative, and so are their gradients."""
    points = np.random.default_rng(0).permutation(vectors(dtype))[:24].astype("float64")
    points = np.concatenate([points, points[:4], np.zeros((2, 4))])
    share = 4 * len(points)
    value, _ = assert_finite(
        lambda x: ops.pairwise_distances(x, metric=metric, method=method), dtype, mode, points, share=share
    )
    assert widened(value.numpy()).min() >= 0


@every_metric
@every_method
def test_distances(metric, method):
    """Distances and their gradients are those of a loop over all pairs."""
    random = np.random.default_rng(5)
    x, y = random.normal(5, 1, (6, 20)), random.normal(5, 1, (4, 20))
    differences = x[:, None] - y
    expected = {
        "euclidean": np.sqrt((differences**2).sum(-1)),
        "squared_euclidean": (differences**2).sum(-1),
        "manhattan": np.abs(differences).sum(-1),
        "cosine": 1 - x @ y.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1),
    }[metric]
    found, gradients = with_gradients(lambda x, y: ops.pairwise_distances(x, y, metric=metric, method=method))(
        tf.constant(x), tf.constant(y)
    )
    assert np.allclose(found, expected, rtol=1e-12, atol=1e-14)
    for i, (operand, gradient) in enumerate(zip((x, y), gradients, strict=True)):
        nudge = np.zeros_like(operand)
        nudge[1, 3] = 1e-6
        operands = [[x, y], [x, y]]
        operands[0][i], operands[1][i] = operand - nudge, operand + nudge
        low, high = (tf.reduce_sum(ops.pairwise_distances(*pair, metric=metric, method=method)) for pair in operands)
        assert np.isclose(gradient[1, 3], (high - low) / 2e-6, rtol=1e-6)


@every_method
@pytest.mark.parametrize("num", [1, 3, 64, 1024])
def test_equal_points(num, method):
    """Equal points are at distance 0 with gradient 0, and batches are kept apart."""
    points = np.random.default_rng(6).normal(3, 1, (2, 5, num)).astype("float32")
    points = np.concatenate([points, points], 1)
    value, (gradient,) = with_gradients(lambda x: ops.pairwise_distances(x, method=method))(tf.constant(points))
    assert value.shape == (2, 10, 10)
    assert all(value[:, i, i + 5].numpy().tolist() == [0, 0] for i in range(5))
    assert np.abs(tf.linalg.diag_part(value)).max() == 0
    assert np.isfinite(gradient).all()
    alone = ops.pairwise_distances(points[0], method=method)
    assert np.allclose(value[0], alone, rtol=1e-3, atol=1e-3)


def test_a_nan_keeps_to_its_point():
    """A point with a NaN has NaN distances; those between other points are as without it."""
    points = tf.constant([[np.nan, 0.0], [0.0, 0.0], [3.0, 4.0]])
    value = ops.pairwise_distances(points).numpy()
    assert np.isnan(value[0]).all()
    assert np.isnan(value[:, 0]).all()
    assert value[1:, 1:].tolist() == [[0, 5], [5, 0]]


def test_batches_of_points_do_not_share_a_unit():
    """Points near 1 keep their distances beside others in the batch near the end of the range."""
    points = np.array([[[0.0, 0.0], [3.0, 4.0]], [[0.0, 0.0], [3e38, 0.0]]], "float32")
    assert ops.pairwise_distances(points).numpy()[0].tolist() == [[0, 5], [5, 0]]
    value, gradients = with_gradients(ops.pairwise_distances)(tf.constant(points[0]), tf.constant(points))
    assert value.shape == (2, 2, 2)
    assert gradients[0].shape == (2, 2)
