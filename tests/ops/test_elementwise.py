"""What each elementwise op does at its edge, and what its keywords choose."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from numbers_of import DTYPES, is_finite, largest_slope, with_gradients

from nanguard import ops
from nanguard.intervals import float_format

L = largest_slope("float32")


def value_and_gradients(function, *operands):
    value, gradients = with_gradients(function)(*(tf.constant(operand, tf.float32) for operand in operands))
    return value.numpy().tolist(), [gradient.numpy().tolist() for gradient in gradients]


@pytest.mark.parametrize(
    ("op", "x", "zero", "straight"),
    [
        (ops.log, 0.0, 0, L),
        (ops.log, -5.0, 0, L),
        (ops.log2, 0.0, 0, L / math.log(2)),
        (ops.log10, 0.0, 0, L / math.log(10)),
        (ops.log1p, -1.0, 0, 2.0**24),
        (ops.exp, 1000.0, 0, L),
        (ops.expm1, 1000.0, 0, L),
        (ops.sqrt, 0.0, 0, L),
        (ops.sqrt, -1.0, 0, L),
        (ops.rsqrt, 0.0, 0, -L),
        (ops.acos, 2.0, 0, -2896.31),
        (ops.asin, -2.0, 0, 2896.31),
        (ops.acos, 1.0, -2896.31, -2896.31),
        (ops.asin, 1.0, 2896.31, 2896.31),
        (ops.atanh, 1.0, 0, 2.0**23),
        (ops.acosh, 0.5, 0, 4096),
        (ops.acosh, 1.0, 4096, 4096),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_gradient_at_the_clamp(op, x, zero, straight):
    """A clamped entry learns nothing, or what it would learn at the bound."""
    for choice, expected in (("zero", zero), ("straight_through", straight)):
        value, (gradient,) = value_and_gradients(lambda x, choice=choice: op(x, gradient=choice), x)
        assert math.isfinite(value)
        assert gradient == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "op", [ops.log, ops.log1p, ops.exp, ops.sqrt, ops.rsqrt, ops.acos, ops.atanh, ops.acosh, ops.erfinv, ops.ndtri]
)
def test_gradient_is_one_of_two(op):
    """Another choice is refused in one line."""
    with pytest.raises(ValueError, match=r"`gradient` must be one of zero, straight_through\. Received: gradient='no'"):
        op(1.0, gradient="no")
    with pytest.raises(ValueError, match="`gradient` must be"):
        ops.pow(1.0, 1.0, gradient="no")


@pytest.mark.parametrize("op", [ops.log, ops.log2, ops.log10, ops.log1p, ops.rsqrt, ops.reciprocal])
@pytest.mark.parametrize("floor", [0.0, -1.0, math.nan, math.inf])
def test_floor_is_positive(op, floor):
    """A floor that is not positive is refused in one line that says the way out."""
    with pytest.raises(ValueError, match=r"`floor` must be positive\. Received: floor=.*To use .*, leave it out\."):
        op(1.0, floor=floor)
    with pytest.raises(ValueError, match="`floor` must be positive"):
        ops.divide(1.0, 1.0, floor=floor)


@pytest.mark.parametrize("op", [ops.log, ops.log2, ops.log10, ops.log1p, ops.rsqrt, ops.reciprocal])
@pytest.mark.parametrize("dtype", DTYPES)
def test_floor_that_the_dtype_absorbs(op, dtype):
    """A floor of 1e-300, or one that is 0 in float16, is raised to what the dtype can tell from 0."""
    assert is_finite(op(tf.constant([0.0, -1.0], dtype), floor=1e-300).numpy()).all()


@pytest.mark.parametrize("op", [ops.log, ops.log2, ops.log10])
def test_floor_of_the_user(op):
    """The floor is the number that the logarithm is asked for below it."""
    np.testing.assert_allclose(op([0.0, 0.25, 0.5], floor=0.25), op([0.25, 0.25, 0.5]))


def test_divide():
    """A denominator below the floor gives the constant with no gradient, or counts as the floor."""
    value, gradients = value_and_gradients(ops.divide, [6.0, 1.0, 0.0, -1.0], [3.0, 0.0, 0.0, 1e-30])
    assert value == [2, 0, 0, 0]
    assert gradients[0] == pytest.approx([1 / 3, 0, 0, 0])
    assert gradients[1] == pytest.approx([-2 / 3, 0, 0, 0])
    otherwise = lambda x, y: ops.divide(x, y, floor=0.5, otherwise=-7.0)  # noqa: E731
    value, gradients = value_and_gradients(otherwise, [1.0, 1.0, 1.0], [0.5, 0.25, -0.25])
    assert value == [2, -7, -7]
    assert gradients == [[2, 0, 0], [-4, 0, 0]]
    measured = lambda x, y: ops.divide(x, y, floor=0.5, otherwise=None)  # noqa: E731
    value, gradients = value_and_gradients(measured, [1.0, 1.0, 1.0, 1.0], [0.5, 0.25, -0.25, 0.0])
    assert value == [2, 2, -2, 2]
    assert gradients == [[2, 2, -2, 2], [-4, 0, 0, 0]]


@pytest.mark.parametrize("otherwise", [0.0, 5.0, None])
def test_divide_keeps_nan(otherwise):
    """A NaN above or below the line stays, over a denominator of 0 too."""
    value = ops.divide([math.nan, math.nan, 1.0], [1.0, 0.0, math.nan], otherwise=otherwise)
    assert np.isnan(value).all()


def test_divide_cuts_overflow():
    """A quotient beyond the largest number is cut to it, and the slope to the largest whose square is finite."""
    value, gradients = value_and_gradients(ops.divide, [3e38, -3e38], [1e-10, 1e-10])
    assert value == [np.float32(np.finfo("float32").max), np.float32(np.finfo("float32").min)]
    assert gradients == [pytest.approx([1e10, 1e10]), [-L, L]]


def test_reciprocal():
    """Zero gives the constant, or the floor's reciprocal with the sign of the operand."""
    assert ops.reciprocal([2.0, 0.0, -1e-30]).numpy().tolist() == [0.5, 0, 0]
    assert ops.reciprocal([2.0, 0.0], otherwise=3.0).numpy().tolist() == [0.5, 3]
    assert ops.reciprocal([0.0, -0.1], floor=0.5, otherwise=None).numpy().tolist() == [2, -2]
    _, (gradient,) = value_and_gradients(lambda x: ops.reciprocal(x, floor=0.5, otherwise=None), [0.0, 1.0])
    assert gradient == [0, -1]


def test_pow():
    """Negative bases, zeros and overflows each have their rule."""
    value, gradients = value_and_gradients(
        ops.pow, [-2.0, -2.0, 0.0, 0.0, 0.0, 0.0, 1e30], [3.0, 0.5, 0.0, 0.5, 1.0, 2.0, 2.0]
    )
    assert value == [-8, 0, 1, 0, 0, 0, np.float32(np.finfo("float32").max)]
    assert gradients[0] == [12, 0, 0, 0, 1, 0, L]
    assert gradients[1] == [0, 0, 0, 0, 0, 0, L]
    value, (gradient,) = value_and_gradients(lambda x: ops.pow(x, -1.0), [0.0, -0.0, 1e-30, -1e-30, 2.0])
    assert value == pytest.approx([2.0**126, 2.0**126, 1e30, -1e30, 0.5])
    assert gradient == [0, 0, -L, -L, -0.25]
    _, (gradient,) = value_and_gradients(lambda x: ops.pow(x, 0.5, gradient="straight_through"), [0.0, -1.0, 4.0])
    assert gradient == [L, L, 0.25]
    assert ops.power is ops.pow


@pytest.mark.parametrize("exponent", [-0.5, tf.constant(-0.5)], ids=["number", "tensor"])
def test_pow_of_a_negative_base_to_a_negative_power(exponent):
    """A negative base under a root counts as 0, and that as the smallest normal number where it divides."""
    value = ops.pow([-0.5, -1e-30, 0.0], exponent)
    np.testing.assert_allclose(value, [float_format("float32").smallest_normal ** -0.5] * 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("op", "plain"),
    [
        (ops.log, tf.math.log),
        (ops.log2, keras.ops.log2),
        (ops.sqrt, tf.sqrt),
        (ops.rsqrt, tf.math.rsqrt),
        (ops.reciprocal, tf.math.reciprocal),
        (ops.divide, tf.divide),
        (ops.xlogy, tf.math.xlogy),
        (ops.pow, tf.pow),
        (lambda x: ops.pow(x, 2.0), lambda x: tf.pow(x, 2.0)),
        (lambda x: ops.pow(x, 0.5), lambda x: tf.pow(x, 0.5)),
        (lambda x: ops.pow(x, -1.5), lambda x: tf.pow(x, -1.5)),
        (ops.acos, tf.acos),
        (ops.asin, tf.asin),
        (ops.exp, tf.exp),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_gradient_from_above(op, plain):
    """Whatever the gradient that comes from above, what goes down is that of the plain op, bit for bit."""
    random = np.random.default_rng(3)
    num_operands = 2 if op in (ops.divide, ops.xlogy, ops.pow) else 1
    upstream = tf.constant(random.normal(0, 1e6, 4096), tf.float32)
    operands = [tf.constant(random.uniform(0.01, 1, 4096), tf.float32) for _ in range(num_operands)]
    value, gradients = with_gradients(op, upstream)(*operands)
    expected, expected_gradients = with_gradients(plain, upstream)(*operands)
    np.testing.assert_array_equal(value, expected)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_array_equal(gradient, expected_gradient)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exponent", [-2.5, -2, -1, -0.5, 0, 0.45, 0.5, 1, 1.5, 2, 3, 80.5])
def test_pow_of_a_number(dtype, exponent):
    """An exponent that is a plain number gives what a tensor of it gives."""
    x = tf.constant([0.0, 1e-30, 0.25, 1.0, 7.0, -0.5, -3.0, 1e4], dtype)
    value, (gradient,) = with_gradients(lambda x: ops.pow(x, exponent))(x)
    expected, (expected_gradient, _) = with_gradients(ops.pow)(x, tf.fill([8], tf.constant(exponent, dtype)))
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(gradient, expected_gradient)


def test_xlogy_is_zero_where_x_is():
    """As in tf.math.xlogy, 0 times the logarithm of anything is 0, and the entry learns nothing."""
    value, gradients = value_and_gradients(ops.xlogy, [0.0, 0.0, 0.0], [0.0, -1.0, math.nan])
    assert value == [0, 0, 0]
    assert gradients[0] == [0, 0, 0]


def test_atan2_at_the_origin():
    """The origin has no direction, and so no gradient; a large upstream gradient does not change that."""
    y, x = tf.constant([0.0, 1e-20, 1e-15]), tf.constant([0.0, -1e-20, 0.0])
    _, gradients = with_gradients(lambda y, x: 1e6 * ops.atan2(y, x))(y, x)
    np.testing.assert_allclose(gradients, [[0, 0, 0], [0, 0, -1e21]], rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_logcosh_is_accurate(dtype):
    """The value is right to some units of the last place, near 0 and far from it, and the gradient is tanh."""
    x = np.concatenate([np.geomspace(1e-3, 60, 4000), [0, 0.999, 1, 1.001]])
    x = np.concatenate([x, -x]).astype(tf.as_dtype(dtype).as_numpy_dtype)
    wide = np.abs(x.astype("longdouble") if dtype != "bfloat16" else x.astype("float64").astype("longdouble"))
    expected = np.log1p(2 * np.sinh(wide / 2) ** 2)
    value, (gradient,) = with_gradients(ops.logcosh)(tf.constant(x))
    error = np.abs(value.numpy().astype("float64") - expected.astype("float64"))
    assert (error <= 4 * float_format(dtype).eps * expected + float_format(dtype).smallest_normal).all()
    np.testing.assert_allclose(gradient.numpy().astype("f"), np.tanh(x.astype("f")), rtol=0.01, atol=1e-6)


def test_names_of_keras():
    """The names and keywords of keras.ops do as well as those of TensorFlow."""
    assert ops.arccos is ops.acos
    assert ops.arcsin is ops.asin
    assert ops.arctan2 is ops.atan2
    assert ops.arctanh is ops.atanh
    assert ops.arccosh is ops.acosh
    assert ops.logsigmoid is ops.log_sigmoid
    assert ops.divide(x1=1.0, x2=2.0) == 0.5
    assert ops.power(x1=2.0, x2=3.0) == 8
    np.testing.assert_allclose(ops.arctan2(x1=1.0, x2=-1.0), 0.75 * math.pi)
    np.testing.assert_allclose(ops.softplus(features=[0.0], name="soft"), math.log(2), rtol=1e-6)
