"""Losses that tell how far one distribution, rate or direction is from another."""

from __future__ import annotations

import keras
import tensorflow as tf

from nanguard.losses._base import FunctionLoss
from nanguard.losses._rows import mean_over, nearest_to_zero, row_loss, sum_over
from nanguard.ops._bounds import (
    bounded,
    clipped,
    format_of,
    largest_slope,
    next_above,
    pass_where_positive,
    reduce_to_shape_of,
)
from nanguard.ops._operation import TensorLike
from nanguard.ops._scaling import cut, sum_of_squares


@row_loss
def kl_divergence(y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
    """Sum over the last axis of `y_true * log(y_true / y_pred)`, where `0 * log(0)` is 0.

    The value is exact, but that a predicted 0 counts as 1.1e-19 in float32. The slope `-y_true / y_pred` is read no
    nearer to 0 than `keras.config.epsilon()`, so that a wrong prediction of 0 is pulled up. A prediction above 1 counts
    as 1, as in Keras, and has no slope. A NaN in a row makes its loss NaN.

    Args:
        y_true: Probabilities, shape (..., n). Others count as the nearer end of `[0, 1]`.
        y_pred: Probabilities, shape (..., n). Others count as the nearer end of `[0, 1]`.

    Returns:
        Tensor of shape (...) and the dtype of `y_pred`; finite where both are.

    Example:

    >>> np.round(kl_divergence([[0.5, 0.5], [1.0, 0.0]], [[0.25, 0.75], [0.0, 1.0]]), 4)
    array([ 0.1438, 43.6683], dtype=float32)

    Cures:
        NG101 log-of-nonpositive, NG105 division-by-zero, NG204 zero-times-infinity
    """

    def elements(target: tf.Tensor, prediction: tf.Tensor) -> tuple[object, ...]:
        limits = format_of(target)
        share = clipped(target, 0, 1)
        ratio = share / clipped(prediction, limits.floor, 1)
        log_ratio = tf.math.log(tf.maximum(ratio, tf.constant(limits.smallest_normal, target.dtype)))

        def slope(upstream: tf.Tensor) -> tf.Tensor:
            steep = share / tf.maximum(prediction, tf.constant(nearest_to_zero(target), target.dtype))
            return pass_where_positive(steep * -upstream, next_above(1, target.dtype) - prediction)

        return share * log_ratio, lambda upstream: (log_ratio + 1) * upstream, slope

    return sum_over(-1, elements, y_true, y_pred)


@row_loss
def poisson(y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
    """Mean over the last axis of `y_pred - y_true * log(y_pred)`: the likelihood of counts, less what no rate changes.

    A rate counts as 1.1e-19 at least, in float32, and above that the value is exact. The slope
    `(y_pred - y_true) / y_pred` is divided by no less than `keras.config.epsilon()`: a rate at or below 0 is pulled up
    where something was counted. A NaN in a row makes its loss NaN.

    Args:
        y_true: Counts, shape (..., n).
        y_pred: Rates, shape (..., n).

    Returns:
        Tensor of shape (...) and the dtype of `y_pred`; finite where both are.

    Example:

    >>> np.round(poisson([[2.0, 0.0], [2.0, 0.0]], [[1.0, 1.0], [0.0, -1.0]]), 4)
    array([ 1.    , 43.6683], dtype=float32)

    Cures:
        NG101 log-of-nonpositive, NG102 log-of-negative
    """

    def elements(count: tf.Tensor, prediction: tf.Tensor) -> tuple[object, ...]:
        rate = tf.maximum(prediction, tf.constant(format_of(count).floor, count.dtype))
        log_rate = tf.math.log(rate)

        def slope(upstream: tf.Tensor) -> tf.Tensor:
            steep = (rate - count) / tf.maximum(rate, tf.constant(nearest_to_zero(rate), rate.dtype))
            return bounded(steep, largest_slope(rate)) * upstream

        return rate - count * log_rate, lambda upstream: -log_rate * upstream, slope

    return mean_over(-1, elements, y_true, y_pred, mixed=True)


@row_loss
def cosine_similarity(y_true: TensorLike, y_pred: TensorLike, axis: int = -1) -> tf.Tensor:
    """The cosine between two vectors, negated: -1 where they point the same way.

    The value is right for vectors of any length, and 0 if one of them is 0. The slope by a vector, which goes with 1
    over its length, is read at no length below `keras.config.epsilon()`: a vector of 0 is turned towards the other. A
    NaN in a row makes its loss NaN.

    Args:
        y_true: Vectors, shape (..., n).
        y_pred: Vectors, shape (..., n).
        axis: Axis along which a vector lies. Defaults to the last.

    Returns:
        Tensor of shape (...) and the dtype of `y_pred`; finite where both are.

    Example:

    >>> np.round(cosine_similarity([[3.0, 4.0], [1e30, 0.0], [0.0, 0.0]], [[6.0, 8.0], [-1e30, 0.0], [1.0, 0.0]]), 4)
    array([-1.,  1., -0.], dtype=float32)

    Cures:
        NG202 arithmetic-overflow, NG301 sqrt-gradient-at-zero, NG105 division-by-zero
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def cosine(target: tf.Tensor, prediction: tf.Tensor) -> tuple[tf.Tensor, object]:
        largest = format_of(target).max
        (target_squares, target_scale), (squares, scale) = (sum_of_squares(x, axis) for x in (target, prediction))
        # A vector of 0 stays 0 whatever it is divided by, and the slope of the root at 0 is infinite.
        target_root, root = (tf.sqrt(tf.where(x > 0, x, tf.ones_like(x))) for x in (target_squares, squares))
        is_plain = tf.reduce_all(tf.equal(target_scale, 1)) & tf.reduce_all(tf.equal(scale, 1))
        # Cut, for TensorFlow multiplies a chain of factors in the order it likes.
        product = tf.cond(
            is_plain,
            lambda: tf.reduce_sum(target * prediction, axis, keepdims=True),
            lambda: tf.reduce_sum(cut(target * target_scale) * cut(prediction * scale), axis, keepdims=True),
        )
        value = product / target_root / root

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            upstream = tf.expand_dims(upstream, axis)
            # A unit vector is the vector times this.
            to_unit, target_to_unit = scale / root, target_scale / target_root
            steepest = tf.constant(1 / keras.config.epsilon(), target.dtype)

            def turn(other: tf.Tensor, own: tf.Tensor, other_to_unit: tf.Tensor, own_to_unit: tf.Tensor) -> tf.Tensor:
                steep = tf.minimum(own_to_unit, steepest) * upstream
                towards = bounded(other_to_unit * -steep, largest)
                along = bounded(own_to_unit * (value * steep), largest)
                return reduce_to_shape_of(other * towards + own * along, own)

            return (
                turn(prediction, target, to_unit, target_to_unit),
                turn(target, prediction, target_to_unit, to_unit),
            )

        return tf.squeeze(-value, axis), backward

    return cosine(y_true, y_pred)


class KLDivergence(FunctionLoss, function=kl_divergence):
    """`kl_divergence` as a class, with the reductions of `Loss`."""


class Poisson(FunctionLoss, function=poisson):
    """`poisson` as a class, with the reductions of `Loss`."""


class CosineSimilarity(FunctionLoss, function=cosine_similarity):
    """`cosine_similarity` as a class, with the reductions of `Loss`."""
