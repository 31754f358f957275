"""Focal losses, from logits or probabilities, for any focus."""

from __future__ import annotations

import functools
import math

import keras
import tensorflow as tf

from nanguard.losses._base import FunctionLoss, same_rank
from nanguard.losses._entry import admit, admit_target, dismiss, mean_of_last_axis, registered
from nanguard.losses._logits import classes_last, logits_of
from nanguard.losses.binary import sigmoids, softplus_of_minus_size
from nanguard.losses.labels import labels_in_range
from nanguard.ops._bounds import format_of
from nanguard.ops._operation import TensorLike, to_float


@registered
def sigmoid_focal(
    y_true: TensorLike,
    y_pred: TensorLike,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    from_logits: bool = True,
) -> tf.Tensor:
    """Focal loss of independent yes-or-no predictions, for any `gamma >= 0`.

    Computes `-alpha * t * (1 - p) ** gamma * log(p) - (1 - alpha) * (1 - t) * p ** gamma * log(1 - p)`, and its mean
    over the last axis. With a soft target that is the expectation over its two labels. The slope is worked out from
    the formula, so that no power of 0 is differentiated: a fractional `gamma` is as safe as 2.

    From probabilities the slope is read no nearer to 0 or 1 than `keras.config.epsilon()`: a saturated wrong prediction
    has a large one, and not 0. Where the logits that a sigmoid made `y_pred` of are known, those are used. NaN stays
    NaN.

    Args:
        y_true: Targets in [0, 1], shape (..., classes).
        y_pred: Logits or probabilities, shape as `y_true`.
        alpha: Weight of the label 1, and `1 - alpha` that of 0. Defaults to 0.25, as in the paper; None for no weights.
        gamma: Focus, `>= 0`. Defaults to 2, as in the paper; 0 gives the cross-entropy.
        from_logits: Whether `y_pred` holds logits. Defaults to True, which is the more exact way.

    Returns:
        Tensor of shape (...).

    Raises:
        ValueError: If `gamma` is negative, or `alpha` is not in [0, 1].

    Example:

    >>> sigmoid_focal([[1.0, 0.0]], [[0.0, -200.0]], alpha=None).numpy()
    array([0.0866434], dtype=float32)

    Cures:
        NG103 log-of-saturated-probability, NG302 pow-gradient-at-zero

    References:
        Lin et al., *Focal Loss for Dense Object Detection*, ICCV 2017, eq. 5.
    """
    _check_focus(alpha, gamma)
    y_pred, are_known = logits_of(to_float(y_pred), False, "Sigmoid")
    from_logits = from_logits or are_known
    x = admit(y_pred) if from_logits else admit(y_pred, 0.0, 1.0)
    t, x = same_rank(admit_target(y_true, x), x)
    values = (_binary_of_logits if from_logits else _binary_of_probabilities)(t, x, alpha, gamma)
    return dismiss(mean_of_last_axis(values), y_pred.dtype)


@registered
def softmax_focal(
    y_true: TensorLike,
    y_pred: TensorLike,
    alpha: float | None = None,
    gamma: float = 2.0,
    from_logits: bool = True,
    axis: int = -1,
) -> tf.Tensor:
    """Focal loss of one class out of many, for any `gamma >= 0`.

    Computes `-alpha * sum(t * (1 - p) ** gamma * log(p))`, with `1 - p` taken from `log(p)` without a difference that
    rounds to 0. The slope at `p = 1` is 0 and that at `p = 0` bounded, as in `sigmoid_focal`. Probabilities are divided
    by their sum first. NaN stays NaN.

    Args:
        y_true: Targets of the shape of `y_pred`, or class numbers of a shape without the axis of classes. A number that
            is no class raises an error in eager mode; in a graph its sample counts as 0, with gradient 0.
        y_pred: Logits or probabilities, shape (..., classes).
        alpha: Weight of all classes, `>= 0`. Defaults to None, which is 1; the balance of classes is a matter of class
            or sample weights.
        gamma: Focus, `>= 0`. Defaults to 2, as in the paper; 0 gives the cross-entropy.
        from_logits: Whether `y_pred` holds logits. Defaults to True, which is the more exact way.
        axis: Axis of the classes.

    Returns:
        Tensor of the shape of `y_pred` without the axis of classes.

    Raises:
        ValueError: If `gamma` is negative, `alpha` is not in [0, 1], or, in eager mode, a label is out of range.

    Example:

    >>> softmax_focal([0, 1], [[0.0, 0.0], [200.0, 0.0]]).numpy()
    array([1.732868e-01, 2.000000e+02], dtype=float32)

    Cures:
        NG103 log-of-saturated-probability, NG302 pow-gradient-at-zero, NG707 label-out-of-range

    References:
        Lin et al., *Focal Loss for Dense Object Detection*, ICCV 2017, eq. 5.
    """
    _check_focus(alpha, gamma)
    y_pred, are_known = logits_of(to_float(y_pred), False, "Softmax")
    from_logits = from_logits or are_known
    y_true = tf.convert_to_tensor(y_true)
    if y_true.shape.rank == y_pred.shape.rank and y_true.shape[axis] == 1 and y_pred.shape[axis] != 1:
        y_true = tf.squeeze(y_true, axis=axis)
    share = None
    if y_true.shape.rank == y_pred.shape.rank - 1:
        y_pred, axis = classes_last(y_pred, axis), -1
        labels, share = labels_in_range(y_true, y_pred, None)
        if from_logits:
            log_p = -tf.nn.sparse_softmax_cross_entropy_with_logits(labels, admit(y_pred))
            values = _focal_of_log(log_p, gamma) * tf.cast(share, log_p.dtype)
            return dismiss(values if alpha is None else alpha * values, y_pred.dtype)
        y_true = tf.one_hot(labels, tf.shape(y_pred)[-1], dtype=y_pred.dtype)
    log_p = _log_softmax(y_pred, axis) if from_logits else _log_of_normalized(y_pred, axis)
    values = tf.reduce_sum(admit_target(y_true, log_p) * _focal_of_log(log_p, gamma), axis=axis)
    if share is not None:
        values *= tf.cast(share, values.dtype)
    return dismiss(values if alpha is None else alpha * values, y_pred.dtype)


class SigmoidFocal(FunctionLoss, function=sigmoid_focal):
    """Focal loss of yes-or-no predictions as a class; see `sigmoid_focal`."""


class SoftmaxFocal(FunctionLoss, function=softmax_focal):
    """Focal loss of one class out of many as a class; see `softmax_focal`."""


def _check_focus(alpha: float | None, gamma: float) -> None:
    if not gamma >= 0:
        raise ValueError(f"`gamma` must not be negative. Received: gamma={gamma}. For the cross-entropy, give 0.")
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"`alpha` must be in [0, 1]. Received: alpha={alpha}. For no weight, give None.")


def _power(p: tf.Tensor, gamma: float) -> tf.Tensor:
    """Gives `p ** gamma` for a probability, with a slope that is finite at 0."""
    if gamma % 1:
        # Not exp(gamma * log(p)): what is lost of a logarithm of 30 is lost 30 times over of its exponential.
        p = tf.maximum(p, tf.constant(format_of(p).smallest_normal, p.dtype))
    halves = 2 * gamma
    if halves > 8 or halves % 1:
        return tf.pow(p, tf.constant(gamma, p.dtype))
    # Products of the number and its root: a pass each, where a power takes fifty.
    factors = [p] * int(gamma) + [tf.sqrt(p)] * (int(halves) % 2)
    return functools.reduce(tf.multiply, factors) if factors else tf.ones_like(p)


def _binary_of_logits(t: tf.Tensor, z: tf.Tensor, alpha: float | None, gamma: float) -> tf.Tensor:
    on, off = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)

    def terms(z: tf.Tensor) -> tuple[tf.Tensor, ...]:
        common = softplus_of_minus_size(z)
        miss_on, miss_off = tf.nn.relu(-z) + common, tf.nn.relu(z) + common
        p, q = sigmoids(z)
        return p, q, miss_on, miss_off, _power(q, gamma), _power(p, gamma)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def focal(t: tf.Tensor, z: tf.Tensor) -> tuple[tf.Tensor, object]:
        made = terms(z)

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            p, q, miss_on, miss_off, weight_on, weight_off = made
            down = on * t * weight_on * (gamma * p * miss_on + q)
            up = off * (1 - t) * weight_off * (gamma * q * miss_off + p)
            return upstream * (on * weight_on * miss_on - off * weight_off * miss_off), upstream * (up - down)

        _, _, miss_on, miss_off, weight_on, weight_off = made
        return on * t * weight_on * miss_on + off * (1 - t) * weight_off * miss_off, backward

    return focal(t, z)


def _binary_of_probabilities(t: tf.Tensor, p: tf.Tensor, alpha: float | None, gamma: float) -> tf.Tensor:
    on, off = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    format = format_of(p)
    least, largest = tf.constant(format.floor, p.dtype), tf.constant(1 - format.eps / 2, p.dtype)
    margin = tf.constant(max(keras.config.epsilon(), format.eps), p.dtype)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def focal(t: tf.Tensor, p: tf.Tensor) -> tuple[tf.Tensor, object]:
        miss_on, miss_off = -tf.math.log(tf.maximum(p, least)), -tf.math.log1p(-tf.minimum(p, largest))
        weight_on, weight_off = _power(1 - p, gamma), _power(p, gamma)

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            p_read, q_read = tf.maximum(p, margin), tf.maximum(1 - p, margin)
            down = on * t * weight_on * (gamma * miss_on / q_read + 1 / p_read)
            up = off * (1 - t) * weight_off * (gamma * miss_off / p_read + 1 / q_read)
            return upstream * (on * weight_on * miss_on - off * weight_off * miss_off), upstream * (up - down)

        return on * t * weight_on * miss_on + off * (1 - t) * weight_off * miss_off, backward

    return focal(t, p)


def _focal_of_log(log_p: tf.Tensor, gamma: float) -> tf.Tensor:
    """Gives `-(1 - p) ** gamma * log(p)`."""
    floor = tf.constant(format_of(log_p).floor, log_p.dtype)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def focal(log_p: tf.Tensor) -> tuple[tf.Tensor, object]:
        q = -tf.math.expm1(log_p)
        q_read = tf.maximum(q, floor)
        weight = _power(q, gamma)

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            # -log(p) / (1 - p) is 1 at p = 1, where both are 0; the weight is 0 there, or gamma is.
            return -upstream * weight * (1 - gamma * (1 - q) * log_p / q_read)

        return -weight * log_p, backward

    return focal(log_p)


def _log_softmax(logits: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.nn.log_softmax(admit(logits), axis=axis)


def _log_of_normalized(p: tf.Tensor, axis: int) -> tf.Tensor:
    """Gives the logarithm of probabilities over their sum, with slopes read no nearer to 0 than Keras's epsilon."""
    p = admit(p, 0.0, 1.0)
    format = format_of(p)
    least = tf.constant(format.floor, p.dtype)
    margin = tf.constant(max(keras.config.epsilon(), math.ulp(0.0)), p.dtype)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def log(p: tf.Tensor) -> tuple[tf.Tensor, object]:
        return tf.math.log(tf.maximum(p, least)), lambda upstream: upstream / tf.maximum(p, margin)

    return tf.minimum(log(p / tf.maximum(tf.reduce_sum(p, axis=axis, keepdims=True), least)), 0.0)
