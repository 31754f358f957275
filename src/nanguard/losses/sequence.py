"""Losses of a sequence of labels, given frames of which nobody said which belongs to which label."""

from __future__ import annotations

import math
from typing import Literal

import tensorflow as tf

from nanguard.losses._base import FunctionLoss
from nanguard.losses._rows import label_loss
from nanguard.losses.labels import refuse_labels
from nanguard.ops._bounds import check_choice, clamp, format_of
from nanguard.ops._operation import TensorLike


@label_loss
def ctc(y_true: TensorLike, y_pred: TensorLike, impossible: Literal["zero", "bound"] = "zero") -> tf.Tensor:
    """Connectionist temporal classification, where a target that cannot be reached teaches nothing.

    Each sequence gives `-log(P(labels | frames))`, summed over all ways to lay the labels along the frames. Labels need
    one frame each, and one more between two that are alike. A target that needs more frames than there are has the
    probability 0: TensorFlow gives an infinite loss, and a gradient of NaN. Here it has a finite value and the gradient
    0, whatever the logits. So has, in a graph, a target with a label that does not exist.

    A NaN in a sequence makes its loss NaN.

    Args:
        y_true: Labels from 1 to `classes - 1`, shape (batch, labels); the rest of a row is 0, which is the blank.
        y_pred: Logits, shape (batch, frames, classes).
        impossible: Value of a sequence that is impossible: "zero", or "bound" for `-log` of the floor in each of its
            frames, 44 in float32. Defaults to "zero", since nothing can be learnt from it.

    Returns:
        Tensor of shape (batch,) and the dtype of `y_pred`; finite where that is.

    Raises:
        ValueError: If the shapes do not fit, or a label does not exist (eager mode).

    Example:

    >>> np.round(ctc([[1, 2], [1, 1]], np.zeros((2, 2, 3), "float32")), 4)
    array([2.1972, 0.    ], dtype=float32)

    Cures:
        NG503 ctc-infeasible, NG707 label-out-of-range

    References:
        Graves et al., *Connectionist Temporal Classification*, ICML 2006.
    """
    check_choice("impossible", impossible, ("zero", "bound"))
    if y_true.shape.rank != 2 or y_pred.shape.rank != 3:
        raise ValueError(
            "`y_true` must have the shape (batch, labels), `y_pred` (batch, frames, classes). Received: "
            f"y_true.shape={tuple(y_true.shape)}, y_pred.shape={tuple(y_pred.shape)}."
        )
    frames, num_classes = (y_pred.shape[axis] or tf.shape(y_pred)[axis] for axis in (1, 2))
    exists = (y_true >= 0) & (y_true < tf.cast(num_classes, y_true.dtype))
    # A NaN is in no range either, and stays.
    refuse_labels(y_true, tf.logical_not(exists) & tf.equal(y_true, y_true), num_classes)
    labels = tf.cast(tf.where(exists, y_true, tf.zeros_like(y_true)), tf.int32)
    length = tf.math.count_nonzero(labels, -1, dtype=tf.int32)
    is_possible = tf.reduce_all(exists, -1) & (length + _num_repeats(labels) <= frames)
    # An impossible target becomes an empty one, which every sequence of frames can be.
    labels = tf.where(is_possible[:, None], labels, 0)
    length = tf.where(is_possible, length, 0)
    # Differences of logits stay finite in a sum over all frames.
    limit = format_of(tf.zeros([])).max ** 0.75
    logits = tf.cast(clamp(y_pred, -limit, limit, gradient="straight_through"), tf.float32)
    if not y_true.shape[0]:  # Empty, or not known: the kernel needs one row at least.
        labels, length, logits = (tf.pad(x, [[0, 1]] + [[0, 0]] * (x.shape.rank - 1)) for x in (labels, length, logits))
    loss = tf.nn.ctc_loss(
        labels=labels,
        logits=logits,
        label_length=length,
        logit_length=tf.zeros_like(length) + frames,
        blank_index=0,
        logits_time_major=False,
    )
    loss = tf.cast(loss[: tf.shape(y_true)[0]], y_pred.dtype) * tf.cast(is_possible, y_pred.dtype)
    if impossible == "bound":
        worst = -math.log(format_of(loss).floor) * tf.cast(frames, loss.dtype)
        loss = tf.where(is_possible, loss, worst)
    if y_true.dtype.is_floating:  # A NaN label is in no range, and would count as impossible.
        sums = tf.cast(tf.reduce_sum(y_true, -1), loss.dtype)
        loss = tf.where(tf.math.is_nan(sums), sums, loss)
    return loss


def _num_repeats(labels: tf.Tensor) -> tf.Tensor:
    """Gives how often a label comes right after itself, for each row."""
    is_repeat = tf.equal(labels[:, 1:], labels[:, :-1]) & tf.not_equal(labels[:, 1:], 0)
    return tf.math.count_nonzero(is_repeat, -1, dtype=tf.int32)


class CTC(FunctionLoss, function=ctc, order=("reduction", "name", "dtype", "impossible")):
    """`ctc` as a class, with the reductions of `Loss`."""
