"""How tensors come into a loss and leave it, so that what lies between needs no care of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import keras
import tensorflow as tf

from nanguard.intervals import float_format
from nanguard.ops._bounds import bounded, clipped, format_of
from nanguard.ops._operation import TensorLike, to_float

Function = TypeVar("Function", bound=Callable[..., Any])


def registered(function: Function) -> Function:
    """Registers a loss function with Keras by its name, so that a model compiled with it saves and loads."""
    # AutoGraph has nothing to do in it, and takes its time.
    unconverted = tf.autograph.experimental.do_not_convert(function)
    return keras.saving.register_keras_serializable(package="nanguard")(unconverted)  # type: ignore[no-any-return]


def reach_of(dtype: tf.DType) -> float:
    """Gives the size to which a loss reads its inputs: 1.1e15 in float32, 8.2e149 in float64.

    A quarter of a billion squares of such numbers still have a finite sum.
    """
    format = float_format(tf.as_dtype(dtype).name)
    return 2.0 ** ((format.max_exponent + 1) // 2 - 14)


def working_dtype(dtype: tf.DType) -> tf.DType:
    """Gives the dtype that a loss computes in: float32 for the half formats, else the tensor's own."""
    return tf.float32 if dtype.size == 2 else dtype


def admit(
    x: TensorLike, low: float | None = None, high: float | None = None, *, dtype: tf.DType | None = None
) -> tf.Tensor:
    """Gives a tensor that a loss may compute with: cut to `[low, high]`, and float32 if it was of half precision.

    The gradient passes straight through, so that what was cut can come back, and is cut to the largest slope whose
    square is finite in the dtype of `x`. An infinite gradient that arose on the way so becomes a large one. NaN stays.

    Args:
        x: What came.
        low: Least number that comes out. Defaults to `-reach_of(dtype)`.
        high: Largest number that comes out. Defaults to `reach_of(dtype)`.
        dtype: Dtype that comes out, where it is another.
    """
    x = to_float(x)
    slope_limit, dtype = 1 / format_of(x).floor, dtype or working_dtype(x.dtype)
    least = tf.constant(-reach_of(dtype) if low is None else low, dtype)
    largest = tf.constant(reach_of(dtype) if high is None else high, dtype)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def admitted(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        y = clipped(tf.cast(x, dtype), least, largest)
        return y, lambda upstream: tf.cast(bounded(upstream, slope_limit), x.dtype)

    return admitted(x)


def admit_target(
    y_true: TensorLike, y_pred: tf.Tensor, low: float | None = None, high: float | None = None
) -> tf.Tensor:
    """Gives the targets in the dtype of predictions that have been admitted."""
    return admit(y_true, low, high, dtype=y_pred.dtype)


def like(y_true: TensorLike, y_pred: tf.Tensor) -> tf.Tensor:
    """Gives the targets in the dtype of the predictions; their gradient is cut to the largest number of their own."""
    y_true = tf.convert_to_tensor(y_true)
    dtype, own = y_pred.dtype, y_true.dtype
    if dtype == own or not own.is_floating:
        return tf.cast(y_true, dtype)
    limit = min(format_of(y_true).max, format_of(y_pred).max)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def alike(y_true: tf.Tensor) -> tuple[tf.Tensor, object]:
        # A target of float64 may be beyond the largest float32.
        inside = bounded(y_true, limit) if own.size > dtype.size else y_true
        return tf.cast(inside, dtype), lambda upstream: tf.cast(bounded(upstream, limit), own)

    return alike(y_true)


def dismiss(values: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Gives the values of a loss in the dtype of its predictions, cut to the largest finite number.

    What was cut keeps its gradient, or a loss that overflows could never come down.
    """
    limit = min(float_format(values.dtype.name).max, float_format(dtype.name).max)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def dismissed(values: tf.Tensor) -> tuple[tf.Tensor, object]:
        return tf.cast(bounded(values, limit), dtype), lambda upstream: tf.cast(upstream, values.dtype)

    return dismissed(values)


def mean_of_last_axis(values: tf.Tensor) -> tf.Tensor:
    """Gives the mean over the last axis; a scalar is its own mean."""
    return values if values.shape.rank == 0 else tf.reduce_mean(values, axis=-1)


def parts(y_pred: tf.Tensor, number: int) -> list[tf.Tensor]:
    """Gives the equal parts that lie side by side on the last axis.

    Raises:
        ValueError: If the last axis cannot be divided so.
    """
    size = y_pred.shape[-1]
    if size is not None and size % number:
        raise ValueError(
            f"The last axis of `y_pred` must hold {number} equal parts. Received: shape={tuple(y_pred.shape)}."
        )
    return list(tf.split(y_pred, number, axis=-1))
