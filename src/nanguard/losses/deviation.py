"""Losses of the size of an error: its root mean square, and its quantiles."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from nanguard.losses._base import FunctionLoss, same_rank
from nanguard.losses._entry import dismiss, like, mean_of_last_axis, registered
from nanguard.losses._rows import widen
from nanguard.ops._bounds import bounded, format_of
from nanguard.ops._operation import TensorLike, to_float
from nanguard.ops.norm import norm


@registered
def root_mean_squared_error(y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
    """Root of the mean squared error over the last axis.

    Computes `norm(y_true - y_pred) / sqrt(n)`. The gradient of a perfect prediction is 0, where that of the root is
    infinite, and errors whose squares overflow or vanish are scaled first. NaN stays NaN.

    Args:
        y_true: Targets, shape (..., n).
        y_pred: Predictions, shape as `y_true`.

    Returns:
        Tensor of shape (...).

    Example:

    >>> root_mean_squared_error([[0.0, 0.0], [1.0, 1.0]], [[3.0, 3.0], [1.0, 1.0]]).numpy()
    array([3., 0.], dtype=float32)

    Cures:
        NG301 sqrt-gradient-at-zero, NG202 arithmetic-overflow
    """
    error, dtype = _error(y_true, y_pred)
    if error.shape.rank == 0:
        return dismiss(tf.abs(error), dtype)
    number = tf.cast(tf.maximum(tf.shape(error)[-1], 1), error.dtype)
    return dismiss(norm(error, axis=-1) / tf.sqrt(number), dtype)


@registered
def quantile(y_true: TensorLike, y_pred: TensorLike, quantiles: float | Sequence[float] = 0.5) -> tf.Tensor:
    """Pinball loss, whose best prediction is a quantile of the targets.

    Computes `max(q * e, (q - 1) * e)` of the error `e = y_true - y_pred`, and its mean over the last axis, where an
    error that overflows is read at the largest finite number. NaN stays NaN.

    Args:
        y_true: Targets, shape (..., n).
        y_pred: Predictions, shape as `y_true` for one quantile. For several, the last axis is that of the quantiles:
            shape (..., n, Q), or (..., Q) for targets of shape (..., 1) or (...).
        quantiles: One number in (0, 1), or several. Defaults to 0.5, half the absolute error, for the median.

    Returns:
        Tensor of the shape of `y_pred` without the last axis.

    Raises:
        ValueError: If a quantile is not between 0 and 1, or the last axis of `y_pred` does not have as many.

    Example:

    >>> quantile([[1.0]], [[0.0, 0.0, 3.0]], quantiles=(0.1, 0.5, 0.9)).numpy()  # (0.1 + 0.5 + 0.2) / 3
    array([0.26666668], dtype=float32)

    Cures:
        NG202 arithmetic-overflow

    References:
        Koenker and Bassett, *Regression Quantiles*, Econometrica 1978.
    """
    each = [quantiles] if isinstance(quantiles, int | float) else list(quantiles)
    if not each or not all(0 < q < 1 for q in each):
        raise ValueError(f"`quantiles` must be between 0 and 1. Received: quantiles={quantiles}.")
    y_pred, y_true = to_float(y_pred), tf.convert_to_tensor(y_true)
    if not isinstance(quantiles, int | float):
        if y_pred.shape[-1] not in (None, len(each)):
            raise ValueError(
                f"The last axis of `y_pred` must have one number for each of the {len(each)} quantiles. "
                f"Received: shape={tuple(y_pred.shape)}."
            )
        if y_true.shape.rank == y_pred.shape.rank - 1:
            y_true = tf.expand_dims(y_true, -1)
    error, dtype = _error(y_true, y_pred)
    q = tf.constant(each if len(each) > 1 else each[0], error.dtype)
    return dismiss(mean_of_last_axis(q * error + tf.nn.relu(-error)), dtype)


class RootMeanSquaredError(FunctionLoss, function=root_mean_squared_error):
    """Root of the mean squared error of each sample as a loss class; see `root_mean_squared_error`."""


class Quantile(FunctionLoss, function=quantile):
    """Pinball loss as a class; see `quantile`."""


def _error(y_true: TensorLike, y_pred: TensorLike) -> tuple[tf.Tensor, tf.DType]:
    """Gives `y_true - y_pred`, cut to a size of which a mean can be taken, and the dtype of the predictions."""
    y_pred = to_float(y_pred)
    p = widen(y_pred)
    t, p = same_rank(like(y_true, p), p)
    return _kept(t - p), y_pred.dtype


def _kept(error: tf.Tensor) -> tf.Tensor:
    """Gives an error cut to a size whose sums stay finite, with the gradient straight through."""
    limit = format_of(error).max / 2**20

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def kept(error: tf.Tensor) -> tuple[tf.Tensor, object]:
        return bounded(error, limit), lambda upstream: upstream

    return kept(error)
