"""Losses of predictions between 0 and 1, each with a yes-or-no target."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from nanguard.backend.losses import is_compiled_by_xla
from nanguard.losses._base import FunctionLoss
from nanguard.losses._logits import logits_of
from nanguard.losses._rows import (
    Axis,
    mean_over,
    nearest_to_one,
    nearest_to_zero,
    row_loss,
)
from nanguard.ops._bounds import bounded, clamp, clipped, format_of, largest_slope, next_below
from nanguard.ops._operation import TensorLike


@row_loss
def binary_crossentropy(
    y_true: TensorLike,
    y_pred: TensorLike,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: Axis = -1,
) -> tf.Tensor:
    """Mean of `-(t * log(p) + (1 - t) * log(1 - p))`, with a slope that neither vanishes nor explodes.

    From logits, and from a prediction that Keras's sigmoid made and so still knows its logits, value and slope are
    exact. From a bare probability the value is exact, but that in float32 `p` and `1 - p` count as 1.1e-19 and 6e-8
    at least. The slope `(p - t) / (p * (1 - p))` is read no nearer to 0 or 1 than `keras.config.epsilon()`: a saturated
    wrong prediction has a slope of ten million, where Keras's own has 0 and learns no more.

    A NaN in a row makes its loss NaN.

    Args:
        y_true: Targets in `[0, 1]`, shape (..., n).
        y_pred: Probabilities or logits, shape (..., n). Probabilities outside `[0, 1]` count as the nearer end.
        from_logits: Whether `y_pred` holds logits. Defaults to False.
        label_smoothing: How far the targets are drawn towards one half, in `[0, 1]`. Defaults to 0.
        axis: What the mean is taken over. Defaults to the last axis.

    Returns:
        Tensor of shape (...) and the dtype of `y_pred`; finite where both are.

    Raises:
        ValueError: If the shapes differ.

    Example:

    >>> np.round(binary_crossentropy([[0.0, 1.0], [0.0, 1.0]], [[0.25, 0.75], [1.0, 1.0]]), 4)
    array([0.2877, 8.3178], dtype=float32)

    Cures:
        NG103 log-of-saturated-probability, NG307 log-gradient-at-zero
    """
    check_shapes(y_true, y_pred)
    y_true = _smooth(y_true, label_smoothing)
    y_pred, from_logits = logits_of(y_pred, from_logits, "Sigmoid")
    if from_logits:
        return mean_over(axis, _from_logits, y_true, y_pred, mixed=True)
    return mean_over(axis, _from_probabilities, y_true, y_pred)


@row_loss
def binary_focal_crossentropy(
    y_true: TensorLike,
    y_pred: TensorLike,
    apply_class_balancing: bool = False,
    alpha: float = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: Axis = -1,
) -> tf.Tensor:
    """Binary crossentropy that counts little where the prediction is nearly right.

    Each element is weighed by `f**gamma` with `f = t * (1 - p) + (1 - t) * p`, which is how far the prediction is off.
    Slopes are as in `binary_crossentropy`, that of `f**gamma` at 0 included, which is infinite for `gamma < 1`.

    A NaN in a row makes its loss NaN.

    Args:
        y_true: Targets in `[0, 1]`, shape (..., n). Others count as the nearer end.
        y_pred: Probabilities or logits, shape (..., n). Probabilities outside `[0, 1]` count as the nearer end.
        apply_class_balancing: Whether to weigh class 1 by `alpha` and class 0 by `1 - alpha`. Defaults to False.
        alpha: Weight of class 1. Defaults to 0.25, as in the paper.
        gamma: How little what is nearly right counts, `>= 0`; 0 gives the crossentropy. Defaults to 2, as in the paper.
        from_logits: Whether `y_pred` holds logits. Defaults to False.
        label_smoothing: How far the targets are drawn towards one half, in `[0, 1]`. Defaults to 0.
        axis: What the mean is taken over. Defaults to the last axis.

    Returns:
        Tensor of shape (...) and the dtype of `y_pred`; finite where both are.

    Raises:
        ValueError: If the shapes differ or `gamma` is negative.

    Example:

    >>> np.round(binary_focal_crossentropy([[0.0, 1.0], [0.0, 1.0]], [[0.25, 0.75], [1.0, 1.0]]), 4)
    array([0.018 , 8.3178], dtype=float32)

    Cures:
        NG103 log-of-saturated-probability, NG302 pow-gradient-at-zero

    References:
        Lin et al., *Focal Loss for Dense Object Detection*, ICCV 2017.
    """
    check_shapes(y_true, y_pred)
    check_gamma(gamma)
    y_true = _smooth(clamp(y_true, 0, 1), label_smoothing)
    y_pred, from_logits = logits_of(y_pred, from_logits, "Sigmoid")
    scale = (2 * alpha - 1, 1 - alpha) if apply_class_balancing else (0.0, 1.0)

    def elements(target: tf.Tensor, x: tf.Tensor) -> tuple[object, ...]:
        if from_logits:
            p, rest = sigmoids(x)
            loss = _logit_loss(target, x)
        else:
            p = clipped(x, 0, 1)
            rest = 1 - p
            loss, log_odds = _probability_loss(target, p)
        too_high, too_low = (1 - target) * p, target * rest
        off = too_high + too_low
        factor, growth = power(off, gamma), power_slope(off, gamma)
        weight = scale[1] + scale[0] * target if apply_class_balancing else tf.ones([], x.dtype)

        def target_slope(upstream: tf.Tensor) -> tf.Tensor:
            towards_true = -x if from_logits else -log_odds()
            slope = weight * (growth * (rest - p) * loss + factor * towards_true)
            return bounded(slope + scale[0] * factor * loss, largest_slope(x)) * upstream

        def slope(upstream: tf.Tensor) -> tf.Tensor:
            if from_logits:
                # Where the loss is so large, p * rest is 0, which is not to meet infinity.
                near = tf.minimum(loss, tf.constant(1e4, x.dtype))
                steep = growth * (1 - 2 * target) * (p * rest) * near + factor * (too_high - too_low)
            else:
                steep = growth * (1 - 2 * target) * loss + factor * _probability_slope(target, p)
            return weight * steep * upstream

        return weight * (factor * loss), target_slope, slope

    return mean_over(axis, elements, y_true, y_pred)


def power(base: tf.Tensor, exponent: float) -> tf.Tensor:
    """Gives `base ** exponent` for a base that is not negative."""
    if exponent == 0:
        return tf.ones_like(base)
    if exponent == 1:
        return base
    return tf.square(base) if exponent == 2 else tf.pow(_above_zero(base, exponent), tf.constant(exponent, base.dtype))


def power_slope(base: tf.Tensor, exponent: float) -> tf.Tensor:
    """Gives the slope of `power`; for an exponent below 1 it is that of a number just above 0 at 0."""
    if exponent == 0:
        return tf.zeros_like(base)
    return exponent * power(_above_zero(base, exponent), exponent - 1)


def _above_zero(base: tf.Tensor, exponent: float) -> tf.Tensor:
    """Gives a base at which the power has a slope, and that slope another."""
    if exponent >= 2 or exponent in (0, 1):
        return base
    return tf.maximum(base, tf.constant(format_of(base).floor, base.dtype))


def check_shapes(y_true: tf.Tensor, y_pred: tf.Tensor) -> None:
    """Raises ValueError if it is known that two tensors differ in shape."""
    if not y_true.shape.is_compatible_with(y_pred.shape):
        raise ValueError(
            f"`y_true` and `y_pred` must have the same shape. Received: y_true.shape={tuple(y_true.shape)}, "
            f"y_pred.shape={tuple(y_pred.shape)}."
        )


def check_gamma(gamma: float) -> None:
    """Raises ValueError if the focusing parameter is negative."""
    if not gamma >= 0:
        raise ValueError(f"`gamma` must not be negative. Received: gamma={gamma}. For no focus, set it to 0.")


def _smooth(target: tf.Tensor, smoothing: float) -> tf.Tensor:
    return target * (1.0 - smoothing) + 0.5 * smoothing if smoothing else target


def _from_logits(target: tf.Tensor, x: tf.Tensor) -> tuple[object, ...]:
    limit = largest_slope(x)
    return (
        _logit_loss(target, x),
        lambda upstream: bounded(-x, limit) * upstream,
        lambda upstream: bounded(sigmoids(x)[0] - target, limit) * upstream,
    )


def _from_probabilities(target: tf.Tensor, x: tf.Tensor) -> tuple[object, ...]:
    # No target is so large; up to here the slope at epsilon has a finite square.
    target = bounded(target, largest_slope(x) * nearest_to_zero(x) / 2)
    p = clipped(x, 0, 1)
    loss, log_odds = _probability_loss(target, p)
    return (
        loss,
        lambda upstream: -log_odds() * upstream,
        lambda upstream: _probability_slope(target, p) * upstream,
    )


def _logit_loss(target: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    # Not relu(x) - x * t, two terms that nearly cancel for a target of 0.9.
    return x * (tf.cast(x > 0, x.dtype) - target) + softplus_of_minus_size(x)


def softplus_of_minus_size(x: tf.Tensor) -> tf.Tensor:
    """Gives `log(1 + exp(-|x|))`, of which TensorFlow's softplus is 7 ulp off."""
    small = tf.exp(-tf.abs(x))
    # TensorFlow's log1p is off by 3.8 ulp and XLA's by 2.5, at which XLA's is the better of the two.
    return tf.math.log1p(small) if is_compiled_by_xla() else 2 * tf.math.atanh(small / (2 + small))


def sigmoids(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Gives `sigmoid(x)` and `sigmoid(-x)`, with all digits, for one exponential; XLA's own sigmoid is slow."""
    small = tf.exp(-tf.abs(x))
    far = small / (1 + small)
    near = 1 - far  # Not 1 / (1 + small): graphs turn that into a reciprocal that is off by 2.7 ulp.
    return tf.where(x >= 0, near, far), tf.where(x >= 0, far, near)


def _probability_loss(target: tf.Tensor, p: tf.Tensor) -> tuple[tf.Tensor, Callable[[], tf.Tensor]]:
    """Gives `-(t * log(p) + (1 - t) * log(1 - p))`, and what gives `log(p / (1 - p))`, minus its slope by `t`.

    0 and 1 count as the next number inside. The logarithm of the larger of `p` and `1 - p` is taken by way of the
    smaller, which is exact.
    """
    floor, below_one = tf.constant(format_of(p).floor, p.dtype), next_below(1, p.dtype)
    if is_compiled_by_xla():
        log_p = tf.math.log(tf.maximum(p, floor))
        log_rest = tf.math.log1p(-tf.minimum(p, below_one))
        return -(target * log_p + (1 - target) * log_rest), lambda: log_p - log_rest

    # TensorFlow's log1p is off by 4.4 ulp, and its log by 3.2 near 1; XLA's are better. Neither is asked for that here.
    is_low = p < 0.5
    inside = clipped(p, floor, below_one)
    log_less = tf.math.log(tf.minimum(inside, 1 - inside))
    less = tf.minimum(p, 1 - p)
    minus_log_more = 2 * tf.math.atanh(less / (2 - less))
    of_less = tf.where(is_low, target, 1 - target)
    loss = (1 - of_less) * minus_log_more - of_less * log_less
    log_odds = log_less + minus_log_more  # of the smaller
    return loss, lambda: tf.where(is_low, log_odds, -log_odds)


def _probability_slope(target: tf.Tensor, p: tf.Tensor) -> tf.Tensor:
    inside = clipped(p, nearest_to_zero(p), nearest_to_one(p))
    return (inside - target) / (inside * (1 - inside))


class BinaryCrossentropy(FunctionLoss, function=binary_crossentropy):
    """`binary_crossentropy` as a class, with the reductions of `Loss`."""


class BinaryFocalCrossentropy(FunctionLoss, function=binary_focal_crossentropy):
    """`binary_focal_crossentropy` as a class, with the reductions of `Loss`."""
