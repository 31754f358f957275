"""Losses of an error: of what is predicted less what is true."""

from __future__ import annotations

import keras
import tensorflow as tf

from nanguard.losses._base import FunctionLoss
from nanguard.losses._rows import mean_over, row_loss
from nanguard.ops._bounds import bounded, check_positive, format_of, largest_slope
from nanguard.ops._operation import TensorLike
from nanguard.ops.exponential import log_of_cosh


@row_loss
def mean_squared_error(y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
    """Mean over the last axis of the squared error, which overflows to the largest finite number.

    The slope is `2 * (y_pred - y_true)`, cut to the largest whose square is finite. A NaN in a row makes its loss NaN.

    Args:
        y_true: Targets, shape (..., n).
        y_pred: Predictions, shape (..., n).

    Returns:
        Tensor of shape (...) and the dtype of `y_pred`.

    Example:

    >>> mean_squared_error([[0.0, 1.0], [-3e38, 0.0]], [[0.0, 3.0], [3e38, 0.0]]).numpy()
    array([2.0000000e+00, 3.4028235e+38], dtype=float32)

    Cures:
        NG202 arithmetic-overflow
    """

    def elements(error: tf.Tensor) -> tuple[object, ...]:
        return tf.square(error), lambda upstream: bounded(error, largest_slope(error) / 2) * (2 * upstream)

    return mean_over(-1, elements, y_pred - y_true)


@row_loss
def mean_absolute_error(y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
    """Mean over the last axis of the absolute error.

    The slope is the sign of the error, and 0 where there is none. A NaN in a row makes its loss NaN.

    Args:
        y_true: Targets, shape (..., n).
        y_pred: Predictions, shape (..., n).

    Returns:
        Tensor of shape (...) and the dtype of `y_pred`; finite where both are.

    Example:

    >>> mean_absolute_error([[0.0, 1.0], [-3e38, -3e38]], [[0.0, 3.0], [3e38, 3e38]]).numpy()
    array([1.0000000e+00, 3.4028235e+38], dtype=float32)
    """

    def elements(error: tf.Tensor) -> tuple[object, ...]:
        return tf.abs(error), lambda upstream: tf.sign(error) * upstream

    return mean_over(-1, elements, y_pred - y_true)


@row_loss
def mean_absolute_percentage_error(y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
    """A hundred times the mean over the last axis of the absolute error relative to the target.

    Computes `100 * mean(|y_pred - y_true| / max(|y_true|, epsilon))` with `keras.config.epsilon()`, as Keras does. A
    target of 0 thus weighs ten million times as much as one of 1. A NaN in a row makes its loss NaN.

    Args:
        y_true: Targets, shape (..., n).
        y_pred: Predictions, shape (..., n).

    Returns:
        Tensor of shape (...) and the dtype of `y_pred`; finite where both are.

    Example:

    >>> mean_absolute_percentage_error([[4.0, 1.0], [1.0, 0.0]], [[4.0, 3.0], [1.0, 3e38]]).numpy()
    array([1.0000000e+02, 3.4028235e+38], dtype=float32)

    Cures:
        NG105 division-by-zero
    """

    def elements(target: tf.Tensor, prediction: tf.Tensor) -> tuple[object, ...]:
        epsilon, limit = keras.config.epsilon(), largest_slope(target)
        size = tf.maximum(tf.abs(target), tf.constant(epsilon, target.dtype))
        relative = (target - prediction) / size

        def target_slope(upstream: tf.Tensor) -> tf.Tensor:
            # Where the floor stands in for the target, the target is in the numerator alone.
            often = tf.minimum(tf.abs(relative), tf.constant(format_of(target).max, target.dtype))
            divides = tf.sign(target) * tf.cast(tf.abs(target) > epsilon, target.dtype)
            return bounded(100 * (tf.sign(relative) - often * divides) / size, limit) * upstream

        return 100 * tf.abs(relative), target_slope, lambda upstream: tf.sign(relative) / size * (-100 * upstream)

    return mean_over(-1, elements, y_true, y_pred)


@row_loss
def mean_squared_logarithmic_error(y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
    """Mean over the last axis of the squared error between the logarithms of 1 plus each.

    Computes `mean((log1p(max(y_pred, 0)) - log1p(max(y_true, 0)))**2)`. Keras adds 1 first, which loses all but two
    digits of 1e-6. A prediction below 0 counts as 0 and has the slope of 0, so that it is pulled up where the target
    is positive. A NaN in a row makes its loss NaN.

    Args:
        y_true: Targets, shape (..., n). Meant for `y_true >= 0`.
        y_pred: Predictions, shape (..., n). Meant for `y_pred >= 0`.

    Returns:
        Tensor of shape (...) and the dtype of `y_pred`; finite where both are.

    Example:

    >>> mean_squared_logarithmic_error([[0.0, 1.0]], [[-5.0, 1.0]]).numpy()
    array([0.], dtype=float32)

    Cures:
        NG104 log1p-at-or-below-minus-one
    """

    def elements(target: tf.Tensor, prediction: tf.Tensor) -> tuple[object, ...]:
        target, prediction = tf.nn.relu(target), tf.nn.relu(prediction)
        difference = tf.math.log1p(prediction) - tf.math.log1p(target)
        return (
            tf.square(difference),
            lambda upstream: difference / (1 + target) * (-2 * upstream),
            lambda upstream: difference / (1 + prediction) * (2 * upstream),
        )

    return mean_over(-1, elements, y_true, y_pred)


@row_loss
def huber(y_true: TensorLike, y_pred: TensorLike, delta: float = 1.0) -> tf.Tensor:
    """Mean over the last axis of Huber's loss: half the squared error up to `delta`, linear beyond.

    Computes `c * (e - c / 2)` where `c` is the error `e` cut to `[-delta, delta]`; `c` is the slope too. A NaN in a row
    makes its loss NaN.

    Args:
        y_true: Targets, shape (..., n).
        y_pred: Predictions, shape (..., n).
        delta: Size of the error from which on the loss is linear, `> 0`. Defaults to 1, as in Keras.

    Returns:
        Tensor of shape (...) and the dtype of `y_pred`; finite where both are.

    Raises:
        ValueError: If `delta` is not positive.

    Example:

    >>> huber([[0.0, 1.0], [0.0, 0.0]], [[0.6, 0.4], [0.4, 5.0]]).numpy()
    array([0.18, 2.29], dtype=float32)

    Cures:
        NG202 arithmetic-overflow

    References:
        Huber, *Robust Estimation of a Location Parameter*, Annals of Mathematical Statistics 35, 1964.
    """
    check_positive("delta", delta, "1.0")

    def elements(error: tf.Tensor) -> tuple[object, ...]:
        near = bounded(error, delta)
        slope = near if delta <= largest_slope(error) else bounded(near, largest_slope(error))
        return near * (error - 0.5 * near), lambda upstream: slope * upstream

    return mean_over(-1, elements, y_pred - y_true)


@row_loss
def log_cosh(y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
    """Mean over the last axis of the logarithm of the error's hyperbolic cosine.

    About `e**2 / 2` for a small error `e`, and `|e| - log(2)` for a large one. Its slope is `tanh(e)`. Keras takes a
    softplus and `log(2)` from each other, which leaves no digit below an error of 2e-4. A NaN in a row makes its loss
    NaN.

    Args:
        y_true: Targets, shape (..., n).
        y_pred: Predictions, shape (..., n).

    Returns:
        Tensor of shape (...) and the dtype of `y_pred`; finite where both are.

    Example:

    >>> log_cosh([[0.0, 0.0], [0.0, 0.0]], [[1e-4, 1e-4], [1e38, -1e38]]).numpy()
    array([4.9999995e-09, 9.9999997e+37], dtype=float32)

    Cures:
        NG201 exp-overflow
    """

    def elements(error: tf.Tensor) -> tuple[object, ...]:
        return log_of_cosh(error), lambda upstream: tf.tanh(error) * upstream

    return mean_over(-1, elements, y_pred - y_true)


class MeanSquaredError(FunctionLoss, function=mean_squared_error):
    """`mean_squared_error` as a class, with the reductions of `Loss`."""


class MeanAbsoluteError(FunctionLoss, function=mean_absolute_error):
    """`mean_absolute_error` as a class, with the reductions of `Loss`."""


class MeanAbsolutePercentageError(FunctionLoss, function=mean_absolute_percentage_error):
    """`mean_absolute_percentage_error` as a class, with the reductions of `Loss`."""


class MeanSquaredLogarithmicError(FunctionLoss, function=mean_squared_logarithmic_error):
    """`mean_squared_logarithmic_error` as a class, with the reductions of `Loss`."""


class Huber(FunctionLoss, function=huber, defaults={"name": "huber_loss"}):
    """`huber` as a class, with the reductions of `Loss`."""


class LogCosh(FunctionLoss, function=log_cosh):
    """`log_cosh` as a class, with the reductions of `Loss`."""
