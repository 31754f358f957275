"""Losses of policy gradients."""

from __future__ import annotations

import tensorflow as tf

from nanguard.losses._base import FunctionLoss
from nanguard.losses._entry import dismiss, like, registered
from nanguard.losses._rows import widen
from nanguard.ops._bounds import bounded, check_positive, format_of, largest_slope
from nanguard.ops._operation import TensorLike, to_float


@registered
def ppo(y_true: TensorLike, y_pred: TensorLike, clip_ratio: float = 0.2, dual_clip: float | None = None) -> tf.Tensor:
    """PPO's clipped surrogate loss, from log-probabilities.

    Computes `-min(r * A, clip(r, 1 - clip_ratio, 1 + clip_ratio) * A)` with `r = exp(new - old)`. Where the advantage
    `A` is negative nothing clips a large `r`: there `r` is read up to the largest finite number, and its slope up to
    the largest whose square is finite, so that an action that became far too likely is still pushed down. NaN stays.

    Args:
        y_true: Shape (..., 2): the advantage, and the log-probability of the action under the policy that acted.
        y_pred: Log-probability of the action under the policy that learns, shape (...) or (..., 1).
        clip_ratio: How far the ratio may leave 1, `> 0`. Defaults to 0.2, as in the paper.
        dual_clip: For negative advantages the loss is bounded by `dual_clip * |A|`, `> 1`. Defaults to None, no bound;
            its source has 3.

    Returns:
        Tensor of shape (...).

    Raises:
        ValueError: If `clip_ratio` is not positive, or `dual_clip` not above 1.

    Example:

    >>> ppo([[1.0, -0.5], [-1.0, -200.0]], [-0.5, 0.0]).numpy()
    array([-1.0000000e+00,  3.4027985e+38], dtype=float32)

    Cures:
        NG201 exp-overflow

    References:
        Schulman et al., *Proximal Policy Optimization Algorithms*, 2017, arXiv:1707.06347, eq. 7.
        Ye et al., *Mastering Complex Control in MOBA Games with Deep Reinforcement Learning*, AAAI 2020, eq. 5.
    """
    check_positive("clip_ratio", clip_ratio, "0.2")
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"`dual_clip` must be above 1. Received: dual_clip={dual_clip}. For no bound, leave it out.")
    y_pred = to_float(y_pred)
    new = widen(y_pred)
    advantage, old = tf.unstack(like(y_true, new), num=2, axis=-1)
    if new.shape.rank is not None and new.shape.rank == advantage.shape.rank + 1:
        new = tf.squeeze(new, axis=-1)
    return dismiss(_surrogate(advantage, old, new, clip_ratio, dual_clip), y_pred.dtype)


class PPO(FunctionLoss, function=ppo):
    """PPO's clipped surrogate loss as a class; see `ppo`."""


def _surrogate(
    advantage: tf.Tensor, old: tf.Tensor, new: tf.Tensor, clip_ratio: float, dual_clip: float | None
) -> tf.Tensor:
    format = format_of(new)
    limit, steepest = tf.constant(format.exp_limit, new.dtype), largest_slope(new)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def surrogate(advantage: tf.Tensor, old: tf.Tensor, new: tf.Tensor) -> tuple[tf.Tensor, object]:
        ratio = tf.exp(tf.minimum(new - old, limit))
        low, high = tf.constant(1 - clip_ratio, new.dtype), tf.constant(1 + clip_ratio, new.dtype)
        # The ratio that counts: where it is good to move, no more than so far; where it is bad, no less.
        top = tf.where(advantage >= 0, high, tf.constant(dual_clip or format.max, new.dtype))
        bottom = tf.where(advantage >= 0, tf.constant(0.0, new.dtype), low)
        read = tf.maximum(tf.minimum(ratio, top), bottom)

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            slope = bounded(-advantage * tf.minimum(ratio, tf.constant(steepest, new.dtype)), steepest)
            slope = upstream * tf.where(tf.equal(read, ratio), slope, tf.zeros_like(slope))
            return -upstream * bounded(read, steepest), -slope, slope

        return -advantage * read, backward

    return surrogate(advantage, old, new)
