"""Logarithms of what may be 0."""

from __future__ import annotations

import math

import tensorflow as tf

from nanguard.hazards import (
    LOG1P_AT_OR_BELOW_MINUS_ONE,
    LOG_GRADIENT_AT_ZERO,
    LOG_OF_NEGATIVE,
    LOG_OF_NONPOSITIVE,
    LOG_OF_SATURATED_PROBABILITY,
)
from nanguard.ops._bounds import (
    ClampGradient,
    bounded,
    check_choice,
    check_positive,
    clamp,
    format_of,
    largest_slope,
    reduce_to_shape_of,
)
from nanguard.ops._operation import TensorLike, cures, to_float, to_floats

_OWN_FLOOR = "the square root of the dtype's smallest normal number"


@cures(LOG_OF_NONPOSITIVE, LOG_OF_NEGATIVE, LOG_GRADIENT_AT_ZERO, replaces=("tf.math.log", "keras.ops.log"))
def log(x: TensorLike, *, floor: float | None = None, gradient: ClampGradient = "zero") -> tf.Tensor:
    """Natural logarithm that stays finite at and below zero.

    Computes `log(max(x, floor))`. From `floor` upwards, value and gradient are exactly those of `tf.math.log`. Below
    it the value is `log(floor)` and the gradient is 0: a clamped entry neither blows up nor learns.

    A NaN in `x` comes out as NaN. A cure treats its own hazard and hides no other.

    Args:
        x: Floating tensor, any shape. Meant for `x >= 0`, such as probabilities.
        floor: Smallest number that the logarithm is asked for, `> 0`. Defaults to 1.1e-19 in float32 and bfloat16,
            1.5e-154 in float64 (the square root of the smallest normal number, so that the gradient's square is
            finite too), and 6.1e-05 in float16. A floor below the dtype's smallest normal number, which kernels read
            as 0, is raised to it.
        gradient: What an entry below `floor` learns: "zero", or "straight_through" for `1 / floor`, which lets it
            come back but is large. Zero is the default since an entry that is 0 mostly means that nothing is there.

    Returns:
        Tensor of the shape and dtype of `x`; finite for finite `x`.

    Raises:
        ValueError: If `floor` is not positive.

    Example:

    >>> log([1.0, 0.0, float("nan")]).numpy().round(3)
    array([  0.   , -43.668,     nan], dtype=float32)

    Cures:
        NG101 log-of-nonpositive, NG102 log-of-negative, NG307 log-gradient-at-zero

    References:
        Higham, *Accuracy and Stability of Numerical Algorithms*, SIAM 2002, §2.1.
    """
    x = to_float(x)
    return tf.math.log(_at_least_floor(x, floor, gradient))


@cures(LOG_OF_NONPOSITIVE, LOG_OF_NEGATIVE, LOG_GRADIENT_AT_ZERO, replaces=("keras.ops.log2",))
def log2(x: TensorLike, *, floor: float | None = None, gradient: ClampGradient = "zero") -> tf.Tensor:
    """Logarithm to base 2 that stays finite at and below zero.

    Computes `log(max(x, floor)) / log(2)`, as `keras.ops.log2` does for `max(x, floor)`. Edges, NaN and gradient are
    those of `log`.

    Args:
        x: Floating tensor, any shape. Meant for `x >= 0`.
        floor: See `log`.
        gradient: See `log`.

    Returns:
        Tensor of the shape and dtype of `x`; finite for finite `x`.

    Raises:
        ValueError: If `floor` is not positive.

    Example:

    >>> log2([8.0, 0.0]).numpy().round(3)
    array([  3., -63.], dtype=float32)

    Cures:
        NG101 log-of-nonpositive, NG102 log-of-negative, NG307 log-gradient-at-zero
    """
    x = to_float(x)
    return tf.math.log(_at_least_floor(x, floor, gradient)) / tf.constant(math.log(2), x.dtype)


@cures(LOG_OF_NONPOSITIVE, LOG_OF_NEGATIVE, LOG_GRADIENT_AT_ZERO, replaces=("keras.ops.log10",))
def log10(x: TensorLike, *, floor: float | None = None, gradient: ClampGradient = "zero") -> tf.Tensor:
    """Logarithm to base 10 that stays finite at and below zero.

    Computes `log(max(x, floor)) / log(10)`, as `keras.ops.log10` does for `max(x, floor)`. Edges, NaN and gradient are
    those of `log`.

    Args:
        x: Floating tensor, any shape. Meant for `x >= 0`.
        floor: See `log`.
        gradient: See `log`.

    Returns:
        Tensor of the shape and dtype of `x`; finite for finite `x`.

    Raises:
        ValueError: If `floor` is not positive.

    Example:

    >>> log10([10.0, 0.0]).numpy().round(3)
    array([  1.   , -18.965], dtype=float32)

    Cures:
        NG101 log-of-nonpositive, NG102 log-of-negative, NG307 log-gradient-at-zero
    """
    x = to_float(x)
    return tf.math.log(_at_least_floor(x, floor, gradient)) / tf.constant(math.log(10), x.dtype)


@cures(
    LOG1P_AT_OR_BELOW_MINUS_ONE,
    LOG_OF_SATURATED_PROBABILITY,
    LOG_GRADIENT_AT_ZERO,
    replaces=("tf.math.log1p", "keras.ops.log1p"),
)
def log1p(x: TensorLike, *, floor: float | None = None, gradient: ClampGradient = "zero") -> tf.Tensor:
    """`log(1 + x)`, accurate near 0, that stays finite at and below -1.

    Computes `log1p(max(x, floor - 1))`. From there upwards, value and gradient are exactly those of `tf.math.log1p`;
    below it the value is `log(floor)` and the gradient is 0.

    A NaN in `x` comes out as NaN.

    Args:
        x: Floating tensor, any shape. Meant for `x >= -1`, such as `-p` for a probability `p`.
        floor: Smallest `1 + x` that the logarithm is asked for, `> 0`. Defaults to the gap between the numbers around
            -1, which is the smallest that `1 + x` can be: 6.0e-08 in float32, 1.1e-16 in float64, 0.0005 in float16,
            0.004 in bfloat16. A smaller one is raised to that.
        gradient: What an entry below learns: "zero", or "straight_through" for `1 / floor`. Zero is the default, as in
            `log`.

    Returns:
        Tensor of the shape and dtype of `x`; finite for finite `x`.

    Raises:
        ValueError: If `floor` is not positive.

    Example:

    >>> log1p([0.0, -1.0, -2.0]).numpy().round(3)
    array([  0.   , -16.636, -16.636], dtype=float32)

    Cures:
        NG104 log1p-at-or-below-minus-one, NG103 log-of-saturated-probability, NG307 log-gradient-at-zero

    References:
        Higham, *Accuracy and Stability of Numerical Algorithms*, SIAM 2002, §1.14.1.
    """
    check_positive("floor", floor, "the gap between the numbers around -1")
    check_choice("gradient", gradient, ("zero", "straight_through"))
    x = to_float(x)
    # Numbers between -1 and -0.5 lie half an eps apart.
    low = max(floor or 0.0, format_of(x).eps / 2) - 1
    return tf.math.log1p(clamp(x, low=low, gradient=gradient))


@cures(
    LOG_OF_NONPOSITIVE,
    LOG_OF_NEGATIVE,
    LOG_GRADIENT_AT_ZERO,
    replaces=("tf.math.xlogy",),
    operands=2,
)
def xlogy(x: TensorLike, y: TensorLike, *, floor: float | None = None, gradient: ClampGradient = "zero") -> tf.Tensor:
    """`x * log(y)`, and 0 where `x` is 0, that stays finite at and below `y = 0`.

    Computes `xlogy(x, max(y, floor))`. From `floor` upwards, value and gradient are those of `tf.math.xlogy`. Below it
    the gradient with respect to `y` is 0. A product beyond the dtype's largest number is cut to it, and the slope
    `x / y` to `1 / floor` of the default floor.

    A NaN comes out as NaN, except that, as in `tf.math.xlogy`, the result is 0 where `x` is 0 whatever `y` is.

    Args:
        x: Floating tensor, any shape.
        y: Floating tensor whose shape can be broadcast with that of `x`. Meant for `y >= 0`.
        floor: Smallest number that the logarithm is asked for. See `log`.
        gradient: What an entry of `y` below `floor` learns: "zero", or "straight_through" for `x / floor`. Zero is the
            default, as in `log`.

    Returns:
        Tensor of the broadcast shape and the promoted dtype; finite for finite operands.

    Raises:
        ValueError: If `floor` is not positive.

    Example:

    >>> xlogy([0.0, 1.0, 2.0], [0.0, 0.0, 1.0]).numpy().round(3)
    array([  0.   , -43.668,   0.   ], dtype=float32)

    Cures:
        NG101 log-of-nonpositive, NG102 log-of-negative, NG307 log-gradient-at-zero
    """
    x, y = to_floats(x, y)
    limit, largest = format_of(x).max, largest_slope(x)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def product(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, object]:
        # Kept for the gradient, where tf.math.xlogy takes it a second time.
        logarithm = tf.math.log(y)

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            is_counted = tf.cast(tf.not_equal(x, 0), x.dtype)
            x_gradient = tf.math.multiply_no_nan(logarithm, is_counted) * upstream
            y_gradient = bounded(tf.math.xdivy(x, y), largest) * upstream
            return reduce_to_shape_of(x_gradient, x), reduce_to_shape_of(y_gradient, y)

        return bounded(tf.math.multiply_no_nan(logarithm, x), limit), backward

    return product(x, _at_least_floor(y, floor, gradient))


def _at_least_floor(x: tf.Tensor, floor: float | None, gradient: ClampGradient) -> tf.Tensor:
    check_positive("floor", floor, _OWN_FLOOR)
    check_choice("gradient", gradient, ("zero", "straight_through"))
    limits = format_of(x)
    # A floor of 1e-8 is 0 in float16.
    return clamp(x, low=max(floor or limits.floor, limits.smallest_normal), gradient=gradient)
