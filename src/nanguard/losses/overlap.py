"""Losses of how little two sets overlap, each given by its members' shares."""

from __future__ import annotations

import keras
import tensorflow as tf

from nanguard.losses._base import FunctionLoss
from nanguard.losses._rows import Axis, row_loss, spread, summable
from nanguard.losses.binary import check_shapes
from nanguard.ops._bounds import bounded, format_of, largest_slope
from nanguard.ops._operation import TensorLike
from nanguard.ops._scaling import when_finite


@row_loss
def dice(y_true: TensorLike, y_pred: TensorLike, axis: Axis = None) -> tf.Tensor:
    """`1 - 2 * sum(y_true * y_pred) / (sum(y_true) + sum(y_pred) + epsilon)`, with `keras.config.epsilon()`.

    Where both are empty the loss is 1, as in Keras. A NaN makes the loss NaN.

    Args:
        y_true: Shares in `[0, 1]`, any shape.
        y_pred: Shares in `[0, 1]`, shaped alike.
        axis: What the sums are taken over. Defaults to all axes, which gives one number for the whole batch.

    Returns:
        Tensor of the shape without `axis` and the dtype of `y_pred`; finite where both are.

    Raises:
        ValueError: If the shapes differ.

    Example:

    >>> np.round(dice([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], [[0.5, 1.0, 0.5], [0.0, 0.0, 0.0]], axis=1), 4)
    array([0.25, 1.  ], dtype=float32)

    Cures:
        NG105 division-by-zero, NG308 division-gradient-at-zero

    References:
        Milletari et al., *V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation*,
        3DV 2016.
    """
    return _unshared(y_true, y_pred, axis, 0.5, 0.5, keras.config.epsilon() / 2)


@row_loss
def tversky(
    y_true: TensorLike, y_pred: TensorLike, alpha: float = 0.5, beta: float = 0.5, axis: Axis = None
) -> tf.Tensor:
    """`1 - both / (both + alpha * missed + beta * wrong + epsilon)`, with `keras.config.epsilon()`.

    Here `both` is `sum(y_true * y_pred)`, `missed` is `sum(y_true * (1 - y_pred))` and `wrong` is
    `sum((1 - y_true) * y_pred)`. With one half for `alpha` and `beta` this is `dice`. Where both are empty the loss is
    1, as in Keras. A NaN makes the loss NaN.

    Args:
        y_true: Shares in `[0, 1]`, any shape.
        y_pred: Shares in `[0, 1]`, shaped alike.
        alpha: Weight of what is missed. Defaults to one half. Keras says it the other way round, and computes this.
        beta: Weight of what is wrongly there. Defaults to one half.
        axis: What the sums are taken over. Defaults to all axes, which gives one number for the whole batch.

    Returns:
        Tensor of the shape without `axis` and the dtype of `y_pred`; finite where both are.

    Raises:
        ValueError: If the shapes differ.

    Example:

    >>> np.round(tversky([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], [[0.5, 1.0, 0.5], [0.0, 0.0, 0.0]], axis=1), 4)
    array([0.25, 1.  ], dtype=float32)

    Cures:
        NG105 division-by-zero, NG308 division-gradient-at-zero

    References:
        Salehi et al., *Tversky Loss Function for Image Segmentation Using 3D Fully Convolutional Deep Networks*,
        MLMI 2017.
    """
    return _unshared(y_true, y_pred, axis, alpha, beta, keras.config.epsilon())


def _unshared(
    y_true: tf.Tensor, y_pred: tf.Tensor, axis: Axis, on_true: float, on_pred: float, epsilon: float
) -> tf.Tensor:
    """Gives `1 - both / (both + on_true * missed + on_pred * wrong + epsilon)`."""
    check_shapes(y_true, y_pred)
    axis = axis if axis is None or isinstance(axis, int) else list(axis)
    on_both = 1 - on_true - on_pred

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def unshared(target: tf.Tensor, prediction: tf.Tensor) -> tuple[tf.Tensor, object]:
        limits, steepest = format_of(target), largest_slope(target)
        both = _finite_sum(target * prediction, axis)
        size = on_true * _finite_sum(target, axis) + on_pred * _finite_sum(prediction, axis) + epsilon
        size = bounded(size + on_both * both if on_both else size, limits.max)
        # Nothing in [0, 1] has so small a size; what lies outside may have any.
        size = tf.where(tf.abs(size) < tf.constant(epsilon, size.dtype), tf.constant(epsilon, size.dtype), size)
        share = bounded(both / size, limits.max)

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # Shares in [0, 1] come near none of these bounds, which keep the square of the slope finite for others.
            by_both = bounded((on_both * share - 1) / size, steepest ** (2 / 3) / 2) * upstream
            by_size = bounded(share / size, steepest ** (2 / 3) / 2) * upstream

            def slope(other: tf.Tensor, weight: float) -> tf.Tensor:
                other = bounded(other, steepest ** (1 / 3))
                return other * spread(by_both, other, axis) + spread(weight * by_size, other, axis)

            return slope(prediction, on_true), slope(target, on_pred)

        return bounded(1 - share, limits.max), backward

    return unshared(y_true, y_pred)


def _finite_sum(x: tf.Tensor, axis: Axis) -> tf.Tensor:
    return when_finite(tf.reduce_sum(x, axis), lambda: tf.reduce_sum(summable(x, axis), axis))


class Dice(FunctionLoss, function=dice, order=("reduction", "name", "axis", "dtype")):
    """`dice` as a class, with the reductions of `Loss`."""


class Tversky(FunctionLoss, function=tversky, order=("alpha", "beta", "reduction", "name", "axis", "dtype")):
    """`tversky` as a class, with the reductions of `Loss`."""
