"""Inverse functions at and beyond the ends of their domain, and the angle of a point that may be the origin."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import tensorflow as tf

from nanguard.hazards import (
    ATAN2_GRADIENT_AT_ORIGIN,
    INVERSE_FUNCTION_OUTSIDE_DOMAIN,
    INVERSE_TRIG_GRADIENT_AT_END,
)
from nanguard.ops._bounds import (
    ClampGradient,
    bounded,
    check_choice,
    clamp,
    clipped,
    format_of,
    largest_slope,
    pass_where_positive,
    reduce_to_shape_of,
)
from nanguard.ops._operation import TensorLike, cures, to_float, to_floats


@cures(
    INVERSE_FUNCTION_OUTSIDE_DOMAIN,
    INVERSE_TRIG_GRADIENT_AT_END,
    replaces=("tf.acos", "keras.ops.arccos", "tf.math.acos"),
)
def acos(x: TensorLike, *, gradient: ClampGradient = "zero") -> tf.Tensor:
    """Arc cosine that takes a number beyond -1 or 1 for the end itself, with finite slopes at the ends.

    Computes `acos(min(max(x, -1), 1))`. Between the ends, value and gradient are exactly those of `tf.acos`. At an end
    the slope is that of the number next to it: -2896 in float32, -6.7e+07 in float64, -32 in float16, -11 in bfloat16.
    Beyond the ends the gradient is 0.

    A NaN in `x` comes out as NaN; an infinity counts as the end.

    Args:
        x: Floating tensor, any shape, such as the cosine of an angle that was rounded.
        gradient: What an entry beyond an end learns: "zero", or "straight_through" for the slope at the end, which
            brings back what is far outside. Zero is the default: a cosine beyond 1 is rounding, and the angle 0 has
            nothing more to learn.

    Returns:
        Tensor of the shape and dtype of `x`, in `[0, pi]`.

    Example:

    >>> acos([1.0000001, 0.0, -2.0]).numpy().round(3)
    array([0.   , 1.571, 3.142], dtype=float32)

    Cures:
        NG109 inverse-function-outside-domain, NG304 inverse-trig-gradient-at-end
    """
    return _inverse_of_circle(tf.acos, x, gradient, sign=-1)


@cures(
    INVERSE_FUNCTION_OUTSIDE_DOMAIN,
    INVERSE_TRIG_GRADIENT_AT_END,
    replaces=("tf.asin", "keras.ops.arcsin", "tf.math.asin"),
)
def asin(x: TensorLike, *, gradient: ClampGradient = "zero") -> tf.Tensor:
    """Arc sine that takes a number beyond -1 or 1 for the end itself, with finite slopes at the ends.

    Computes `asin(min(max(x, -1), 1))`. Between the ends, value and gradient are exactly those of `tf.asin`. At an end
    the slope is that of the number next to it: 2896 in float32, 6.7e+07 in float64, 32 in float16, 11 in bfloat16.
    Beyond the ends the gradient is 0.

    A NaN in `x` comes out as NaN; an infinity counts as the end.

    Args:
        x: Floating tensor, any shape.
        gradient: What an entry beyond an end learns. See `acos`.

    Returns:
        Tensor of the shape and dtype of `x`, in `[-pi/2, pi/2]`.

    Example:

    >>> asin([0.5, 1.0000001]).numpy().round(3)
    array([0.524, 1.571], dtype=float32)

    Cures:
        NG109 inverse-function-outside-domain, NG304 inverse-trig-gradient-at-end
    """
    return _inverse_of_circle(tf.asin, x, gradient, sign=1)


@cures(
    INVERSE_FUNCTION_OUTSIDE_DOMAIN,
    INVERSE_TRIG_GRADIENT_AT_END,
    replaces=("tf.atanh", "keras.ops.arctanh", "tf.math.atanh"),
)
def atanh(x: TensorLike, *, gradient: ClampGradient = "zero") -> tf.Tensor:
    """Inverse hyperbolic tangent that stays finite at and beyond -1 and 1.

    Computes `atanh` of `x` clamped to the numbers next to -1 and 1. Between the ends, value and gradient are exactly
    those of `tf.atanh`. At and beyond an end the value is 8.66 in float32, 18.7 in float64, 4.16 in float16, 3.12 in
    bfloat16, and the gradient is 0.

    A NaN in `x` comes out as NaN; an infinity counts as the end.

    Args:
        x: Floating tensor, any shape. Meant for `-1 < x < 1`.
        gradient: What an entry at or beyond an end learns: "zero", or "straight_through" for the slope next to the
            end, 8.4e+06 in float32. Zero is the default, as in `log`.

    Returns:
        Tensor of the shape and dtype of `x`; finite for any number.

    Example:

    >>> atanh([0.5, 1.0]).numpy().round(3)
    array([0.549, 8.664], dtype=float32)

    Cures:
        NG109 inverse-function-outside-domain, NG304 inverse-trig-gradient-at-end
    """
    check_choice("gradient", gradient, ("zero", "straight_through"))
    x = to_float(x)
    end = _next_below_one(x)
    return tf.atanh(clamp(x, low=-end, high=end, gradient=gradient))


@cures(
    INVERSE_FUNCTION_OUTSIDE_DOMAIN,
    INVERSE_TRIG_GRADIENT_AT_END,
    replaces=("tf.acosh", "keras.ops.arccosh", "tf.math.acosh"),
)
def acosh(x: TensorLike, *, gradient: ClampGradient = "zero") -> tf.Tensor:
    """Inverse hyperbolic cosine that takes a number below 1 for 1, with a finite slope there.

    Computes `acosh(max(x, 1))`. Above 1, value and gradient are exactly those of `tf.acosh`. At 1 the slope is twice
    that of the next number: 4096 in float32, 9.5e+07 in float64, 45 in float16, 16 in bfloat16. Below 1 the gradient
    is 0.

    A NaN in `x` comes out as NaN.

    Args:
        x: Floating tensor, any shape. Meant for `x >= 1`, such as a distance in hyperbolic space.
        gradient: What an entry below 1 learns: "zero", or "straight_through" for the slope at 1. Zero is the default:
            an argument below 1 is rounding, and the distance 0 has nothing more to learn.

    Returns:
        Tensor of the shape and dtype of `x`, `>= 0`; finite for finite `x`.

    Example:

    >>> acosh([0.9999999, 2.0]).numpy().round(3)
    array([0.   , 1.317], dtype=float32)

    Cures:
        NG109 inverse-function-outside-domain, NG304 inverse-trig-gradient-at-end
    """
    check_choice("gradient", gradient, ("zero", "straight_through"))
    x = to_float(x)
    smallest = tf.constant(math.acosh(1 + format_of(x).eps) / 2, x.dtype)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def inverse(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        y = tf.acosh(x)
        return y, lambda upstream: upstream / tf.sinh(tf.maximum(y, smallest))

    return inverse(clamp(x, low=1.0, gradient=gradient))


@cures(
    INVERSE_FUNCTION_OUTSIDE_DOMAIN,
    INVERSE_TRIG_GRADIENT_AT_END,
    replaces=("tf.math.erfinv", "keras.ops.erfinv"),
)
def erfinv(x: TensorLike, *, gradient: ClampGradient = "zero") -> tf.Tensor:
    """Inverse error function that stays finite at and beyond -1 and 1.

    Computes `erfinv` of `x` clamped to the numbers next to -1 and 1, where it is 3.83 in float32 and 5.86 in float64;
    the plain op may be infinite there already. Elsewhere value and gradient are exactly those of `tf.math.erfinv`;
    beyond the ends the gradient is 0.

    A NaN in `x` comes out as NaN; an infinity counts as the end.

    Args:
        x: Floating tensor, any shape. Meant for `-1 < x < 1`.
        gradient: What an entry beyond an end learns: "zero", or "straight_through" for the slope at the end. Zero is
            the default, as in `log`.

    Returns:
        Tensor of the shape and dtype of `x`; finite for any number.

    Example:

    >>> erfinv([0.5, 1.0]).numpy().round(3)
    array([0.477, 3.833], dtype=float32)

    Cures:
        NG109 inverse-function-outside-domain, NG304 inverse-trig-gradient-at-end
    """
    check_choice("gradient", gradient, ("zero", "straight_through"))
    x = to_float(x)
    end = _next_below_one(x)
    most = -NormalDist().inv_cdf(format_of(x).eps / 4) / math.sqrt(2)
    clamped = clamp(x, low=-end, high=end, gradient=gradient)
    return _quantile(tf.math.erfinv, clamped, most, math.sqrt(math.pi) / 2, 1.0)


@cures(INVERSE_FUNCTION_OUTSIDE_DOMAIN, INVERSE_TRIG_GRADIENT_AT_END, replaces=("tf.math.ndtri",))
def ndtri(p: TensorLike, *, gradient: ClampGradient = "zero") -> tf.Tensor:
    """Quantile of the standard normal distribution that stays finite for probabilities of 0 and 1.

    Computes `ndtri` of `p` clamped to the smallest normal number and the number next to 1, which is -12.95 to 5.42 in
    float32. Between the ends, the value is exactly that of `tf.math.ndtri`, and so is the gradient while its square is
    finite, from 1.2e-20 on in float32; beyond them the gradient is 0. Under XLA, whose own `ndtri` is -inf for the
    smallest `p`, below 1e-16 or so in float32, these count as the lower end.

    A NaN in `p` comes out as NaN; an infinity counts as the end.

    Args:
        p: Floating tensor of probabilities, any shape.
        gradient: What an entry beyond an end learns: "zero", or "straight_through" for the slope at the end. Zero is
            the default, as in `log`.

    Returns:
        Tensor of the shape and dtype of `p`; finite for any number.

    Example:

    >>> ndtri([0.5, 0.0]).numpy().round(3)
    array([  0.   , -12.95], dtype=float32)

    Cures:
        NG109 inverse-function-outside-domain, NG304 inverse-trig-gradient-at-end
    """
    check_choice("gradient", gradient, ("zero", "straight_through"))
    p = to_float(p)
    limits = format_of(p)
    clamped = clamp(p, low=limits.smallest_normal, high=_next_below_one(p), gradient=gradient)
    most = -NormalDist().inv_cdf(limits.smallest_normal)
    return _quantile(tf.math.ndtri, clamped, most, math.sqrt(2 * math.pi), 0.5)


@cures(
    ATAN2_GRADIENT_AT_ORIGIN,
    replaces=("tf.atan2", "keras.ops.arctan2", "tf.math.atan2"),
    operands=2,
    aliases={"x1": "y", "x2": "x"},
)
def atan2(y: TensorLike, x: TensorLike) -> tf.Tensor:
    """Angle of the point `(x, y)` whose gradient at the origin is 0.

    The value is that of `tf.atan2`. The gradient, `(x, -y) / (x**2 + y**2)`, is that of `tf.atan2` too; within 2.4e-19
    of the origin in float32 and bfloat16, 3.3e-154 in float64 and 0.00012 in float16, it is 0, for a point there has
    no direction.

    A NaN in `x` or `y` comes out as NaN.

    Args:
        y: Floating tensor, any shape.
        x: Floating tensor whose shape can be broadcast with that of `y`. In float16 and bfloat16 the gradient is
            computed in float32, where the squares neither overflow nor vanish so soon.

    Returns:
        Tensor of the broadcast shape and the promoted dtype, in `[-pi, pi]`.

    Example:

    >>> atan2([1.0, 0.0], [1.0, 0.0]).numpy().round(3)
    array([0.785, 0.   ], dtype=float32)

    Cures:
        NG305 atan2-gradient-at-origin
    """
    y, x = to_floats(y, x)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def angle(y: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, object]:
        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            dtype = tf.float32 if x.dtype.size == 2 else x.dtype
            wide_x, wide_y = tf.cast(x, dtype), tf.cast(y, dtype)
            squares = tf.square(wide_x) + tf.square(wide_y)
            # A margin of four, since XLA may round one of the two sums and not the other.
            least = tf.constant(4 * format_of(x).floor ** 2, dtype)
            scaled = tf.math.divide_no_nan(tf.cast(upstream, dtype), pass_where_positive(squares, squares - least))
            y_gradient, x_gradient = wide_x * scaled, -wide_y * scaled
            return (
                tf.cast(reduce_to_shape_of(y_gradient, y), y.dtype),
                tf.cast(reduce_to_shape_of(x_gradient, x), x.dtype),
            )

        # The maximum makes a subnormal number 0. Of two of those some kernels give NaN. That of bfloat16 does not, but
        # its atan2 is that of float32, rounded.
        dtype = tf.float32 if x.dtype == tf.bfloat16 else x.dtype
        flushed = tf.maximum(tf.cast(x, dtype), tf.constant(-format_of(x).max, dtype))
        return tf.cast(tf.atan2(tf.cast(y, dtype), flushed), x.dtype), backward

    return angle(y, x)


arccos, arcsin, arctan2, arccosh, arctanh = acos, asin, atan2, acosh, atanh
"""The same ops by their names in `keras.ops`."""


def _inverse_of_circle(
    plain: Callable[[tf.Tensor], tf.Tensor], x: TensorLike, gradient: ClampGradient, *, sign: int
) -> tf.Tensor:
    check_choice("gradient", gradient, ("zero", "straight_through"))
    x = to_float(x)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def inverse(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        def backward(upstream: tf.Tensor) -> tf.Tensor:
            # The gap is eps at the number next to an end, 0 at the end, and below -eps beyond it.
            # Not tf.square, whose own slope, 2 * x, may overflow in a second derivative.
            gap, eps = 1 - x * x, tf.constant(format_of(x).eps, x.dtype)
            if gradient == "zero":
                upstream = pass_where_positive(upstream, gap + eps)
            steepness = tf.math.reciprocal(tf.sqrt(tf.maximum(gap, eps)))
            return upstream * steepness if sign > 0 else -upstream * steepness

        return plain(clipped(x, -1.0, 1.0)), backward

    return inverse(x)


def _quantile(
    plain: Callable[[tf.Tensor], tf.Tensor],
    x: tf.Tensor,
    most: float,
    factor: float,
    growth: float,
) -> tf.Tensor:
    """Gives `y = plain(x)` cut to `[-most, most]`, with the slope `factor * exp(growth * y**2)`, cut to the largest."""
    steepest = math.sqrt(math.log(largest_slope(x) / factor) / growth)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def quantile(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        y = bounded(plain(x), most)

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            slope_at = y if steepest > most else bounded(y, steepest)
            return upstream * tf.constant(factor, y.dtype) * tf.exp(tf.square(slope_at) * growth)

        return y, backward

    # TensorFlow has no kernel for 16 bits.
    return tf.cast(quantile(tf.cast(x, tf.float32)), x.dtype) if x.dtype.size == 2 else quantile(x)


def _next_below_one(x: tf.Tensor) -> float:
    return 1 - format_of(x).eps / 2
