"""A loss as one value for each row, with its slope in closed form."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeAlias

import keras
import tensorflow as tf

from nanguard.backend.losses import is_compiled_by_xla
from nanguard.backend.predictions import map_prediction
from nanguard.losses._base import same_rank
from nanguard.losses._entry import dismiss, working_dtype
from nanguard.ops._bounds import bounded, clipped, format_of, reduce_to_shape_of
from nanguard.ops._operation import to_float
from nanguard.ops._scaling import when_finite

Parameters = ParamSpec("Parameters")

Axis: TypeAlias = int | Sequence[int] | None

Slope: TypeAlias = Callable[[tf.Tensor], tf.Tensor]
"""Takes the gradient from above, and gives it times the slope of each element."""

Elements: TypeAlias = Callable[..., tuple[Any, ...]]
"""Takes the operands, and gives the value of each element, then a `Slope` for each operand."""


def row_loss(function: Callable[Parameters, tf.Tensor]) -> Callable[Parameters, tf.Tensor]:
    """Makes a function of two tensors of one float dtype and rank a loss of whatever comes.

    Half precision is computed in float32; the value has the dtype of `y_pred` and is cut to its largest number. The
    loss is registered with Keras, so that a model compiled with it saves and loads.
    """

    def match(y_true: tf.Tensor, y_pred: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        wide = widen(y_true) if y_true.dtype.is_floating else y_true
        return same_rank(tf.cast(wide, y_pred.dtype), y_pred)

    return _loss(function, match)


def label_loss(function: Callable[Parameters, tf.Tensor]) -> Callable[Parameters, tf.Tensor]:
    """Makes a function of class numbers, which keep their dtype, and predictions a loss. See `row_loss`."""
    return _loss(function, lambda y_true, y_pred: (y_true, y_pred))


def _loss(
    function: Callable[Parameters, tf.Tensor],
    match: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
) -> Callable[Parameters, tf.Tensor]:
    # Its type is too much for Concatenate: a caller may name y_true and y_pred.
    inner: Callable[..., tf.Tensor] = function

    @functools.wraps(function)
    def loss(y_true: Any, y_pred: Any, *args: Any, **kwargs: Any) -> tf.Tensor:
        if not isinstance(y_pred, tf.Tensor) or not y_pred.dtype.is_floating:
            y_pred = to_float(y_pred)
        dtype = y_pred.dtype
        y_true, y_pred = match(tf.convert_to_tensor(y_true), map_prediction(widen, y_pred))
        return map_prediction(lambda values: dismiss(values, dtype), inner(y_true, y_pred, *args, **kwargs))

    # AutoGraph has nothing to do in it, and takes its time.
    unconverted = tf.autograph.experimental.do_not_convert(loss)
    return keras.saving.register_keras_serializable(package="nanguard")(unconverted)  # type: ignore[no-any-return]


def widen(x: tf.Tensor) -> tf.Tensor:
    """Gives a tensor of half precision in float32; its gradient comes back cut to the largest number of its dtype."""
    dtype = working_dtype(x.dtype)
    if dtype == x.dtype:
        return x

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def widened(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        return tf.cast(x, dtype), lambda upstream: tf.cast(bounded(upstream, format_of(x).max), x.dtype)

    return widened(x)


def mean_over(axis: Axis, elements: Elements, *operands: tf.Tensor, mixed: bool = False) -> tf.Tensor:
    """Gives the mean of the elements over some axes, cut to the largest number, with the slopes that they bring.

    The cut costs no gradient: what it cuts could never come down otherwise.

    Args:
        axis: What the mean is taken over; None is all axes.
        elements: What gives the values and the slopes.
        operands: What it takes.
        mixed: Whether +inf and -inf may meet in a row, whose sum would be NaN.
    """
    return _reduced(axis, elements, operands, mean=True, mixed=mixed)


def sum_over(axis: Axis, elements: Elements, *operands: tf.Tensor) -> tf.Tensor:
    """Gives the sum of the elements over some axes. See `mean_over`."""
    return _reduced(axis, elements, operands, mean=False, mixed=False)


def _reduced(axis: Axis, elements: Elements, operands: Sequence[tf.Tensor], *, mean: bool, mixed: bool) -> tf.Tensor:
    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def rows(*operands: tf.Tensor) -> tuple[tf.Tensor, object]:
        values, *slopes = elements(*operands)
        along = axis if values.shape.rank != 0 else None  # A scalar is its own row.
        if mixed and is_compiled_by_xla():  # There a pass over the elements costs nothing, and a branch does.
            values = summable(values, along)
        number = count_along(values, along)

        def reduce(values: tf.Tensor) -> tf.Tensor:
            if not mean:
                return tf.reduce_sum(values, along)
            if isinstance(number, int) and number > 0:
                return tf.reduce_mean(values, along)
            # The mean of nothing would be NaN.
            return tf.reduce_sum(values, along) / tf.maximum(tf.cast(number, values.dtype), 1)

        result = reduce(values)
        if mixed and not is_compiled_by_xla():
            result = where_nan(result, lambda: reduce(summable(values, along)))

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            if mean:
                upstream = upstream / tf.maximum(tf.cast(number, values.dtype), 1)
            upstream = spread(upstream, values, along)
            return tuple(
                reduce_to_shape_of(slope(upstream), operand) for slope, operand in zip(slopes, operands, strict=True)
            )

        return bounded(result, format_of(values).max), backward

    return rows(*operands)


def count_along(values: tf.Tensor, axis: Axis) -> int | tf.Tensor:
    """Gives how many elements make one row: a number where the shape tells, else a tensor."""
    shape = values.shape
    axes = _axes(axis, shape.rank)
    if axes is None:
        known = shape.num_elements()
    else:
        known = tf.TensorShape([shape[each] for each in axes]).num_elements() if shape.rank is not None else None
    if known is not None:
        return int(known)
    sizes = tf.shape(values)
    return tf.reduce_prod(sizes if axes is None else tf.gather(sizes, [each % tf.rank(values) for each in axes]))


def spread(rows: tf.Tensor, values: tf.Tensor, axis: Axis) -> tf.Tensor:
    """Gives one number for each row in a shape that broadcasts over the elements of `values`."""
    if isinstance(axis, int):
        return tf.expand_dims(rows, axis)
    axes = _axes(axis, values.shape.rank)
    if axes is None:
        return rows  # A scalar broadcasts as it is.
    for each in sorted(axes):
        rows = tf.expand_dims(rows, each)
    return rows


def _axes(axis: Axis, rank: int | None) -> list[int] | None:
    if axis is None:
        return None
    axes = [axis] if isinstance(axis, int) else list(axis)
    return axes if rank is None else [each % rank for each in axes]


def share_of_max(values: tf.Tensor, axis: Axis) -> tf.Tensor:
    """Gives the largest number of which a whole row has a finite sum, whatever the signs."""
    number = tf.maximum(tf.cast(count_along(values, axis), values.dtype), 1)
    # Half of it, for the sum of a million roundings may exceed what it should be by some of them.
    return tf.constant(format_of(values).max / 2, values.dtype) / number


def summable(values: tf.Tensor, axis: Axis = -1) -> tf.Tensor:
    """Gives the elements cut so that +inf and -inf cannot meet in the sum of a row and make NaN."""
    limit = share_of_max(values, axis)
    return clipped(values, -limit, limit)


def where_nan(rows: tf.Tensor, otherwise: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Gives rows, and what `otherwise` works out in the place of those that are NaN; it costs nothing until needed."""
    return when_finite(rows, lambda: tf.where(tf.math.is_nan(rows), otherwise(), rows))


def nearest_to_zero(x: tf.Tensor) -> float:
    """Gives the least probability at which a slope is read: Keras's epsilon, or where the dtype ends."""
    return max(float(keras.config.epsilon()), format_of(x).floor)


def nearest_to_one(x: tf.Tensor) -> float:
    """Gives the largest probability at which a slope is read."""
    return 1 - max(float(keras.config.epsilon()), format_of(x).eps)
