"""Losses of a margin: what is right by more than 1 costs nothing."""

from __future__ import annotations

import tensorflow as tf

from nanguard.losses._base import FunctionLoss
from nanguard.losses._rows import mean_over, row_loss, summable
from nanguard.ops._bounds import bounded, format_of, largest_slope, pass_where_positive
from nanguard.ops._operation import TensorLike


@row_loss
def hinge(y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
    """Mean over the last axis of `max(1 - y_true * y_pred, 0)`, which overflows to the largest finite number.

    A NaN in a row makes its loss NaN.

    Args:
        y_true: Targets of -1 and 1, shape (..., n). If all are 0 or 1, a 0 counts as -1.
        y_pred: Predictions, shape (..., n).

    Returns:
        Tensor of shape (...) and the dtype of `y_pred`; finite where both are.

    Example:

    >>> hinge([[-1.0, 1.0], [-1.0, 1.0]], [[-2.0, 0.5], [3e38, -3e38]]).numpy()
    array([2.5000000e-01, 3.4028235e+38], dtype=float32)
    """

    def elements(target: tf.Tensor, prediction: tf.Tensor) -> tuple[object, ...]:
        limit = largest_slope(target)
        short = 1 - target * prediction
        return (
            tf.nn.relu(short),
            lambda upstream: pass_where_positive(bounded(prediction, limit) * -upstream, short),
            lambda upstream: pass_where_positive(bounded(target, limit) * -upstream, short),
        )

    return mean_over(-1, elements, _signs(y_true), y_pred)


@row_loss
def squared_hinge(y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
    """Mean over the last axis of `max(1 - y_true * y_pred, 0)**2`, which overflows to the largest finite number.

    A NaN in a row makes its loss NaN.

    Args:
        y_true: Targets of -1 and 1, shape (..., n). If all are 0 or 1, a 0 counts as -1.
        y_pred: Predictions, shape (..., n).

    Returns:
        Tensor of shape (...) and the dtype of `y_pred`; finite where both are.

    Example:

    >>> squared_hinge([[-1.0, 1.0], [-1.0, 1.0]], [[-2.0, 0.5], [1e30, 0.0]]).numpy()
    array([1.2500000e-01, 3.4028235e+38], dtype=float32)

    Cures:
        NG202 arithmetic-overflow
    """

    def elements(target: tf.Tensor, prediction: tf.Tensor) -> tuple[object, ...]:
        limit = largest_slope(target) / 2
        short = tf.nn.relu(1 - target * prediction)
        return (
            tf.square(short),
            lambda upstream: bounded(short * prediction, limit) * (-2 * upstream),
            lambda upstream: bounded(short * target, limit) * (-2 * upstream),
        )

    return mean_over(-1, elements, _signs(y_true), y_pred)


@row_loss
def categorical_hinge(y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
    """`max(wrong - right + 1, 0)`: by how much the right class is not ahead of the best wrong one by 1.

    Here `right` is `sum(y_true * y_pred)` and `wrong` is `max((1 - y_true) * y_pred)`. A NaN in a row makes its loss
    NaN.

    Args:
        y_true: One-hot targets, shape (..., classes).
        y_pred: Predictions, shape (..., classes).

    Returns:
        Tensor of shape (...) and the dtype of `y_pred`; finite where both are.

    Example:

    >>> categorical_hinge([[0.0, 1.0], [1.0, 0.0]], [[0.2, 0.7], [-3e38, 3e38]]).numpy()
    array([5.0000000e-01, 3.4028235e+38], dtype=float32)
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def margin(target: tf.Tensor, prediction: tf.Tensor) -> tuple[tf.Tensor, object]:
        largest, limit = format_of(prediction).max, largest_slope(prediction) / 4
        others = (1 - target) * prediction
        right = bounded(tf.reduce_sum(summable(target * prediction), -1), largest)
        best = tf.reduce_max(others, -1, keepdims=True)
        # The largest of no classes is -inf.
        short = bounded(tf.squeeze(best, -1), largest) - right + 1

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            upstream = tf.expand_dims(pass_where_positive(upstream, short), -1)
            is_best = tf.cast(tf.equal(others, best), target.dtype)
            # Where several are the best they share the slope, as in tf.reduce_max.
            shared = upstream / tf.maximum(tf.reduce_sum(is_best, -1, keepdims=True), 1)
            prediction_, target_ = bounded(prediction, limit), bounded(target, limit)
            return (
                -prediction_ * (upstream + is_best * shared),
                (1 - target_) * is_best * shared - target_ * upstream,
            )

        return bounded(tf.nn.relu(short), largest), backward

    return margin(y_true, y_pred)


def _signs(target: tf.Tensor) -> tf.Tensor:
    """Gives targets of -1 and 1, if all are 0 or 1."""
    is_binary = tf.reduce_all(tf.equal(tf.square(target), target))
    return tf.cond(is_binary, lambda: 2 * target - 1, lambda: target)


class Hinge(FunctionLoss, function=hinge):
    """`hinge` as a class, with the reductions of `Loss`."""


class SquaredHinge(FunctionLoss, function=squared_hinge):
    """`squared_hinge` as a class, with the reductions of `Loss`."""


class CategoricalHinge(FunctionLoss, function=categorical_hinge):
    """`categorical_hinge` as a class, with the reductions of `Loss`."""
