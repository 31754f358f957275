"""Where a loss of probabilities finds logits instead, and how it lays out their classes."""

from __future__ import annotations

import warnings

import tensorflow as tf

from nanguard.backend.predictions import logits_behind


def logits_of(y_pred: tf.Tensor, from_logits: bool, activation: str) -> tuple[tf.Tensor, bool]:
    """Gives a prediction, as logits if they are known, and whether it is logits."""
    logits = logits_behind(y_pred, activation)
    if logits is None:
        return y_pred, from_logits
    if from_logits:
        warnings.warn(
            f"`from_logits=True`, but `y_pred` is made by a {activation.lower()}. Its logits are used. To have no "
            "warning, leave `from_logits` out, or the activation.",
            stacklevel=4,
        )
    return logits, True


def classes_last(x: tf.Tensor, axis: int) -> tf.Tensor:
    """Gives a tensor with one of its axes moved to the end.

    Raises:
        ValueError: If there is no such axis.
    """
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise ValueError(f"`axis` must be a whole number. Received: axis={axis!r}.")
    rank = x.shape.rank
    if axis == -1 or (rank is not None and axis == rank - 1):
        return x
    if rank is None or not -rank <= axis < rank:
        raise ValueError(f"`axis` must be an axis of `y_pred`. Received: axis={axis}, shape={x.shape}.")
    axis %= rank
    return tf.transpose(x, [*range(axis), *range(axis + 1, rank), axis])
