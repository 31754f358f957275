"""Losses of a distribution over classes, with a target for each class."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import tensorflow as tf

from nanguard.losses._base import FunctionLoss
from nanguard.losses._logits import classes_last, logits_of
from nanguard.losses._rows import nearest_to_zero, row_loss, sum_over, summable, where_nan
from nanguard.losses.binary import check_gamma, check_shapes, power, power_slope
from nanguard.ops._bounds import bounded, clamp, format_of, largest_slope
from nanguard.ops._operation import TensorLike

Parts = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
"""Takes targets, probabilities and their logarithms; gives the values' slopes by target and by logarithm."""


@row_loss
def categorical_crossentropy(
    y_true: TensorLike,
    y_pred: TensorLike,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> tf.Tensor:
    """Sum over the classes of `-t * log(p)`, with a slope that neither vanishes nor explodes.

    From logits, and from a prediction that a softmax made and so still knows its logits, this is
    `tf.nn.softmax_cross_entropy_with_logits`. Bare probabilities are divided by their sum, as in Keras, and a row in
    which all are 0 is left as it is. Their value is exact, but that in float32 each counts as 1.1e-19 at least. The
    slope `-t / p` is read no nearer to 0 than `keras.config.epsilon()`: a saturated wrong prediction has a slope of ten
    million, where Keras's own has 0 and learns no more.

    A NaN in a row makes its loss NaN.

    Args:
        y_true: Targets for each class, such as one-hot rows, shape (..., classes).
        y_pred: Probabilities or logits, shape (..., classes). A negative probability counts as 0.
        from_logits: Whether `y_pred` holds logits. Defaults to False.
        label_smoothing: How far the targets are drawn towards an equal share of each class, in `[0, 1]`. Defaults to 0.
        axis: Axis of the classes. Defaults to the last.

    Returns:
        Tensor of shape (...) and the dtype of `y_pred`; finite where both are.

    Raises:
        ValueError: If the shapes differ.

    Example:

    >>> np.round(categorical_crossentropy([[0, 1, 0], [0, 0, 1]], [[0.25, 0.5, 0.25], [1.0, 0.0, 0.0]]), 4)
    array([ 0.6931, 43.6683], dtype=float32)

    Cures:
        NG101 log-of-nonpositive, NG307 log-gradient-at-zero, NG204 zero-times-infinity
    """
    target, y_pred, from_logits = _classes(y_true, y_pred, from_logits, label_smoothing, axis)
    if from_logits:
        return _fused(target, y_pred)
    return sum_over(-1, _from_probabilities(lambda t, p, log_p: (-log_p, -t)), target, y_pred)


@row_loss
def categorical_focal_crossentropy(
    y_true: TensorLike,
    y_pred: TensorLike,
    alpha: float | Sequence[float] = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> tf.Tensor:
    """Categorical crossentropy that counts little where the prediction is nearly right.

    Sums `-alpha * t * (1 - p)**gamma * log(p)` over the classes. Slopes are as in `categorical_crossentropy`, that of
    `(1 - p)**gamma` at 1 included, which is infinite for `gamma < 1`. Where logits are known `log(p)` is made of them.

    A NaN in a row makes its loss NaN.

    Args:
        y_true: Targets for each class in `[0, 1]`, shape (..., classes). Others count as the nearer end.
        y_pred: Probabilities or logits, shape (..., classes). A negative probability counts as 0.
        alpha: Weight of all classes, or of each. Defaults to 0.25, as in the paper.
        gamma: How little what is nearly right counts, `>= 0`; 0 gives the crossentropy. Defaults to 2, as in the paper.
        from_logits: Whether `y_pred` holds logits. Defaults to False.
        label_smoothing: How far the targets are drawn towards an equal share of each class, in `[0, 1]`. Defaults to 0.
        axis: Axis of the classes. Defaults to the last.

    Returns:
        Tensor of shape (...) and the dtype of `y_pred`; finite where both are.

    Raises:
        ValueError: If the shapes differ or `gamma` is negative.

    Example:

    >>> np.round(categorical_focal_crossentropy([[0, 1, 0], [0, 0, 1]], [[0.25, 0.5, 0.25], [1.0, 0.0, 0.0]]), 4)
    array([ 0.0433, 10.9171], dtype=float32)

    Cures:
        NG101 log-of-nonpositive, NG302 pow-gradient-at-zero

    References:
        Lin et al., *Focal Loss for Dense Object Detection*, ICCV 2017.
    """
    check_gamma(gamma)
    target, y_pred, from_logits = _classes(y_true, y_pred, from_logits, label_smoothing, axis)
    weight = tf.convert_to_tensor(alpha, y_pred.dtype)

    def parts(t: tf.Tensor, p: tf.Tensor, log_p: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rest = tf.nn.relu(1 - p)  # Rounding leaves some p a little above 1.
        factor = power(rest, gamma)
        return -weight * factor * log_p, weight * t * (power_slope(rest, gamma) * p * log_p - factor)

    target = clamp(target, 0, 1)
    elements = _from_log_softmax(parts) if from_logits else _from_probabilities(parts)
    return sum_over(-1, elements, target, y_pred)


def _classes(
    y_true: tf.Tensor, y_pred: tf.Tensor, from_logits: bool, label_smoothing: float, axis: int
) -> tuple[tf.Tensor, tf.Tensor, bool]:
    check_shapes(y_true, y_pred)
    y_pred, from_logits = logits_of(y_pred, from_logits, "Softmax")
    y_true, y_pred = classes_last(y_true, axis), classes_last(y_pred, axis)
    if y_pred.shape[-1] == 1:
        warnings.warn(
            f"One class alone is always right. Received: y_pred.shape={tuple(y_pred.shape)}. For yes or no use "
            "`binary_crossentropy`.",
            SyntaxWarning,
            stacklevel=4,
        )
    if label_smoothing:
        share = label_smoothing / tf.cast(tf.shape(y_true)[-1], y_true.dtype)
        y_true = y_true * (1.0 - label_smoothing) + share
    return y_true, y_pred, from_logits


def _fused(target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Gives the crossentropy by TensorFlow's own kernel, kept from what it makes NaN or too steep."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def crossentropy(target: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, object]:
        limit, steepest = format_of(logits).max, largest_slope(logits)
        rows = [-1, logits.shape[-1] or tf.shape(logits)[-1]]
        loss, slope = tf.raw_ops.SoftmaxCrossEntropyWithLogits(
            features=tf.reshape(logits, rows), labels=tf.reshape(target, rows)
        )
        # XLA's kernel leaves out a class whose target is 0, and so a NaN where all targets are.
        loss = tf.where(tf.math.is_nan(slope[:, 0]), slope[:, 0], loss)
        loss = tf.reshape(loss, tf.shape(logits)[:-1])
        loss.set_shape(logits.shape[:-1])

        def log_share() -> tf.Tensor:
            return tf.nn.log_softmax(bounded(logits, limit / 2))

        def without_infinities() -> tf.Tensor:
            # The kernel takes the largest logit of a row from each, and 0 times an infinite difference is NaN.
            return tf.reduce_sum(summable(-target * log_share()), -1)

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            upstream = tf.expand_dims(upstream, -1)
            steep = bounded(slope, steepest)
            return (
                bounded(-log_share(), steepest) * upstream,
                tf.reshape(steep, tf.shape(logits)) * upstream,
            )

        return bounded(where_nan(loss, without_infinities), limit), backward

    return crossentropy(target, logits)


def _from_probabilities(parts: Parts) -> Callable[..., tuple[object, ...]]:
    def elements(target: tf.Tensor, x: tf.Tensor) -> tuple[object, ...]:
        # No target is so large; up to here the slope at epsilon has a finite square.
        low = nearest_to_zero(x)
        target = bounded(target, largest_slope(x) * low / 4)
        p, total, least = normalized(x)
        log_p = tf.math.log(tf.maximum(p, tf.constant(format_of(x).floor, x.dtype)))
        by_target, by_log = parts(target, p, log_p)

        def slope(upstream: tf.Tensor) -> tf.Tensor:
            mean = tf.reduce_sum(by_log, -1, keepdims=True) / tf.maximum(total, tf.constant(low, x.dtype))
            return (by_log / tf.maximum(x, least) - mean) * upstream

        return target * by_target, lambda upstream: by_target * upstream, slope

    return elements


def _from_log_softmax(parts: Parts) -> Callable[..., tuple[object, ...]]:
    def elements(target: tf.Tensor, x: tf.Tensor) -> tuple[object, ...]:
        # So that log_p has room for a factor: TensorFlow multiplies a chain of them in the order it likes.
        x = bounded(x, format_of(x).max / 2**10)
        log_p, p = tf.nn.log_softmax(x), tf.nn.softmax(x)
        by_target, by_log = parts(target, p, log_p)

        def slope(upstream: tf.Tensor) -> tf.Tensor:
            return (by_log - p * tf.reduce_sum(by_log, -1, keepdims=True)) * upstream

        return target * by_target, lambda upstream: bounded(by_target, largest_slope(x)) * upstream, slope

    return elements


def normalized(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Gives probabilities over their sum, the sum, and the least probability at which a slope is read.

    A row in which nothing is above 0 stays as it is.
    """
    positive = tf.nn.relu(x)
    total = tf.reduce_sum(positive, -1, keepdims=True)
    total = tf.where(total < tf.constant(format_of(x).floor, x.dtype), tf.ones_like(total), total)
    return positive / total, total, nearest_to_zero(x) * tf.maximum(total, tf.ones([], x.dtype))


class CategoricalCrossentropy(FunctionLoss, function=categorical_crossentropy):
    """`categorical_crossentropy` as a class, with the reductions of `Loss`."""


class CategoricalFocalCrossentropy(FunctionLoss, function=categorical_focal_crossentropy):
    """`categorical_focal_crossentropy` as a class, with the reductions of `Loss`."""
