"""The two ways to keep an op finite: ask it only for what it can answer, and bound the slope that it gives back."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np
import tensorflow as tf

from nanguard.backend.losses import is_compiled_by_xla
from nanguard.intervals import FloatFormat, float_format

# XLA of TensorFlow 2.18 makes the lower limit of a NaN between two bounds. Those after it were not measured.
_XLA_KEEPS_NAN = tuple(int(part) for part in tf.__version__.split(".")[:2]) >= (2, 21)

ClampGradient: TypeAlias = Literal["zero", "straight_through"]
"""What a clamped element learns: nothing, or as if the clamp were not there."""


def format_of(x: tf.Tensor) -> FloatFormat:
    """Gives the limits of a tensor's dtype."""
    return float_format(x.dtype.name)


def largest_slope(x: tf.Tensor) -> float:
    """Gives the largest slope whose square, which Adam keeps, is finite in a tensor's dtype."""
    # In float16 that is the largest of log's slopes; there the square must be kept in float32.
    return 1 / format_of(x).floor


def clamp(
    x: tf.Tensor, low: float | None = None, high: float | None = None, *, gradient: ClampGradient = "zero"
) -> tf.Tensor:
    """Gives `min(max(x, low), high)` with the gradient of one's choice outside; a NaN and its gradient stay NaN.

    Args:
        x: Floating tensor, any shape.
        low: Least number that comes out, if any.
        high: Largest number that comes out, if any.
        gradient: "zero", or "straight_through" for the gradient that came from above.
    """

    def backward(upstream: tf.Tensor) -> tf.Tensor:
        if gradient == "straight_through":
            return upstream
        if low is not None and high == -low:
            return pass_where_positive(upstream, next_above(high, x.dtype) - tf.abs(x))
        if low is not None:
            upstream = pass_where_positive(upstream, x - next_below(low, x.dtype))
        if high is not None:
            upstream = pass_where_positive(upstream, next_above(high, x.dtype) - x)
        return upstream

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def clamped(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        if low is None:
            return x if high is None else tf.minimum(x, tf.constant(high, x.dtype)), backward
        return tf.maximum(x, tf.constant(low, x.dtype)) if high is None else clipped(x, low, high), backward

    return clamped(x)


def pass_where_positive(upstream: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Gives `upstream` where `x > 0` and 0 elsewhere; a NaN of `upstream` stays.

    One pass over the elements: a comparison and `tf.where` take two, and cost half as much as a logarithm.
    """
    # Not ReluGrad: XLA makes a select of it, which turns the gradient of a NaN into 0. This one multiplies by 0.
    return tf.raw_ops.LeakyReluGrad(gradients=upstream, features=x, alpha=0.0)


def next_below(limit: float, dtype: tf.DType) -> tf.Tensor:
    """Gives the number next below a limit, so that an element at the limit is told from one outside."""
    if limit == 0:  # Kernels read a subnormal number as 0.
        return tf.constant(-float_format(dtype.name).smallest_normal, dtype)
    number = np.array([limit], dtype.as_numpy_dtype)
    # np.nextafter does not know bfloat16. The bits of a positive number count upwards, those of a negative downwards.
    bits = number.view(f"u{dtype.size}")
    bits += np.array(-1 if limit > 0 else 1).astype(bits.dtype)
    return tf.constant(number[0], dtype)


def next_above(limit: float, dtype: tf.DType) -> tf.Tensor:
    """Gives the number next above a limit."""
    return -next_below(-limit, dtype)


def clipped(x: tf.Tensor, low: float | tf.Tensor, high: float | tf.Tensor) -> tf.Tensor:
    """Gives `x` cut to `[low, high]` in one pass and new memory, for an `x` that is read again; a NaN stays NaN.

    See also `bounded`.
    """
    low, high = (tf.convert_to_tensor(limit, x.dtype) for limit in (low, high))
    return _with_nan_of(x, tf.raw_ops.ClipByValue(t=x, clip_value_min=low, clip_value_max=high))


def bounded(x: tf.Tensor, limit: float) -> tf.Tensor:
    """Gives `x` cut to `[-limit, limit]`; a NaN stays NaN."""
    # Not ClipByValue: in a graph these two work in the memory of `x` if nothing else reads it. That one takes new
    # memory, and five times as long as either of them.
    return _with_nan_of(x, tf.maximum(tf.minimum(x, tf.constant(limit, x.dtype)), tf.constant(-limit, x.dtype)))


def _with_nan_of(x: tf.Tensor, cut: tf.Tensor) -> tf.Tensor:
    return cut if _XLA_KEEPS_NAN or not is_compiled_by_xla() else tf.where(tf.math.is_nan(x), x, cut)


def reduce_to_shape_of(gradient: tf.Tensor, operand: tf.Tensor) -> tf.Tensor:
    """Gives a gradient summed over the axes along which `operand` was broadcast."""
    if gradient.shape.is_fully_defined() and gradient.shape == operand.shape:
        return gradient
    target = tf.shape(operand)
    axes = tf.raw_ops.BroadcastGradientArgs(s0=tf.shape(gradient), s1=target)[1]
    return tf.reshape(tf.reduce_sum(gradient, axes), target)


def check_positive(name: str, value: float | None, otherwise: str) -> None:
    """Raises ValueError unless `value` is None or positive and finite; `otherwise` says what None stands for."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise ValueError(f"`{name}` must be positive. Received: {name}={value}. To use {otherwise}, leave it out.")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}. Received: {name}={value!r}.")
