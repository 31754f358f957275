"""Means, variances and running products, where nothing is left, nothing varies or a sum overflows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import tensorflow as tf

from nanguard.hazards import (
    ARITHMETIC_OVERFLOW,
    DIVISION_BY_ZERO,
    EMPTY_REDUCTION,
    FLOAT16_RANGE,
    SQRT_GRADIENT_AT_ZERO,
)
from nanguard.ops._bounds import bounded, clipped, format_of, largest_slope
from nanguard.ops._operation import TensorLike, cures, to_float
from nanguard.ops._scaling import (
    Axis,
    along,
    cut,
    narrowed,
    sum_of_squares,
    when_finite,
    widened,
    without_axes,
)

Step: TypeAlias = "int | tf.Tensor"

_REDUCED = {"input_tensor": "x", "a": "x"}


@cures(
    EMPTY_REDUCTION,
    DIVISION_BY_ZERO,
    ARITHMETIC_OVERFLOW,
    FLOAT16_RANGE,
    replaces=("tf.reduce_mean", "tf.math.reduce_mean", "keras.ops.mean", "keras.ops.average"),
    kind="reduction",
    aliases=_REDUCED,
)
def mean(
    x: TensorLike,
    axis: Axis = None,
    keepdims: bool = False,
    *,
    mask: TensorLike | None = None,
    weights: TensorLike | None = None,
    empty: float = 0.0,
) -> tf.Tensor:
    """Mean over axes, plain, masked or weighted, that is a number where nothing is left to average.

    Computes `sum(x) / n`, or `sum(w * x) / sum(w)`, where `w` is the weights times the mask. Value and gradient are
    those of `tf.reduce_mean` where that is finite. Where `n` is 0, or the weights sum to less than the dtype's floor,
    the value is `empty` and the gradient 0. A sum that overflows although the mean does not is taken of `x / n`.

    A NaN in `x` comes out as NaN in the means that it is part of. An entry that the mask or a weight of 0 leaves out
    may be NaN or infinite: neither the value nor a gradient sees it. An infinity that is not left out counts as the
    largest number.

    Args:
        x: Floating tensor, any shape. Half precision is summed in float32.
        axis: Axis or axes to average over. Defaults to all.
        keepdims: Whether the reduced axes stay, as 1.
        mask: True (or not 0) for what counts; broadcast with `x` as NumPy does. Defaults to everything.
        weights: Weights `>= 0`, broadcast with `x`; a negative one counts as 0, and one beyond 9.2e18 (in float32) as
            that. The slope for a weight is bounded to the same number.
        empty: What the mean of nothing is. Defaults to 0, so that a loss term without samples adds nothing.

    Returns:
        Tensor of the dtype of `x` without the reduced axes; finite for finite `x`.

    Example:

    >>> mean([1.0, 2.0, float("nan")], mask=[True, True, False]).numpy()
    np.float32(1.5)
    >>> mean([[1.0, 2.0], [3.0, 4.0]], axis=1, mask=[[True, True], [False, False]]).numpy()
    array([1.5, 0. ], dtype=float32)

    Cures:
        NG501 empty-reduction, NG105 division-by-zero, NG202 arithmetic-overflow, NG401 float16-range
    """
    x = to_float(x)
    wide = widened(x)
    if mask is None and weights is None:
        y = _mean_of_all(wide, axis, empty)
    else:
        y = _weighted_mean(*_with_weights(wide, mask, weights), axis, empty, largest_slope(x), weights is not None)
    return narrowed(without_axes(y, axis, keepdims), x.dtype)


@cures(
    EMPTY_REDUCTION,
    ARITHMETIC_OVERFLOW,
    FLOAT16_RANGE,
    replaces=("tf.math.reduce_variance", "keras.ops.var"),
    kind="reduction",
    aliases=_REDUCED,
)
def variance(
    x: TensorLike, axis: Axis = None, keepdims: bool = False, *, mask: TensorLike | None = None, ddof: int = 0
) -> tf.Tensor:
    """Variance over axes, 0 where nothing varies and for too few samples, never negative.

    Computes `sum((x - mean(x)) ** 2) / (n - ddof)` in two passes, so that nothing cancels. Its bits are those of
    `tf.math.reduce_variance` where that is finite. It is 0 with gradient 0 for `n <= ddof`, as for one sample with
    `ddof=1`; and the largest number where it overflows. The gradient is `2 * (x - mean(x)) / (n - ddof)`, bounded.

    A NaN in `x` comes out as NaN, unless the mask leaves it out.

    Args:
        x: Floating tensor, any shape. Half precision is summed in float32.
        axis: Axis or axes over which it varies. Defaults to all.
        keepdims: Whether the reduced axes stay, as 1.
        mask: True (or not 0) for what counts; broadcast with `x` as NumPy does. Defaults to everything.
        ddof: What is taken off the number of samples, 1 for the unbiased estimate. Defaults to 0, as in TensorFlow,
            Keras and NumPy.

    Returns:
        Tensor of the dtype of `x` without the reduced axes, `>= 0`; finite for finite `x`.

    Example:

    >>> variance([[1.0, 3.0], [5.0, 5.0]], axis=1).numpy()
    array([1., 0.], dtype=float32)
    >>> variance([7.0], ddof=1).numpy()
    np.float32(0.0)

    Cures:
        NG501 empty-reduction, NG202 arithmetic-overflow, NG401 float16-range

    References:
        Chan, Golub, LeVeque, *Algorithms for Computing the Sample Variance*, The American Statistician 37, 1983.
    """
    x = to_float(x)
    limit = largest_slope(x)

    wide, weights = _with_mask(widened(x), mask)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def varied(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        deviations, num = _deviations(x, weights, axis)
        divisor = tf.maximum(num - ddof, 0)
        squares = tf.reduce_sum(tf.square(deviations), axis, keepdims=True)
        y = cut(tf.math.divide_no_nan(squares, divisor))

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            # Without the term through the mean, which is the sum of the deviations: rounding apart, 0.
            return bounded(deviations * tf.math.divide_no_nan(tf.cast(2, x.dtype), divisor), limit) * upstream

        return y, backward

    return narrowed(without_axes(varied(wide), axis, keepdims), x.dtype)


@cures(
    SQRT_GRADIENT_AT_ZERO,
    EMPTY_REDUCTION,
    ARITHMETIC_OVERFLOW,
    FLOAT16_RANGE,
    replaces=("tf.math.reduce_std", "keras.ops.std"),
    kind="reduction",
    aliases=_REDUCED,
)
def std(
    x: TensorLike, axis: Axis = None, keepdims: bool = False, *, mask: TensorLike | None = None, ddof: int = 0
) -> tf.Tensor:
    """Standard deviation over axes, whose gradient is 0 where nothing varies.

    Computes `sqrt(variance(x))`, with the bits of `tf.math.reduce_std` where its variance is a number of full
    precision, and scaled by a power of two where that would overflow or vanish. The gradient is `(x - mean(x)) / (n *
    std(x))`, which is at most 1; where all samples are equal, or `n <= ddof`, value and gradient are 0.

    A NaN in `x` comes out as NaN, unless the mask leaves it out.

    Args:
        x: Floating tensor, any shape. Half precision is summed in float32.
        axis: Axis or axes over which it varies. Defaults to all.
        keepdims: Whether the reduced axes stay, as 1.
        mask: True (or not 0) for what counts; broadcast with `x` as NumPy does. Defaults to everything.
        ddof: What is taken off the number of samples, 1 for the unbiased estimate. Defaults to 0, as in TensorFlow,
            Keras and NumPy.

    Returns:
        Tensor of the dtype of `x` without the reduced axes, `>= 0`; finite for finite `x`.

    Example:

    >>> std([[1.0, 3.0], [5.0, 5.0]], axis=1).numpy()
    array([1., 0.], dtype=float32)

    Cures:
        NG301 sqrt-gradient-at-zero, NG501 empty-reduction, NG202 arithmetic-overflow, NG401 float16-range
    """
    x = to_float(x)
    limit = largest_slope(x)

    wide, weights = _with_mask(widened(x), mask)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def deviated(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        deviations, num = _deviations(x, weights, axis)
        divisor = tf.maximum(num - ddof, 0)
        squares, scale = sum_of_squares(deviations, axis)
        y = cut(tf.sqrt(tf.math.divide_no_nan(squares, divisor)) / scale)

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            upstream = tf.math.divide_no_nan(upstream, tf.sqrt(divisor))
            return along(deviations, upstream, tf.sqrt(squares), scale, axis, limit)

        return y, backward

    return narrowed(without_axes(deviated(wide), axis, keepdims), x.dtype)


reduce_mean, reduce_variance, reduce_std = mean, variance, std
var = variance


@cures(ARITHMETIC_OVERFLOW, DIVISION_BY_ZERO, FLOAT16_RANGE, replaces=("tf.math.cumprod",), kind="other")
def cumprod(x: TensorLike, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> tf.Tensor:
    """Running product along an axis, whose gradient is right at zeros and which stops at the largest number.

    Gives what `tf.math.cumprod` gives where that is finite. A product beyond the largest number stays there, and
    comes back when it meets factors below 1 or a 0. The gradient of `tf.math.cumprod` divides by `x`, and so is 0 at
    a 0, and wrong where a product vanishes; here it is summed without a division if a product is not a number of
    full precision. Unless all factors lie between `eps` and 1 in size: their products only fade, and what a gradient
    loses with each is less than 1e-31 (float32) of what comes from above. Its elements are cut to 9.2e18 (float32), so
    that their squares are finite.

    A NaN in `x` comes out as NaN in the products that it is part of.

    Args:
        x: Floating tensor of at least one axis. Half precision is computed in float32.
        axis: The axis to multiply along.
        exclusive: Whether a product leaves out the element at its own place, and so begins with 1.
        reverse: Whether to multiply from the end.

    Returns:
        Tensor of the shape and dtype of `x`; finite for finite `x`.

    Example:

    >>> cumprod([2.0, 3.0, 0.0, 5.0]).numpy()
    array([2., 6., 0., 0.], dtype=float32)
    >>> cumprod([1e30, 1e30, 0.0]).numpy()
    array([1.0000000e+30, 3.4028235e+38, 0.0000000e+00], dtype=float32)

    Cures:
        NG202 arithmetic-overflow, NG105 division-by-zero, NG401 float16-range

    References:
        Blelloch, *Prefix Sums and Their Applications*, CMU-CS-90-190, 1990, for the scan by doubling.
    """
    x = to_float(x)
    limit = largest_slope(x)

    def oriented(t: tf.Tensor) -> tf.Tensor:
        """Gives `t` with its axis last, to be gone through forwards."""
        t = tf.experimental.numpy.swapaxes(t, axis, -1)
        return tf.reverse(t, [-1]) if reverse else t

    def back(t: tf.Tensor) -> tf.Tensor:
        return tf.experimental.numpy.swapaxes(tf.reverse(t, [-1]) if reverse else t, axis, -1)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def multiplied(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        plain = tf.math.cumprod(x, axis, exclusive=exclusive, reverse=reverse)

        def with_cuts() -> tf.Tensor:
            factors = oriented(x)
            return back(_running_product(_shifted(factors, 1, 1.0) if exclusive else factors))

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            summed = tf.math.cumsum(plain * upstream, axis, exclusive=exclusive, reverse=not reverse)

            def by_division() -> tf.Tensor:
                return tf.math.divide_no_nan(summed, x)

            def by_scan() -> tf.Tensor:
                factors, gradient = oriented(x), oriented(upstream)
                if exclusive:
                    gradient = _shifted(gradient, -1, 0.0)
                # Not the product by doubling alone: of a branch of only such ops XLA makes a select, and computes both.
                before = when_finite(
                    tf.math.cumprod(factors, -1, exclusive=True),
                    lambda: _running_product(_shifted(factors, 1, 1.0)),
                )
                after = _running_sum(_shifted(factors, -1, 0.0), gradient)
                return back(before * after)

            size, limits = tf.abs(x), format_of(x)
            is_fading = (tf.reduce_max(size) <= 1) & (tf.reduce_min(size) >= limits.eps)
            is_whole = tf.reduce_min(tf.abs(plain)) >= limits.smallest_normal
            is_safe = (is_whole | is_fading) & tf.reduce_all(tf.math.is_finite(summed))
            return bounded(tf.cond(is_safe, by_division, by_scan), limit)

        return when_finite(plain, with_cuts), backward

    return narrowed(multiplied(widened(x)), x.dtype)


def _mean_of_all(x: tf.Tensor, axis: Axis, empty: float) -> tf.Tensor:
    """Gives the mean with the reduced axes as 1."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def averaged(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        y = tf.reduce_mean(x, axis, keepdims=True)
        num = _num_reduced(x, y)

        def of_quotients() -> tf.Tensor:
            return cut(tf.reduce_sum(cut(x) / num, axis, keepdims=True))

        if _may_be_empty(x):
            y = tf.where(num > 0, y, tf.constant(empty, x.dtype))
        y = when_finite(y, of_quotients)

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            return tf.broadcast_to(upstream / num, tf.shape(x))

        return y, backward

    return averaged(x)


def _weighted_mean(
    x: tf.Tensor, weights: tf.Tensor, axis: Axis, empty: float, limit: float, weights_learn: bool
) -> tf.Tensor:
    """Gives the weighted mean with the reduced axes as 1, of operands of one shape."""
    floor = tf.constant(1 / limit, x.dtype)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def averaged(x: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, object]:
        if weights_learn:
            weights = clipped(weights, 0.0, limit)
        total = tf.reduce_sum(weights, axis, keepdims=True)
        is_nothing = total < floor
        y = tf.reduce_sum(tf.math.multiply_no_nan(x, weights), axis, keepdims=True) / tf.maximum(total, floor)

        def of_shares() -> tf.Tensor:
            shares = weights / tf.maximum(total, floor)
            return cut(tf.reduce_sum(tf.math.multiply_no_nan(cut(x), shares), axis, keepdims=True))

        y = tf.where(is_nothing, tf.constant(empty, x.dtype), when_finite(y, of_shares))

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
            share = tf.where(is_nothing, tf.zeros_like(total), 1 / tf.maximum(total, floor))
            for_x = weights * (upstream * share)
            if not weights_learn:
                return for_x, None
            # A NaN that a weight of 0 leaves out says nothing about that weight.
            is_left_out = tf.math.is_nan(x) & (weights <= 0)
            slope = tf.where(is_left_out, tf.zeros_like(x), bounded((x - y) * share, limit))
            return for_x, slope * upstream

        return y, backward

    return averaged(x, weights)


def _deviations(x: tf.Tensor, weights: tf.Tensor | None, axis: Axis) -> tuple[tf.Tensor, tf.Tensor]:
    """Gives the deviations from the mean, 0 for what is left out, and how many count."""
    if weights is None:
        average = _mean_of_all(x, axis, 0.0)
        return cut(x - average), _num_reduced(x, average)
    average = _weighted_mean(x, weights, axis, 0.0, largest_slope(x), False)
    return cut(tf.math.multiply_no_nan(x - average, weights)), tf.reduce_sum(weights, axis, keepdims=True)


def _with_mask(x: tf.Tensor, mask: TensorLike | None) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Gives `x` and the mask as ones and zeros, both of the shape that they broadcast to; None for no mask."""
    return (x, None) if mask is None else _with_weights(x, mask, None)


def _with_weights(x: tf.Tensor, mask: TensorLike | None, weights: TensorLike | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Gives `x` and the weights times the mask, both of the shape that they broadcast to."""
    parts = []
    if weights is not None:
        parts.append(tf.cast(to_float(weights), x.dtype))
    if mask is not None:
        parts.append(tf.cast(tf.cast(mask, tf.bool), x.dtype))
    joint = parts[0] if len(parts) == 1 else tf.math.multiply_no_nan(*parts)
    if not (x.shape.is_fully_defined() and x.shape == joint.shape):
        shape = tf.broadcast_dynamic_shape(tf.shape(x), tf.shape(joint))
        x, joint = tf.broadcast_to(x, shape), tf.broadcast_to(joint, shape)
    return x, joint


def _num_reduced(x: tf.Tensor, reduced: tf.Tensor) -> tf.Tensor:
    """Gives how many elements of `x` went into each of `reduced`, as a number of the dtype of `x`."""
    if x.shape.is_fully_defined() and reduced.shape.is_fully_defined():
        ratios = [n for n, kept in zip(x.shape, reduced.shape, strict=True) if n != kept]
        return tf.constant(math.prod(ratios), x.dtype)
    is_reduced = tf.not_equal(tf.shape(x), tf.shape(reduced))
    return tf.cast(tf.reduce_prod(tf.where(is_reduced, tf.shape(x), 1)), x.dtype)


def _may_be_empty(x: tf.Tensor) -> bool:
    num = x.shape.num_elements()
    return num is None or num == 0


def _running_product(x: tf.Tensor) -> tf.Tensor:
    """Gives the products of all elements up to each along the last axis, each cut to the largest number on the way."""

    def double(step: Step, product: tf.Tensor) -> tuple[tf.Tensor]:
        return (cut(product * _shifted(product, step, 1.0)),)

    return _by_doubling(double, (x,))[0]


def _running_sum(factors: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Gives `s` with `s[i] = x[i] + factors[i] * s[i + 1]` along the last axis, each cut to the largest number."""

    def double(step: Step, factor: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        total = cut(total + cut(factor * _shifted(total, -step, 0.0)))
        return cut(factor * _shifted(factor, -step, 0.0)), total

    return _by_doubling(double, (factors, x))[1]


def _by_doubling(double: Callable[..., tuple[tf.Tensor, ...]], state: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
    """Gives `double(step, *state)` done for the steps 1, 2, 4, ... that are shorter than the last axis."""
    num = state[0].shape[-1]
    if num is not None:
        step = 1
        while step < num:
            state = double(step, *state)
            step *= 2
        return state

    def is_shorter(step: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
        return step < tf.shape(state[0])[-1]

    def body(step: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return (2 * step, *double(step, *state))

    return tuple(tf.while_loop(is_shorter, body, (tf.constant(1), *state))[1:])


def _shifted(x: tf.Tensor, by: Step, fill: float) -> tf.Tensor:
    """Gives `x` moved along the last axis, towards its end for `by > 0`, with `fill` where nothing came from."""
    num = tf.shape(x)[-1]
    front, back = tf.clip_by_value(by, 0, num), tf.clip_by_value(-by, 0, num)
    paddings = [[0, 0]] * (x.shape.rank - 1) + [[front, back]]
    y = tf.pad(x[..., back : num - front], paddings, constant_values=tf.constant(fill, x.dtype))
    y.set_shape(x.shape)
    return y
