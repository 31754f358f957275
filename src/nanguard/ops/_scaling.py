"""What ops over whole axes share: half precision widened, sums of squares that neither overflow nor vanish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import tensorflow as tf

from nanguard.ops._bounds import bounded, clamp, format_of

Axis: TypeAlias = "int | Sequence[int] | None"


def widened(x: tf.Tensor) -> tf.Tensor:
    """Gives a half-precision tensor in float32, where a sum of its numbers or squares has room; others as they are."""
    return tf.cast(x, tf.float32) if x.dtype.size == 2 else x


def narrowed(x: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Gives `x` in a dtype of no more range, cut to its largest number; what is cut learns as if it were not."""
    if x.dtype == dtype:
        return x
    # The number that rounds to the largest one: a cast rounds what lies above it up to infinity.
    limit = format_of(tf.zeros([], dtype)).max
    return tf.cast(clamp(x, -limit, limit, gradient="straight_through"), dtype)


def cut(x: tf.Tensor) -> tf.Tensor:
    """Gives `x` with infinities as the largest numbers; no gradient is asked of it."""
    return bounded(x, format_of(x).max)


def when_finite(y: tf.Tensor, otherwise: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Gives `y` where it is finite, and elsewhere what `otherwise` gives, which costs nothing until it is needed.

    Only for the value: the gradient is for the caller to define.
    """
    is_finite = tf.math.is_finite(y)

    def as_it_is() -> tf.Tensor:
        return y

    def mended() -> tf.Tensor:
        return tf.where(is_finite, y, otherwise())

    return tf.cond(tf.reduce_all(is_finite), as_it_is, mended)


def power_of_two(x: tf.Tensor) -> tf.Tensor:
    """Gives the largest power of two up to `x >= 0`, between those whose reciprocal is a normal number.

    To multiply or divide by it changes no bit of the significand. float32 or float64.
    """
    return tf.bitcast(_exponent_bits(x), x.dtype)


def inverse_power_of_two(x: tf.Tensor) -> tf.Tensor:
    """Gives the reciprocal of `power_of_two(x)`."""
    # Not one over it: graphs turn that into an approximate reciprocal, which is 0 for the largest.
    bits = _exponent_bits(x)
    twice_the_bits_of_one = tf.constant(254 << 23 if x.dtype == tf.float32 else 2046 << 52, bits.dtype)
    return tf.bitcast(twice_the_bits_of_one - bits, x.dtype)


def _exponent_bits(x: tf.Tensor) -> tf.Tensor:
    integer, mask = (tf.int32, 0x7F800000) if x.dtype == tf.float32 else (tf.int64, 0x7FF << 52)
    smallest = format_of(x).smallest_normal
    inside = tf.clip_by_value(x, smallest, 1 / smallest)
    return tf.bitwise.bitwise_and(tf.bitcast(inside, integer), tf.constant(mask, integer))


def sum_of_squares(x: tf.Tensor, axis: Axis, *, low: float | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """Gives `(sum((x * scale) ** 2), scale)`, with a scale of 1 wherever the plain sum has its full precision.

    Elsewhere the scale is the power of two that brings the largest element to 1. Both have the reduced axes as 1.

    Args:
        x: Tensor of float32 or float64.
        axis: As in `tf.reduce_sum`.
        low: Smallest sum that is left as it is. Defaults to where squares of elements that matter begin to vanish.
    """
    squares = tf.reduce_sum(tf.square(x), axis, keepdims=True)
    limits = format_of(x)
    if low is None:
        low = limits.smallest_normal / limits.eps
    is_fine = (squares >= tf.constant(low, x.dtype)) & (squares <= tf.constant(limits.max, x.dtype))

    def as_it_is() -> tuple[tf.Tensor, tf.Tensor]:
        return squares, tf.ones_like(squares)

    def rescaled() -> tuple[tf.Tensor, tf.Tensor]:
        largest = tf.reduce_max(tf.abs(x), axis, keepdims=True)
        scale = tf.where(is_fine, tf.ones_like(squares), inverse_power_of_two(largest))
        return tf.reduce_sum(tf.square(x * scale), axis, keepdims=True), scale

    result: tuple[tf.Tensor, tf.Tensor] = tf.cond(tf.reduce_all(is_fine), as_it_is, rescaled)
    return result


def along(x: tf.Tensor, upstream: tf.Tensor, norm: tf.Tensor, scale: tf.Tensor, axis: Axis, limit: float) -> tf.Tensor:
    """Gives `upstream * x / |x|`, the gradient of a norm: 0 where the norm is 0, with a derivative that is finite too.

    Args:
        x: Tensor.
        upstream: Gradient of the norm, with the reduced axes as 1.
        norm: `|x * scale|`, shaped alike.
        scale: Powers of two, shaped alike.
        axis: The reduced axes.
        limit: Bound of the slope of `x / |x|`, which is `1 / |x|`.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def pulled(x: tf.Tensor, upstream: tf.Tensor) -> tuple[tf.Tensor, object]:
        # Cut, for a large gradient over a tiny norm is infinite before it meets the tiny elements.
        y = x * cut(tf.math.divide_no_nan(upstream, norm) * scale)

        def backward(g: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            slope = bounded(tf.math.divide_no_nan(scale, norm), limit)
            unit = x * tf.math.divide_no_nan(scale, norm)
            along_unit = tf.reduce_sum(g * unit, axis, keepdims=True)
            return (g - unit * along_unit) * (upstream * slope), along_unit

        return y, backward

    return pulled(x, upstream)


def without_axes(y: tf.Tensor, axis: Axis, keepdims: bool) -> tf.Tensor:
    """Gives `y`, whose reduced axes are 1, without those axes unless they are to be kept."""
    if axis is None and not keepdims:
        return tf.reshape(y, [])
    # tf.squeeze takes an empty list of axes for all of them.
    is_nothing_reduced = not (axis is None or isinstance(axis, int) or len(axis))
    return y if keepdims or is_nothing_reduced else tf.squeeze(y, axis)
