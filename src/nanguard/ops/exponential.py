"""Exponentials that cannot overflow, and the logarithms of sums of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from nanguard.hazards import EXP_OVERFLOW, LOG_OF_SATURATED_PROBABILITY
from nanguard.ops._bounds import ClampGradient, check_choice, format_of, largest_slope, next_above, pass_where_positive
from nanguard.ops._operation import TensorLike, cures, to_float

# By dtype, up to which `abs(x)` it holds, and `(log(cosh(x)) / (x**2 / 2) - 1) / x**2` in powers of `x**2`: the
# polynomial whose largest error is least there, 1e-8 of the logarithm in float32 and 1e-17 in float64.
_LOG_OF_COSH = {
    "float32": (
        1.1,
        (-0.166666659, 0.0444437898, -0.01348321, 0.00432797678, -0.00135975804, 0.000348500431, -4.89851197e-5),
    ),
    "float64": (
        0.8,
        (
            -0.16666666666666666,
            0.044444444444442496,
            -0.013492063491892414,
            0.0043738977013108926,
            -0.0014772058148509182,
            0.00051315999675083626,
            -0.00018197128849102977,
            6.5520981014346861e-5,
            -2.3790577458646933e-5,
            8.5323825481886916e-6,
            -2.832447150062353e-6,
            7.445547068606593e-7,
            -1.0889801431440979e-7,
        ),
    ),
}


@cures(EXP_OVERFLOW, replaces=("tf.exp", "keras.ops.exp", "tf.math.exp"))
def exp(x: TensorLike, *, gradient: ClampGradient = "straight_through") -> tf.Tensor:
    """Exponential that cannot overflow.

    Computes `exp(min(x, limit))`, where `limit` is the largest number whose exponential is finite. Up to there the
    value is exactly that of `tf.exp`. So is the gradient, `exp(x)`, while its square is finite: up to 43.6 in float32
    and bfloat16, 354 in float64. From there on it stays at that largest slope, 9.2e+18 in float32, and in float16 at
    16384 from 9.7 on.

    A NaN in `x` comes out as NaN; infinity gives the largest value.

    Args:
        x: Floating tensor, any shape.
        gradient: What an entry beyond the limit learns: "straight_through" for the largest slope, or "zero". Straight
            through is the default, since what has overflowed must be able to come back.

    Returns:
        Tensor of the shape and dtype of `x`; finite for any number.

    Example:

    >>> y = exp([0.0, 1000.0, float("nan")])
    >>> tf.math.is_finite(y).numpy()
    array([ True,  True, False])

    Cures:
        NG201 exp-overflow
    """
    return _exponential(tf.exp, x, gradient)


@cures(EXP_OVERFLOW, replaces=("tf.math.expm1", "keras.ops.expm1"))
def expm1(x: TensorLike, *, gradient: ClampGradient = "straight_through") -> tf.Tensor:
    """`exp(x) - 1`, accurate near 0, that cannot overflow.

    Computes `expm1(min(x, limit))`, where `limit` is the largest number whose exponential is finite. Up to there the
    value is exactly that of `tf.math.expm1`. Gradient and edges are those of `exp`.

    A NaN in `x` comes out as NaN; infinity gives the largest value.

    Args:
        x: Floating tensor, any shape.
        gradient: What an entry beyond the limit learns: "straight_through" for the largest slope, or "zero". Straight
            through is the default, as in `exp`.

    Returns:
        Tensor of the shape and dtype of `x`; finite for any number.

    Example:

    >>> tf.math.is_finite(expm1([1e-10, 1000.0])).numpy()
    array([ True,  True])

    Cures:
        NG201 exp-overflow
    """
    return _exponential(tf.math.expm1, x, gradient)


@cures(
    EXP_OVERFLOW,
    replaces=("tf.math.softplus", "tf.nn.softplus", "keras.ops.softplus"),
    aliases={"features": "x"},
)
def softplus(x: TensorLike) -> tf.Tensor:
    """`log(1 + exp(x))` without the overflow of writing it so.

    It is `tf.math.softplus`, which is finite in value and gradient for all finite numbers, given a place here since
    the formula written by hand is not. Its gradient is the sigmoid of `x`.

    A NaN in `x` comes out as NaN.

    Args:
        x: Floating tensor, any shape.

    Returns:
        Tensor of the shape and dtype of `x`.

    Example:

    >>> softplus([-1000.0, 0.0, 100.0]).numpy().round(3)
    array([  0.   ,   0.693, 100.   ], dtype=float32)

    Cures:
        NG201 exp-overflow
    """
    return tf.math.softplus(to_float(x))


@cures(
    EXP_OVERFLOW,
    LOG_OF_SATURATED_PROBABILITY,
    replaces=("tf.math.log_sigmoid", "keras.ops.log_sigmoid"),
)
def log_sigmoid(x: TensorLike) -> tf.Tensor:
    """`log(sigmoid(x))` of a logit, finite where the sigmoid rounds to 0.

    It is `tf.math.log_sigmoid`, given a place here since `log(tf.sigmoid(x))` is not finite below -88 and gives a
    confident mistake no gradient. Its gradient is `sigmoid(-x)`.

    A NaN in `x` comes out as NaN.

    Args:
        x: Floating tensor of logits, any shape. The logarithm of the other probability is `log_sigmoid(-x)`.

    Returns:
        Tensor of the shape and dtype of `x`, `<= 0`.

    Example:

    >>> log_sigmoid([-1000.0, 0.0]).numpy().round(3)
    array([-1.00e+03, -6.93e-01], dtype=float32)

    Cures:
        NG201 exp-overflow, NG103 log-of-saturated-probability
    """
    return tf.math.log_sigmoid(to_float(x))


@cures(EXP_OVERFLOW)
def logcosh(x: TensorLike) -> tf.Tensor:
    """`log(cosh(x))` without overflow, and accurate near 0.

    Like `x**2 / 2` near 0 and `abs(x) - log(2)` far from it, so a loss that forgives outliers. Computes a polynomial in
    `x**2` near 0, below 1.1 in float32, and `abs(x) - log(2) + log1p(exp(-2 * abs(x)))` elsewhere. The gradient is
    `tanh(x)`.

    A NaN in `x` comes out as NaN.

    Args:
        x: Floating tensor, any shape. In float16 and bfloat16 it is computed in float32.

    Returns:
        Tensor of the shape and dtype of `x`, `>= 0`; finite for finite `x`.

    Example:

    >>> logcosh([-1.0, 0.0, 1000.0]).numpy().round(3)
    array([4.34000e-01, 0.00000e+00, 9.99307e+02], dtype=float32)

    Cures:
        NG201 exp-overflow
    """
    x = to_float(x)
    wide = tf.cast(x, tf.float32) if x.dtype.size == 2 else x

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def measured(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        return log_of_cosh(x), lambda upstream: upstream * tf.tanh(x)

    return tf.cast(measured(wide), x.dtype)


logsigmoid = log_sigmoid
"""`log_sigmoid` under a name that Keras had for it."""


def log_of_cosh(x: tf.Tensor) -> tf.Tensor:
    """Gives `log(cosh(x))` of float32 or float64; its gradient is for the caller to define."""
    # No log1p of cosh(x) - 1: TensorFlow's log1p is off by 4 ulp in float32 and 3 in float64.
    limit, factors = _LOG_OF_COSH[x.dtype.name]
    size, square = tf.abs(x), tf.square(x)
    half = 0.5 * square
    near = half + half * (square * _polynomial(square, factors))
    far = (size - math.log(2)) + tf.math.log1p(tf.exp(-2 * size))
    return tf.where(size < limit, near, far)


def _polynomial(x: tf.Tensor, factors: Sequence[float]) -> tf.Tensor:
    """Gives `factors[0] + factors[1] * x + factors[2] * x**2 + ...`."""
    total = tf.constant(factors[-1], x.dtype)
    for factor in reversed(factors[:-1]):
        total = total * x + tf.constant(factor, x.dtype)
    return total


def _exponential(plain: Callable[[tf.Tensor], tf.Tensor], x: TensorLike, gradient: ClampGradient) -> tf.Tensor:
    check_choice("gradient", gradient, ("zero", "straight_through"))
    x = to_float(x)
    limit = tf.constant(format_of(x).exp_limit, x.dtype)
    steepest = tf.constant(largest_slope(x), x.dtype)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def exponential(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        clamped = tf.minimum(x, limit)
        y = plain(clamped)

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            slope = y if plain is tf.exp else tf.exp(clamped)
            upstream = upstream * tf.minimum(slope, steepest)
            if gradient == "zero":
                upstream = pass_where_positive(upstream, next_above(format_of(x).exp_limit, x.dtype) - x)
            return upstream

        return y, backward

    return exponential(x)
