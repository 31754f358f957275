"""Quotients, roots and powers of what may be 0 or negative."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from nanguard.hazards import (
    ARITHMETIC_OVERFLOW,
    DIVISION_BY_ZERO,
    DIVISION_GRADIENT_AT_ZERO,
    GRADIENT_OVERFLOW,
    POW_GRADIENT_AT_ZERO,
    POW_OF_NEGATIVE_BASE,
    POW_OF_ZERO_TO_NEGATIVE_POWER,
    RSQRT_OF_ZERO,
    SQRT_GRADIENT_AT_ZERO,
    SQRT_OF_NEGATIVE,
)
from nanguard.ops._bounds import (
    ClampGradient,
    bounded,
    check_choice,
    check_positive,
    clipped,
    format_of,
    largest_slope,
    next_below,
    pass_where_positive,
    reduce_to_shape_of,
)
from nanguard.ops._operation import TensorLike, cures, to_float, to_floats


@cures(
    DIVISION_BY_ZERO,
    DIVISION_GRADIENT_AT_ZERO,
    ARITHMETIC_OVERFLOW,
    replaces=("tf.divide", "keras.ops.divide", "tf.math.divide_no_nan"),
    operands=2,
    aliases={"x1": "x", "x2": "y"},
)
def divide(x: TensorLike, y: TensorLike, *, floor: float | None = None, otherwise: float | None = 0.0) -> tf.Tensor:
    """Quotient that stays finite where the denominator is 0.

    Computes `x / y` where `abs(y) >= floor`, with value and gradient of `tf.divide`, and gives `otherwise` elsewhere,
    with gradient 0: a denominator of 0 says that nothing is there. A quotient beyond the dtype's largest number is cut
    to it, and the slope `-x / y**2` to the largest whose square is finite, 9.2e+18 in float32.

    A NaN in `x` or `y` comes out as NaN. An infinity over a denominator below `floor` gives NaN.

    Args:
        x: Floating tensor, any shape.
        y: Floating tensor whose shape can be broadcast with that of `x`.
        floor: Smallest size of a denominator, `> 0`. Defaults to 1.1e-19 in float32 and bfloat16, 1.5e-154 in float64
            (the square root of the smallest normal number, so that the gradient's square is finite too), and 6.1e-05
            in float16.
        otherwise: Value where the denominator is smaller. Defaults to 0, the mean of nothing. None divides by `floor`
            with the sign of `y` instead, which suits a denominator that is a measure and not a count; the gradient
            with respect to `y` is 0 there.

    Returns:
        Tensor of the broadcast shape and the promoted dtype; finite for finite operands.

    Raises:
        ValueError: If `floor` is not positive.

    Example:

    >>> divide([1.0, 1.0, 0.0], [4.0, 0.0, 0.0]).numpy()
    array([0.25, 0.  , 0.  ], dtype=float32)
    >>> divide(1.0, [2.0, 1e-9, 0.0], floor=0.25, otherwise=None).numpy()
    array([0.5, 4. , 4. ], dtype=float32)

    Cures:
        NG105 division-by-zero, NG308 division-gradient-at-zero, NG202 arithmetic-overflow
    """
    x, y = to_floats(x, y)
    low, limit, steepest = _floor(y, floor), format_of(x).max, largest_slope(x)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def quotient(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, object]:
        is_small = tf.abs(y) < low
        # Over infinity every finite number is 0, and so are both slopes: no further mask is needed.
        y = tf.where(is_small, _away_from_zero(y, low) if otherwise is None else _infinity(y), y)
        ratio = bounded(x / y, limit)

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            y_gradient = -(upstream * bounded(ratio / y, steepest))
            if otherwise is None:
                y_gradient = tf.where(is_small, _zero(y), y_gradient)
            return reduce_to_shape_of(upstream / y, x), reduce_to_shape_of(y_gradient, y)

        if otherwise:
            # Added, not selected: a NaN of the numerator stays.
            return ratio + tf.where(is_small, tf.constant(otherwise, x.dtype), _zero(x)), backward
        return ratio, backward

    return quotient(x, y)


@cures(
    DIVISION_BY_ZERO,
    DIVISION_GRADIENT_AT_ZERO,
    replaces=("tf.math.reciprocal", "keras.ops.reciprocal", "tf.math.reciprocal_no_nan"),
)
def reciprocal(x: TensorLike, *, floor: float | None = None, otherwise: float | None = 0.0) -> tf.Tensor:
    """`1 / x` that stays finite where `x` is 0.

    Computes `1 / x` where `abs(x) >= floor`, with the value of `tf.math.reciprocal`, and gives `otherwise` elsewhere,
    with gradient 0. The gradient is that of `tf.math.reciprocal` while the square of the slope `-1 / x**2` is finite,
    from 3.3e-10 on in float32 and 0.0079 in float16; nearer to 0 the slope stays at its largest.

    A NaN in `x` comes out as NaN; infinity gives 0.

    Args:
        x: Floating tensor, any shape.
        floor: Smallest size of a denominator, `> 0`. See `divide`.
        otherwise: Value where `x` is smaller. Defaults to 0, as in `divide`. None gives `1 / floor` with the sign of
            `x`, and the gradient is 0 there too.

    Returns:
        Tensor of the shape and dtype of `x`; finite for any number.

    Raises:
        ValueError: If `floor` is not positive.

    Example:

    >>> reciprocal([4.0, 0.0]).numpy()
    array([0.25, 0.  ], dtype=float32)

    Cures:
        NG105 division-by-zero, NG308 division-gradient-at-zero
    """
    x = to_float(x)
    low, steepest_root = _floor(x, floor), largest_slope(x) ** 0.5

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def inverse(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        is_small = tf.abs(x) < low
        y = tf.math.reciprocal(tf.where(is_small, _infinity(x), x))

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            return tf.raw_ops.ReciprocalGrad(y=clipped(y, -steepest_root, steepest_root), dy=upstream)

        if otherwise is None:
            return tf.where(is_small, tf.math.reciprocal(_away_from_zero(x, low)), y), backward
        return y if otherwise == 0 else tf.where(is_small, tf.constant(otherwise, x.dtype), y), backward

    return inverse(x)


@cures(SQRT_OF_NEGATIVE, SQRT_GRADIENT_AT_ZERO, replaces=("tf.sqrt", "keras.ops.sqrt", "tf.math.sqrt"))
def sqrt(x: TensorLike, *, gradient: ClampGradient = "zero") -> tf.Tensor:
    """Square root that is 0 below zero and has a finite gradient at zero.

    Computes `sqrt(max(x, 0))`. Value and gradient are exactly those of `tf.sqrt` for every normal `x > 0`. At 0 and
    below it the gradient is 0, and so is the second derivative, which a gradient penalty takes; that one is bounded
    elsewhere.

    A NaN in `x` comes out as NaN.

    Args:
        x: Floating tensor, any shape. Meant for `x >= 0`, such as variances and sums of squares.
        gradient: What an entry at or below 0 learns: "zero", or "straight_through" for the largest slope, 9.2e+18 in
            float32, which lets it come back. Zero is the default: the root of a sum of squares has its least value
            there, and 0 is a subgradient of it.

    Returns:
        Tensor of the shape and dtype of `x`; finite for finite `x`.

    Example:

    >>> sqrt([4.0, 0.0, -1e-9]).numpy()
    array([2., 0., 0.], dtype=float32)

    Cures:
        NG106 sqrt-of-negative, NG301 sqrt-gradient-at-zero
    """
    check_choice("gradient", gradient, ("zero", "straight_through"))
    x = to_float(x)
    steepest = largest_slope(x)
    lowest = tf.constant(0.5 / steepest, x.dtype)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def root(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        y = tf.sqrt(tf.maximum(x, _zero(x)))

        def divided(upstream: tf.Tensor) -> tf.Tensor:
            if gradient == "zero":
                # In the order of SqrtGrad, which differs in the last bit from the root under half the gradient.
                return tf.math.divide_no_nan(tf.constant(0.5, y.dtype), y) * upstream
            return tf.raw_ops.SqrtGrad(y=tf.maximum(y, lowest), dy=upstream)

        # A function of its own, since the derivative of this division is not finite near 0.
        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def first(upstream: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, object]:
            def second(outer: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                slope = divided(tf.ones_like(x))
                return divided(outer), outer * upstream * bounded(-2 * slope * slope * slope, steepest)

            return divided(upstream), second

        return y, lambda upstream: first(upstream, x)

    return root(x)


@cures(
    RSQRT_OF_ZERO,
    SQRT_OF_NEGATIVE,
    SQRT_GRADIENT_AT_ZERO,
    replaces=("tf.math.rsqrt", "keras.ops.rsqrt"),
)
def rsqrt(x: TensorLike, *, floor: float | None = None, gradient: ClampGradient = "zero") -> tf.Tensor:
    """`1 / sqrt(x)` that stays finite at and below zero.

    Computes `rsqrt(max(x, floor))`. From `floor` upwards the value is exactly that of `tf.math.rsqrt`, and so is the
    gradient while the square of the slope `-x**-1.5 / 2` is finite, from 1.4e-13 on in float32 and 0.001 in float16;
    nearer to 0 the slope stays at its largest. Below `floor` the gradient is 0.

    A NaN in `x` comes out as NaN; infinity gives 0.

    Args:
        x: Floating tensor, any shape. Meant for `x > 0`, such as variances.
        floor: Smallest number that is asked for, `> 0`. Defaults to the smallest that kernels tell from 0: the smallest
            normal number, whose result is 9.2e+18 in float32, and in float16 the smallest of all. An epsilon of the
            size that layers use, 1e-6, is the better choice for a variance, for whatever is multiplied by the result.
        gradient: What an entry below `floor` learns: "zero", or "straight_through" for the largest slope. Zero is the
            default since a variance of 0 mostly belongs to a constant channel, from which nothing can be learnt.

    Returns:
        Tensor of the shape and dtype of `x`; finite for finite `x`.

    Raises:
        ValueError: If `floor` is not positive.

    Example:

    >>> rsqrt([4.0, 0.0], floor=1e-6).numpy().round(2)
    array([5.e-01, 1.e+03], dtype=float32)

    Cures:
        NG107 rsqrt-of-zero, NG106 sqrt-of-negative, NG301 sqrt-gradient-at-zero
    """
    check_positive("floor", floor, "the dtype's smallest normal number")
    check_choice("gradient", gradient, ("zero", "straight_through"))
    x = to_float(x)
    low = max(floor or 0.0, _smallest(x))
    # The slope is -y**3 / 2.
    steepest_at = tf.constant((2 * largest_slope(x)) ** (1 / 3), x.dtype)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def inverse_root(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        y = tf.math.rsqrt(tf.maximum(x, tf.constant(low, x.dtype)))

        def through_floor(x_gradient: tf.Tensor) -> tf.Tensor:
            if gradient != "zero":
                return x_gradient
            # Numbers below the smallest are 0 to the kernels: the sign alone tells what to let through.
            is_told_by_sign = low == _smallest(x)
            return pass_where_positive(x_gradient, x if is_told_by_sign else x - next_below(low, x.dtype))

        def through_root(upstream: tf.Tensor) -> tf.Tensor:
            return through_floor(tf.raw_ops.RsqrtGrad(y=tf.minimum(y, steepest_at), dy=upstream))

        # A function of its own, since the derivative of what made `y` is not finite near 0.
        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def first(upstream: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, object]:
            def second(outer: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                is_curved = tf.cast(y < steepest_at, x.dtype)
                curvature = 0.75 * tf.minimum(y, steepest_at) ** 5 * is_curved
                return through_root(outer), through_floor(outer * upstream * curvature)

            return through_root(upstream), second

        return y, lambda upstream: first(upstream, x)

    return inverse_root(x)


@cures(
    POW_OF_NEGATIVE_BASE,
    POW_OF_ZERO_TO_NEGATIVE_POWER,
    POW_GRADIENT_AT_ZERO,
    GRADIENT_OVERFLOW,
    replaces=("tf.pow", "keras.ops.power", "tf.math.pow"),
    operands=2,
    aliases={"x1": "x", "x2": "y"},
)
def pow(x: TensorLike, y: TensorLike, *, gradient: ClampGradient = "zero") -> tf.Tensor:
    """Power that stays finite for any base and exponent.

    Computes `b**y`, cut to the dtype's largest number. `b` is `x` but for two cases: a negative base with an exponent
    that is no whole number counts as 0, and with a negative exponent a base of 0 counts as the smallest normal number.

    Value and gradient are those of `tf.pow` wherever they are finite; slopes are cut to the largest whose square is
    finite, 9.2e+18 in float32. Where the base was changed, and at a base of 0 with an exponent between 0 and 1, the
    gradient with respect to `x` is 0.

    A NaN comes out as NaN, except that `x**0` and `1**y` are 1 for any `x` and `y`, as in `tf.pow`. An infinite base
    may give infinity.

    Args:
        x: Base. Floating tensor, any shape.
        y: Exponent. Floating tensor whose shape can be broadcast with that of `x`. A plain number costs least.
        gradient: What such a base learns: "zero", or "straight_through" for the largest slope, which lets it come
            back. Zero is the default: black pixels, empty nodes and classes that are certain are to stay what they are.

    Returns:
        Tensor of the broadcast shape and the promoted dtype; finite for finite operands.

    Example:

    >>> pow([4.0, 0.0, -8.0], 0.5).numpy()
    array([2., 0., 0.], dtype=float32)
    >>> pow([-2.0, 0.0], -1.0).numpy()
    array([-5.000000e-01,  8.507059e+37], dtype=float32)

    Cures:
        NG108 pow-of-negative-base, NG110 pow-of-zero-to-negative-power, NG302 pow-gradient-at-zero,
        NG309 gradient-overflow
    """
    check_choice("gradient", gradient, ("zero", "straight_through"))
    if isinstance(y, int | float):
        return _power_of_number(to_float(x), float(y), gradient)
    x, y = to_floats(x, y)
    limits, steepest = format_of(x), largest_slope(x)

    def gradient_of_exponent(upstream: tf.Tensor, base: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
        is_positive = base > 0
        logarithm = tf.where(is_positive, tf.math.log(tf.where(is_positive, base, _one(base))), _zero(base))
        return upstream * tf.minimum(z, tf.minimum(steepest / tf.abs(logarithm), limits.max)) * logarithm

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def power(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, object]:
        y = tf.where(tf.abs(y) < _smallest(y), _zero(y), y)
        is_root = (x < 0) & (y > tf.floor(y))
        # A subnormal number, which the comparison reads as 0, is a negative base to some kernels all the same.
        base = tf.where(is_root | (tf.abs(x) < _smallest(x)), _zero(x), x)
        is_divisor = (tf.abs(base) < limits.smallest_normal) & (y < 0)
        is_stopped = is_root | (tf.equal(base, 0) & (y < 1)) | is_divisor
        base = tf.where(is_divisor, _away_from_zero(base, tf.constant(limits.smallest_normal, x.dtype)), base)
        z = bounded(tf.pow(base, y), limits.max)

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            x_gradient = upstream * y * _bounded_power(base, y)
            if gradient == "zero":
                x_gradient = tf.where(is_stopped, _zero(x), x_gradient)
            return reduce_to_shape_of(x_gradient, x), reduce_to_shape_of(gradient_of_exponent(upstream, base, z), y)

        return z, backward

    return power(x, y)


power = pow
"""`pow` by its name in `keras.ops`."""


def _power_of_number(x: tf.Tensor, exponent: float, gradient: ClampGradient) -> tf.Tensor:
    """Gives `pow(x, exponent)`, with only those bounds that the exponent calls for."""
    limits = format_of(x)
    with np.errstate(over="ignore"):
        exponent = float(np.array(exponent, x.dtype.as_numpy_dtype))
    if abs(exponent) < _smallest(x):
        exponent = 0.0
    y, smallest = tf.constant(exponent, x.dtype), limits.smallest_normal
    is_root = math.isfinite(exponent) and not exponent.is_integer()
    least = tf.constant(smallest if exponent < 0 else 0, x.dtype)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def power(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        base = x
        if is_root:
            # The maximum makes a subnormal number 0, which some kernels take for a negative base.
            base = tf.maximum(x, least)
        elif exponent < 0:
            base = tf.where(tf.abs(x) < smallest, _away_from_zero(x, least), x)
        z = tf.pow(base, y)

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            found = upstream * y * _bounded_power(base, y, is_positive=is_root)
            if gradient != "zero" or exponent >= 1 or exponent == 0:
                return found
            if exponent > 0:
                return pass_where_positive(found, base)
            return pass_where_positive(found, (x if is_root else tf.abs(x)) - next_below(smallest, x.dtype))

        # A root is no larger than its base, or than 1.
        return z if 0 <= exponent <= 1 else bounded(z, limits.max), backward

    return power(x)


def _bounded_power(base: tf.Tensor, y: tf.Tensor, *, is_positive: bool = False) -> tf.Tensor:
    """Gives `base ** (y - 1)` cut so that `y` times it has a finite square."""
    # The bound is put on the power alone, so that the product is in the order in which tf.pow takes it.
    most = tf.minimum(largest_slope(base) / tf.abs(y), format_of(base).max)
    power = tf.minimum(tf.pow(base, y - 1), most)
    return power if is_positive else tf.maximum(power, -most)


def _floor(x: tf.Tensor, floor: float | None) -> tf.Tensor:
    check_positive("floor", floor, "the square root of the dtype's smallest normal number")
    limits = format_of(x)
    return tf.constant(max(floor or limits.floor, limits.smallest_normal), x.dtype)


def _smallest(x: tf.Tensor) -> float:
    """Gives the smallest positive number that kernels tell from 0."""
    limits = format_of(x)
    # Those of float16 compute in float32, to which its subnormal numbers are ordinary.
    return limits.smallest_normal * (limits.eps if x.dtype == tf.float16 else 1)


def _away_from_zero(x: tf.Tensor, low: tf.Tensor) -> tf.Tensor:
    """Gives `low` with the sign of `x`; positive at 0."""
    return tf.where(x < 0, -low, low)


def _infinity(x: tf.Tensor) -> tf.Tensor:
    return tf.constant(float("inf"), x.dtype)


def _zero(x: tf.Tensor) -> tf.Tensor:
    return tf.constant(0, x.dtype)


def _one(x: tf.Tensor) -> tf.Tensor:
    return tf.constant(1, x.dtype)
