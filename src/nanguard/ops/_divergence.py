"""What every divergence and entropy is made of: a formula whose value is cut and whose slopes are bounded."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from nanguard.ops._bounds import bounded, clamp, largest_slope
from nanguard.ops._operation import TensorLike, to_float
from nanguard.ops._scaling import cut, narrowed, widened


def divergence(between: Callable[..., tf.Tensor], *parameters: TensorLike, keep_numbers: bool = False) -> tf.Tensor:
    """Gives `between(*parameters)`, cut to the largest number and with each of its slopes bounded.

    Args:
        between: What to compute, of tensors of one shape in at least float32. If it reduces an axis, it keeps it as 1.
        parameters: What came from the user.
        keep_numbers: Whether `between` takes Python numbers as scalars, which is cheaper than to spread them out.
    """
    first = next((p for p in parameters if not isinstance(p, int | float)), None)
    keep_numbers = keep_numbers and first is not None
    like = to_float(parameters[0] if first is None else first)
    tensors = [to_float(p, like=like) for p in parameters]
    dtype = tf.as_dtype(keras.backend.result_type(*(t.dtype.name for t in tensors)))
    tensors = [widened(tf.cast(t, dtype)) for t in tensors]
    limit = largest_slope(tf.zeros([], dtype))
    places = [i for i, p in enumerate(parameters) if not (keep_numbers and isinstance(p, int | float))]

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def diverged(*spread: tf.Tensor) -> tuple[tf.Tensor, object]:
        def completed() -> list[tf.Tensor]:
            every = list(tensors)
            for place, tensor in zip(places, spread, strict=True):
                every[place] = tensor
            return every

        def backward(upstream: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(spread)
                value = between(*completed())
            return [bounded(slope, limit) * upstream for slope in tape.gradient(value, spread)]

        return cut(between(*completed())), backward

    return narrowed(diverged(*_broadcast([tensors[i] for i in places])), dtype)


def _broadcast(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    if all(t.shape.is_fully_defined() and t.shape == tensors[0].shape for t in tensors):
        return tensors
    shape = tf.shape(tensors[0])
    for t in tensors[1:]:
        shape = tf.broadcast_dynamic_shape(shape, tf.shape(t))
    return [tf.broadcast_to(t, shape) for t in tensors]


def not_negative(value: tf.Tensor) -> tf.Tensor:
    """Gives a divergence without what rounding may put below 0."""
    return clamp(value, low=0.0, gradient="straight_through")


def log_of_ratio(a: tf.Tensor, b: tf.Tensor, difference: tf.Tensor | None = None) -> tf.Tensor:
    """Gives `log(a / b)` of positive parameters in range, with all digits of what they differ by.

    Args:
        a: The numerator.
        b: The denominator.
        difference: `a - b`, where it is known better than by taking them from each other.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def log(a: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, object]:
        beyond = (a - b if difference is None else difference) / b
        value = tf.where(tf.abs(beyond) < 0.5, tf.math.log1p(beyond), tf.math.log(a / b))
        return value, lambda upstream: (upstream / a, -upstream / b)

    return log(a, b)
