"""Entropy of probabilities or logits, and divergences between them, finite where a probability is 0 or 1 or beyond."""

from __future__ import annotations

import tensorflow as tf

from nanguard.hazards import (
    LOG_GRADIENT_AT_ZERO,
    LOG_OF_NEGATIVE,
    LOG_OF_NONPOSITIVE,
    LOG_OF_SATURATED_PROBABILITY,
)
from nanguard.ops._bounds import ClampGradient, check_choice, clamp, format_of, largest_slope
from nanguard.ops._divergence import divergence, log_of_ratio, not_negative
from nanguard.ops._operation import TensorLike, cures
from nanguard.ops.softmax import log_softmax

_GRADIENTS = ("zero", "straight_through")


@cures(LOG_OF_NONPOSITIVE, LOG_OF_NEGATIVE, LOG_GRADIENT_AT_ZERO, kind="reduction")
def entropy(p: TensorLike, axis: int = -1, *, from_logits: bool = False) -> tf.Tensor:
    """Shannon entropy of probabilities or of logits, in nats.

    Computes `-sum(p * log(p))`, where an entry that is 0 adds 0 and has the slope `-log(floor)`, 43.7 in float32: a
    class that nothing speaks for can come back. Entries beyond `[0, 1]` count as its
    ends. From logits, `p` is their softmax, and
    nothing is lost where it rounds to 0 or 1.

    A NaN in `p` makes its entropy NaN.

    Args:
        p: Floating tensor of probabilities that sum to 1 along `axis`, or of logits. They are not normalised here.
        axis: The axis of the classes. Defaults to the last.
        from_logits: Whether `p` holds logits. Prefer them where you have them.

    Returns:
        Tensor without `axis`; finite for finite `p`.

    Example:

    >>> entropy([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).numpy()
    array([0.6931472, 0.       ], dtype=float32)

    Cures:
        NG101 log-of-nonpositive, NG102 log-of-negative, NG307 log-gradient-at-zero
    """

    def of_probabilities(p: tf.Tensor) -> tf.Tensor:
        p = _unit_interval(p)
        # Not -sum: minus the sum of zeros would be -0.
        return tf.reduce_sum(p * -tf.math.log(clamp(p, low=format_of(p).floor)), axis, keepdims=True)

    def of_logits(z: tf.Tensor) -> tf.Tensor:
        logs = _log_probabilities(z, axis)
        return tf.reduce_sum(tf.exp(logs) * -logs, axis, keepdims=True)

    return tf.squeeze(divergence(of_logits if from_logits else of_probabilities, p), axis)


@cures(
    LOG_OF_NONPOSITIVE,
    LOG_OF_SATURATED_PROBABILITY,
    LOG_GRADIENT_AT_ZERO,
    replaces=("keras.losses.kl_divergence",),
    kind="reduction",
    operands=2,
    aliases={"y_true": "p", "y_pred": "q"},
)
def kl_categorical(
    p: TensorLike, q: TensorLike, axis: int = -1, *, from_logits: bool = False, gradient: ClampGradient = "zero"
) -> tf.Tensor:
    """Kullback-Leibler divergence between categorical distributions, `sum(p * log(p / q))`.

    Computes it with both read at the dtype's floor at least, 1.1e-19 in float32, so that an entry with `p = 0` adds 0,
    and one with `q = 0` adds `43.7 * p`. Entries beyond `[0, 1]` count as its ends. The slope for `q` is `-p / q`,
    bounded. From logits, nothing is clamped short of 9.2e18, and a saturated mistake keeps its full gradient.

    A NaN in either makes the divergence NaN.

    Args:
        p: Floating tensor of probabilities along `axis`, or of logits: the distribution that is true.
        q: Floating tensor, broadcast with `p`: the one that is measured.
        axis: The axis of the classes. Defaults to the last.
        from_logits: Whether both hold logits. Prefer them where you have them.
        gradient: What a probability `q` below the floor learns: "zero", or "straight_through" for `-p / floor`. Zero is
            the default, as in `log`. Logits are always taught.

    Returns:
        Tensor without `axis`; finite for finite operands.

    Example:

    >>> kl_categorical([1.0, 0.0], [0.5, 0.5]).numpy()
    np.float32(0.6931472)
    >>> kl_categorical([1.0, 0.0], [0.0, 1.0]).numpy()
    np.float32(43.668274)

    Cures:
        NG101 log-of-nonpositive, NG103 log-of-saturated-probability, NG307 log-gradient-at-zero

    References:
        Kullback, Leibler, *On Information and Sufficiency*, Annals of Mathematical Statistics 22, 1951.
    """
    check_choice("gradient", gradient, _GRADIENTS)

    def of_probabilities(p: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(_relative_entropy(p, q, gradient), axis, keepdims=True)

    def of_logits(p: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
        logs = _log_probabilities(p, axis)
        value = tf.reduce_sum(tf.exp(logs) * (logs - _log_probabilities(q, axis)), axis, keepdims=True)
        return not_negative(value)

    return tf.squeeze(divergence(of_logits if from_logits else of_probabilities, p, q), axis)


@cures(LOG_OF_NONPOSITIVE, LOG_OF_SATURATED_PROBABILITY, LOG_GRADIENT_AT_ZERO, kind="other", operands=2)
def kl_bernoulli(
    p: TensorLike, q: TensorLike, *, from_logits: bool = False, gradient: ClampGradient = "zero"
) -> tf.Tensor:
    """Kullback-Leibler divergence between Bernoulli distributions, element by element.

    Computes `p * log(p / q) + (1 - p) * log((1 - p) / (1 - q))` with logarithms of at least the dtype's floor, and
    probabilities beyond `[0, 1]` counting as its ends. The slopes are bounded. From logits, nothing is clamped short
    of 9.2e18, and a saturated mistake keeps its full gradient.

    A NaN in either comes out as NaN.

    Args:
        p: Floating tensor of probabilities, or of logits: the distribution that is true.
        q: Floating tensor, broadcast with `p`: the one that is measured.
        from_logits: Whether both hold logits. Prefer them where you have them.
        gradient: What a logarithm below the floor teaches `q`: "zero", the default as in `log`, or
            "straight_through". Logits are always taught.

    Returns:
        Tensor of the broadcast shape; finite for finite operands.

    Example:

    >>> kl_bernoulli([0.5, 1.0], [0.5, 0.5]).numpy()
    array([0.       , 0.6931472], dtype=float32)

    Cures:
        NG101 log-of-nonpositive, NG103 log-of-saturated-probability, NG307 log-gradient-at-zero
    """
    check_choice("gradient", gradient, _GRADIENTS)

    def of_probabilities(p: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
        p, q, floor = _unit_interval(p), _unit_interval(q), format_of(p).floor
        rest, other_rest = 1 - p, 1 - q
        of_zeros = log_of_ratio(clamp(rest, low=floor), clamp(other_rest, low=floor, gradient=gradient), q - p)
        return not_negative(_relative_entropy(p, q, gradient) + rest * of_zeros)

    def of_logits(p: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
        p, q = (clamp(x, -largest_slope(x), largest_slope(x), gradient="straight_through") for x in (p, q))
        log_p, log_1_minus_p = tf.math.log_sigmoid(p), tf.math.log_sigmoid(-p)
        of_ones = tf.exp(log_p) * (log_p - tf.math.log_sigmoid(q))
        return not_negative(of_ones + tf.exp(log_1_minus_p) * (log_1_minus_p - tf.math.log_sigmoid(-q)))

    return divergence(of_logits if from_logits else of_probabilities, p, q, keep_numbers=True)


def _log_probabilities(logits: tf.Tensor, axis: int) -> tf.Tensor:
    # So far from the largest number that a sum over the classes is finite, and what it teaches too.
    return clamp(log_softmax(logits, axis), low=-largest_slope(logits), gradient="straight_through")


def _relative_entropy(p: tf.Tensor, q: tf.Tensor, gradient: ClampGradient) -> tf.Tensor:
    """Gives `p * log(p / q)`."""
    p, q, floor = _unit_interval(p), _unit_interval(q), format_of(p).floor
    # Not a difference of logarithms: of two of 20 that are nearly the same, five digits are left.
    return p * tf.math.log(clamp(p, low=floor) / clamp(q, low=floor, gradient=gradient))


def _unit_interval(p: tf.Tensor) -> tf.Tensor:
    return clamp(p, 0.0, 1.0, gradient="straight_through")
